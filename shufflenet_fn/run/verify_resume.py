"""Verify that a run that is killed and resumed ends with the same bytes as an uninterrupted run.

The drill uses real processes, real checkpoints and a real SIGKILL, so its result holds for long runs on the
same machine.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from shufflenet_fn.checkpoint.describe import Comparison, compare
from shufflenet_fn.checkpoint.format import checkpoint_name
from shufflenet_fn.checkpoint.inventory import LATEST, checkpoints_of, pointed_to
from shufflenet_fn.checkpoint.read import read_checkpoint
from shufflenet_fn.data.demo import write_demo
from shufflenet_fn.distributed.worker import StopSignals
from shufflenet_fn_backends.support.errors import DeviceError, UsageError, UserError

_POLL_S = 0.005
_BATCH = 8
_REFUSALS: Final = {kind.exit_code: kind for kind in (UsageError, DeviceError)}


class Verification(NamedTuple):
    """Result of the drill.

    ``saved``: step of the checkpoint that the run resumed from, in the middle of an epoch. ``steps``: total
    updates. ``seconds``: duration of the drill. ``comparison``: comparison of the last checkpoints.
    """

    saved: int
    steps: int
    seconds: float
    comparison: Comparison

    @property
    def identical(self) -> bool:
        return self.comparison.identical


def verify_resume(
    command: Sequence[str],
    options: Sequence[str],
    *,
    devices: int,
    steps: int,
    timeout_s: float,
    say: Callable[[str], None],
) -> Verification:
    """Train ``steps`` updates without interruption, again with a SIGKILL, and compare the results.

    Everything is written to a temporary folder that is removed, also where one of ``STOP_SIGNALS`` ends
    this process, with exit code 128 + its number.

    Args:
        command: the command that starts ``shufflenet-fn``.
        options: options of ``train``, besides those of the drill.
        devices: number of devices.
        steps: number of updates, at least 8.
        timeout_s: time limit of each of the three starts.
        say: called with a description of the next stage.

    Raises:
        UsageError, DeviceError: too few steps, or options that ``train`` refuses.
        UserError: a start failed, or the run was over before it could be killed.
    """
    if steps < 8:
        raise UsageError(f"--steps {steps} is too few to be cut in the middle: give at least 8.")
    began = time.monotonic()
    # Two epochs, and a checkpoint in the middle of the first.
    per_epoch, saved = -(-steps // 2), max(2, steps // 6)
    batch = _BATCH * devices
    with (
        StopSignals(first=_leave, again=_ignore),
        tempfile.TemporaryDirectory(prefix="shufflenet-fn-verify-resume-") as name,
    ):
        folder = Path(name)
        per_class = -(-per_epoch * batch // 10)
        data = write_demo(folder / "data", train_per_class=per_class, val_per_class=1)
        train = [
            *command,
            *("train", "--data", str(data), "--arch", "x0_5", "--image-size", "64"),
            *("--batch-size", str(batch), "--devices", str(devices), "--epochs", "99"),
            *("--eval-freq", "99", "--checkpoint-freq", str(saved), "--keep", "99"),
            *options,
        ]
        limit = ("--max-steps", str(steps))
        say(f"training {steps} updates at a stretch")
        _run([*train, *limit, "--run-dir", str(folder / "whole")], folder, timeout_s, refused=True)
        say(f"training again, to be killed once the checkpoint of step {saved} is there")
        cut = folder / "cut"
        latest = checkpoints_of(cut) / f"{LATEST}.json"
        _run([*train, *limit, "--run-dir", str(cut)], folder, timeout_s, until=latest)
        left = pointed_to(checkpoints_of(cut), LATEST)
        if left is None or left.name == checkpoint_name(steps):
            raise UserError(f"the run was over before it could be killed. Give it more than --steps {steps}.")
        say(f"resuming what the kill left, from {left.name}")
        _run([*command, "train", "--resume", str(cut), *limit], folder, timeout_s)
        whole, resumed = (
            read_checkpoint(checkpoints_of(run) / checkpoint_name(steps)) for run in (folder / "whole", cut)
        )
        comparison = compare(whole, resumed)
    return Verification(int(left.name.rpartition("-")[2]), steps, time.monotonic() - began, comparison)


def _leave(number: int) -> NoReturn:
    # By the way of all errors: what is running is killed, and the folder removed.
    raise SystemExit(128 + number)


def _ignore(number: int) -> None:
    pass


def _run(
    command: Sequence[str],
    folder: Path,
    timeout_s: float,
    *,
    until: Path | None = None,
    refused: bool = False,
) -> None:
    """Run ``command`` to its end, or kill it once the file ``until`` exists.

    ``refused``: whether it may be refused for its options, which the user gave to the drill.
    """
    output = folder / "output.txt"
    with output.open("w+b") as file:
        # A session of its own, so that launcher and ranks can be killed together.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            deadline = time.monotonic() + timeout_s
            while process.poll() is None and not (until and until.exists()):
                if time.monotonic() > deadline:
                    what = "did not end" if until is None else "wrote no checkpoint"
                    raise UserError(f"training {what} within {timeout_s:g} s; last words: {_tail(output)}")
                time.sleep(_POLL_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if process.returncode and not (until and until.exists()):
        kind = _REFUSALS.get(process.returncode, UserError) if refused else UserError
        said = _tail(output).removeprefix("error: ")
        raise kind(f"training failed with exit code {process.returncode}: {said}")


def _tail(output: Path) -> str:
    lines = output.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "none"

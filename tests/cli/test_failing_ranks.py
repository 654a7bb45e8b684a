"""Real processes that are asked to stop, killed or stopped: they end in time and leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from drills.kills.processes import ranks_of, session

Command = Callable[..., Any]

TINY = ("--arch", "x0_5", "--image-size", 40, "--batch-size", 2, "--device", "cpu", "--epochs", 2000)


class Training:
    """``shufflenet-fn train`` as a process, in ``tmp_path`` and with temporary files of its own."""

    def __init__(self, folder: Path, *arguments: object) -> None:
        self.folder, self.run = folder, folder / "run"
        (folder / "tmp").mkdir(exist_ok=True)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "shufflenet_fn_cli.main", "train", *map(str, arguments)],
            cwd=folder,
            env={**os.environ, "TMPDIR": str(folder / "tmp")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def wait_for_steps(self, number: int = 1) -> None:
        """Until so many steps are in the log."""
        deadline = time.monotonic() + 90
        log = self.run / "metrics.jsonl"
        while not (log.exists() and log.read_text().count('"train"') >= number):
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    @property
    def ranks(self) -> list[int]:
        """The processes of the ranks in order."""
        return ranks_of(self.process.pid)

    def end(self, within: float) -> tuple[int, str]:
        """Exit code and standard error; nothing of the run may be there any more."""
        _, err = self.process.communicate(timeout=within)
        deadline = time.monotonic() + 10
        while alive := session(self.process.pid):
            assert time.monotonic() < deadline, alive
            time.sleep(0.05)
        # What torch caches there for all runs is not of this one.
        left = [path.name for path in (self.folder / "tmp").iterdir()]
        assert not [name for name in left if not name.startswith("torchinductor_")]
        assert "Traceback" not in err and "Exception ignored" not in err, err
        return self.process.returncode, err


@pytest.fixture
def start(image_folder: Path, tmp_path: Path) -> Iterator[Callable[..., Training]]:
    started: list[Training] = []

    def begin(*arguments: object) -> Training:
        started.append(Training(tmp_path, *TINY, "--data", image_folder, *arguments))
        return started[-1]

    yield begin
    for training in started:
        training.process.kill()
        training.process.communicate()


def last_step(run: Path) -> int:
    return int(json.loads((run / "checkpoints" / "latest.json").read_text())["checkpoint"][5:])


@pytest.mark.slow
def test_ranks_stop_together_and_survive_a_kill(start: Callable[..., Training], tmp_path: Path) -> None:
    training = start("--devices", 2, "--run-dir", "run", "--threads", 1)
    training.wait_for_steps()
    training.process.send_signal(signal.SIGUSR1)
    code, err = training.end(within=60)
    step = last_step(training.run)
    assert code == 75, err
    assert f"stopped by SIGUSR1 after step {step}, which is saved." in err
    assert "SIGUSR1: stopping" in err and "--resume run" in err
    assert f"after step {step}," in (training.run / "log.rank1.txt").read_text()

    # Killed once on the way, and started again. (``nox -s resume`` compares the bytes after kills.)
    arguments = ("--checkpoint-freq", 7, "--max-steps", step + 60)
    resumed = Training(tmp_path, "--resume", "run", "--max-restarts", 1, *arguments)
    lines = (training.run / "metrics.jsonl").read_text().count('"train"')
    resumed.wait_for_steps(lines + 1)
    os.kill(resumed.ranks[1], signal.SIGKILL)
    code, err = resumed.end(within=120)
    assert code == 0, err
    assert "rank 1 was killed by SIGKILL" in err and "Restart 1 of 1" in err
    assert last_step(training.run) == step + 60


def test_second_signal_ends_at_once(start: Callable[..., Training]) -> None:
    training = start("--devices", 2, "--run-dir", "run")
    training.wait_for_steps()
    os.kill(training.ranks[1], signal.SIGSTOP)  # so that the first one comes to nothing
    training.process.send_signal(signal.SIGINT)
    time.sleep(1.2)
    training.process.send_signal(signal.SIGINT)
    code, err = training.end(within=10)
    assert code == 128 + signal.SIGINT, err
    assert "SIGINT: stopping" in err and "stopped at once by SIGINT." in err


def test_killed_launcher_ends_ranks_and_frees_lock(start: Callable[..., Training], command: Command) -> None:
    training = start("--devices", 2, "--run-dir", "run", "--checkpoint-freq", 5)
    training.wait_for_steps(2)
    refused = command("train", "--resume", "run")
    assert refused.code == 1
    assert f"in use by process {training.process.pid} on " in refused.err
    training.process.kill()
    assert training.end(within=10)[0] == -signal.SIGKILL
    assert (training.run / "run.lock").exists()
    resumed = command("train", "--resume", "run", "--devices", 1, "--max-time", "1s")
    assert resumed.code == 75, resumed.err


def test_hanging_single_rank_ends_run(start: Callable[..., Training]) -> None:
    """Of several: tests/distributed/test_launch.py."""
    training = start("--devices", 1, "--run-dir", "run", "--hang-timeout", 10)
    training.wait_for_steps()
    os.kill(training.ranks[0], signal.SIGSTOP)
    code, err = training.end(within=60)
    assert code == 1
    assert "error: rank 0 at step " in err and "--hang-timeout 10" in err and "SIGSTOP" in err
    assert len([line for line in err.splitlines() if line.strip()]) == 1, err

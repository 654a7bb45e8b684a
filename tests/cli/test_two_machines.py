"""``train`` on two machines, which are network namespaces of this one with addresses of their own."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from drills.kills.network import Machines, NoNamespaces, two_machines
from drills.kills.processes import ranks_of

PORT = 29777
CLI = ("-m", "shufflenet_fn_cli.main")
TINY = (
    *("--arch", "x0_5", "--image-size", "32", "--batch-size", "2", "--epochs", "1"),
    *("--device", "cpu", "--threads", "1", "--workers", "2", "--learning-rate", "0.01"),
)
FILES = ("weights.safetensors", "state.safetensors")
LAST = "step-00000012"

End = tuple[int, str]


class Pair(NamedTuple):
    """The same command on both machines, or on one."""

    processes: list[subprocess.Popen[str]]

    def ends(self, within_s: float = 120.0) -> list[End]:
        """Exit code and standard error of each."""
        found = []
        for process in self.processes:
            _, err = process.communicate(timeout=within_s)
            found.append((process.returncode, err))
        return found


Start = Callable[..., Pair]


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    try:
        with two_machines() as made:
            yield made
    except NoNamespaces as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all runs of this file are."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
def start(machines: Machines, place: Path) -> Iterator[Start]:
    """Starts a command on both machines, or ``on`` one; arguments that differ are given as pairs."""
    started: list[subprocess.Popen[str]] = []

    def begin(
        *command: object,
        folders: Sequence[Path] = (place, place),
        on: Sequence[int] = (0, 1),
    ) -> Pair:
        pair = [
            subprocess.Popen(
                [
                    *machines.on(number),
                    *(str(a[number]) if isinstance(a, tuple) else str(a) for a in command),
                ],
                cwd=folders[number],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            for number in on
        ]
        started.extend(pair)
        return Pair(pair)

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def one_machine(image_folder: Path, place: Path) -> Path:
    """The run that all others must be equal to: two devices of one machine."""
    arguments = (*TINY, "--data", str(image_folder), "--devices", "2", "--run-dir", "one")
    done = subprocess.run(
        [sys.executable, *CLI, "train", *arguments],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return place / "one"


def check_same_end(run: Path, reference: Path) -> None:
    for file in FILES:
        a, b = (path / "checkpoints" / LAST / file for path in (run, reference))
        assert a.read_bytes() == b.read_bytes()


def records(run: Path, kind: str) -> list[dict[str, Any]]:
    """The complete lines of this kind in ``metrics.jsonl``."""
    log = run / "metrics.jsonl"
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("}\n")]
    return [record for record in found if record["kind"] == kind]


def wait_for_lines(process: subprocess.Popen[str], run: Path, kind: str, number: int) -> None:
    deadline = time.monotonic() + 120
    while len(records(run, kind)) < number:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


@pytest.mark.parametrize("spelling", ["nnodes", "original", "torchrun"])
def test_two_machines_compute_what_two_devices_of_one_do(
    spelling: str,
    start: Start,
    machines: Machines,
    image_folder: Path,
    place: Path,
    one_machine: Path,
) -> None:
    address = machines.address(0)
    train = ("train", *TINY, "--data", image_folder, "--run-dir", spelling)
    program = (sys.executable, *CLI)
    if spelling == "nnodes":
        meeting = ("--nnodes", 2, "--node-rank", (0, 1), "--rdzv-endpoint", f"{address}:{PORT}")
        pair = start(*program, *train, *meeting)
    elif spelling == "original":
        pair = start(*program, *train, "--addr", address, "--rank", (0, 1), "--world-size", 2)
    else:
        elastic = ("--nnodes", 2, "--node-rank", (0, 1), "--nproc-per-node", 1)
        meeting = ("--master-addr", address, "--master-port", PORT)
        pair = start(
            sys.executable, "-m", "torch.distributed.run", *elastic, *meeting, *CLI, *train
        )
    for code, err in pair.ends():
        assert code == 0 and "Traceback" not in err, err
    check_same_end(place / spelling, one_machine)
    # Their own names lead nowhere, or to the loopback; so gloo was told where the other is.
    for number, log in enumerate(("log.txt", "log.rank1.txt")):
        told = f"gloo between machines: cable{number} ({machines.address(number)})"
        assert told in (place / spelling / log).read_text()


@pytest.mark.slow
def test_a_killed_rank_a_machine_that_goes_and_comes_back_and_a_stop(
    start: Start, machines: Machines, image_folder: Path, place: Path
) -> None:
    command: tuple[Any, ...] = (
        *(sys.executable, *CLI, "train", *TINY, "--epochs", 500, "--data", image_folder),
        *("--nnodes", 2, "--node-rank", (0, 1), "--rdzv-endpoint", f"{machines.address(0)}:{PORT}"),
        *("--run-dir", "failing", "--checkpoint-freq", 3, "--resume", "auto", "--max-restarts", 2),
    )
    (first, second), run = start(*command).processes, place / "failing"
    wait_for_lines(first, run, "train", 1)
    (rank,) = ranks_of(second.pid)
    os.kill(rank, signal.SIGKILL)
    wait_for_lines(first, run, "start", 2)
    wait_for_lines(first, run, "checkpoint", 1)

    # They run again. Now a whole machine goes, and its command is given again there.
    killed = time.time()
    second.kill()
    assert second.wait(10) == -signal.SIGKILL
    (third,) = start(*command, on=(1,)).processes
    wait_for_lines(first, run, "start", 3)
    assert records(run, "start")[-1]["time"] - killed < 60
    assert records(run, "start")[-1]["first_step"] > 0

    # A signal to one machine stops both in good order.
    wait_for_lines(first, run, "train", len(records(run, "train")) + 1)
    third.send_signal(signal.SIGTERM)
    ends = Pair([first, third]).ends()
    step = int(json.loads((run / "checkpoints" / "latest.json").read_text())["checkpoint"][5:])
    for code, err in ends:
        assert code == 75, err
        assert f"stopped by SIGTERM after step {step}, which is saved." in err
    err = ends[0][1]
    assert re.search(r"rank 1 on machine 1 \(\S+\) was killed by SIGKILL .* Restart 1 of 2", err)
    assert re.search(r"machine 1 \(\S+\) .* Restart 2 of 2", err)


@pytest.mark.parametrize(
    ("differing", "words"),
    [
        (
            "settings",
            r"machine 1 \(\S+\) was given other settings than machine 0 .*seed is 2, and 1 on machine 0",
        ),
        ("data", r"machine 1 \(\S+\) has other data than machine 0 \(\S+\): training files differ"),
        (
            "folder",
            r"run directory unlike-folder is another folder on machine 1 .* that all machines share",
        ),
    ],
    ids=["settings", "data", "folder"],
)
def test_machines_that_were_not_given_the_same(
    differing: str,
    words: str,
    start: Start,
    machines: Machines,
    image_folder: Path,
    place: Path,
    tmp_path: Path,
) -> None:
    renamed = tmp_path / "renamed"
    shutil.copytree(image_folder, renamed)
    (renamed / "train" / "red" / "00.jpg").rename(renamed / "train" / "red" / "99.jpg")
    pair = start(
        *(sys.executable, *CLI, "train", *TINY, "--run-dir", f"unlike-{differing}"),
        *("--nnodes", 2, "--node-rank", (0, 1), "--rdzv-endpoint", f"{machines.address(0)}:{PORT}"),
        *("--seed", (1, 2) if differing == "settings" else 1),
        *("--data", (image_folder, renamed) if differing == "data" else image_folder),
        folders=(place, tmp_path if differing == "folder" else place),
    )
    for code, err in pair.ends():
        assert code == 2
        assert re.search(words, err) and "Traceback" not in err, err

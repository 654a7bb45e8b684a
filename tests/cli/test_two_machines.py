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
from typing import Any

import pytest

from drills.kills.network import Machines, NoNamespaces, two_machines
from drills.kills.processes import ranks_of

PORT = 29777
CLI = ("-m", "shufflenet_fn_cli.main")
TINY = (
    *("--arch", "x0_5", "--image-size", "40", "--batch-size", "2", "--epochs", "6"),
    *("--device", "cpu", "--threads", "1", "--workers", "2", "--learning-rate", "0.01"),
    *("--eval-freq", "6"),
)
FILES = ("weights.safetensors", "state.safetensors")
LAST = "step-00000072"

Pair = list[subprocess.Popen[str]]
Start = Callable[..., Pair]


def ends(processes: Pair) -> list[tuple[int, str]]:
    """Exit code and standard error of each."""
    found = []
    for process in processes:
        _, err = process.communicate(timeout=120)
        found.append((process.returncode, err))
    return found


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

    def begin(*command: object, folders: Sequence[Path] = (place, place), on: Sequence[int] = (0, 1)) -> Pair:
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
        return pair

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def one_machine(image_folder: Path, place: Path) -> Path:
    """The run that all others must be equal to: two devices of one machine."""
    arguments = (*TINY, "--data", str(image_folder), "--devices", "2", "--run-dir", "one")
    done = subprocess.run(
        [sys.executable, *CLI, "train", *arguments], cwd=place, capture_output=True, text=True, check=False
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


@pytest.fixture
def training(machines: Machines, image_folder: Path) -> tuple[Any, ...]:
    """The command of both machines, without a run directory."""
    return (
        *(sys.executable, *CLI, "train", *TINY, "--data", image_folder),
        *("--nnodes", 2, "--node-rank", (0, 1), "--rdzv-endpoint", f"{machines.address(0)}:{PORT}"),
    )


@pytest.mark.parametrize("launcher", ["ours", "torchrun"])
def test_two_machines_equal_two_devices(
    launcher: str, start: Start, machines: Machines, image_folder: Path, place: Path, one_machine: Path
) -> None:
    address = machines.address(0)
    train = ("train", *TINY, "--data", image_folder, "--run-dir", launcher)
    if launcher == "ours":
        # Machine 1 is given the original's spelling.
        meeting: tuple[object, ...] = (
            *(("--nnodes", "--world-size"), 2, ("--node-rank", "--rank"), (0, 1)),
            *(("--rdzv-endpoint", "--dist-url"), (f"{address}:{PORT}", f"tcp://{address}:{PORT}")),
        )
        pair = start(sys.executable, *CLI, *train, *meeting)
    else:
        elastic = ("--nnodes", 2, "--node-rank", (0, 1), "--nproc-per-node", 1)
        meeting = ("--master-addr", address, "--master-port", PORT)
        pair = start(sys.executable, "-m", "torch.distributed.run", *elastic, *meeting, *CLI, *train)
    for code, err in ends(pair):
        assert code == 0 and "Traceback" not in err, err
    check_same_end(place / launcher, one_machine)
    # The hosts' own names lead nowhere or to the loopback.
    for number, log in enumerate(("log.txt", "log.rank1.txt")):
        note = f"gloo between machines: cable{number} ({machines.address(number)})"
        assert note in (place / launcher / log).read_text()


@pytest.mark.slow
def test_same_command_continues_after_failure_and_stop(
    start: Start, training: tuple[Any, ...], place: Path, one_machine: Path
) -> None:
    run = place / "failing"
    command = (*training, "--run-dir", run, "--resume", "auto", "--checkpoint-freq", 3)
    pair = start(*command)
    first, second = pair
    wait_for_lines(first, run, "checkpoint", 1)
    (rank,) = ranks_of(second.pid)
    os.kill(rank, signal.SIGKILL)
    (code, err), (other_code, other_err) = ends(pair)
    assert code == other_code == 1 and "Traceback" not in err + other_err
    assert re.search(r"rank 1 on machine 1 \(\S+\) was killed by SIGKILL", other_err)
    assert re.search(r"rank 0 on machine 0 \(\S+\).*[Ll]ook for the first error", err), err

    # A signal to one machine stops both after the same step.
    pair = start(*command)
    first, second = pair
    wait_for_lines(first, run, "start", 2)
    wait_for_lines(first, run, "checkpoint", len(records(run, "checkpoint")) + 1)
    second.send_signal(signal.SIGTERM)
    outcomes = ends(pair)
    step = int(json.loads((run / "checkpoints" / "latest.json").read_text())["checkpoint"][5:])
    for code, err in outcomes:
        assert code == 75, err
        assert f"stopped by SIGTERM after step {step}, which is saved." in err

    for code, err in ends(start(*command)):
        assert code == 0, err
    assert records(run, "start")[-1]["first_step"] == step
    check_same_end(run, one_machine)


@pytest.mark.slow
def test_duplicate_rank_is_refused_and_unplugged_cable_detected(
    start: Start, machines: Machines, training: tuple[Any, ...], place: Path
) -> None:
    run = place / "cut"
    command = (*training, "--epochs", 500, "--run-dir", run, "--hang-timeout", 5)
    pair = start(*command)
    wait_for_lines(pair[0], run, "train", 2)
    ((code, err),) = ends(start(*command, on=(1,)))
    assert code == 1 and "rank 1 has joined this run" in err and "--node-rank 1" in err, err
    wait_for_lines(pair[0], run, "train", len(records(run, "train")) + 1)

    machines.pull()
    try:
        outcomes = ends(pair)
    finally:
        machines.plug()
    for number, (code, err) in enumerate(outcomes):
        assert code == 1
        assert f"rank {number} on machine {number} (" in err and "--hang-timeout 5" in err, err
        assert "another machine may have failed" in err


def test_missing_machine_is_reported(
    start: Start, machines: Machines, training: tuple[Any, ...], place: Path
) -> None:
    for number, words in enumerate(("not all of the 2 machines came to", "did not answer at")):
        pair = start(*training, "--run-dir", "alone", "--join-timeout", 2, on=(number,))
        ((code, err),) = ends(pair)
        assert code == 1 and "Traceback" not in err
        assert f"{words} {machines.address(0)}:{PORT} within 2 s (--join-timeout)" in err
        # The C++ library's own report is a stack trace.
        assert "frame #" not in err


def test_signal_stops_waiting_for_machines(start: Start, training: tuple[Any, ...]) -> None:
    pair = start(*training, "--run-dir", "waiting", on=(1,))
    (process,) = pair
    assert process.stderr is not None
    while "waiting for machine 0" not in process.stderr.readline():
        assert process.poll() is None
    # The launcher's handlers are in place when its thread has started.
    deadline = time.monotonic() + 60
    status = Path(f"/proc/{process.pid}/status")
    while not int(re.findall(r"SigCgt:\s*(\w+)", status.read_text())[0], 16) >> 14 & 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    ((code, err),) = ends(pair)
    assert code == 75 and "stopped by SIGTERM while waiting for the other machines" in err, err


@pytest.mark.parametrize(
    ("differing", "words"),
    [
        # Other settings: test_ranks_that_differ.py.
        ("data", r"machine 1 \(\S+\) has other data than machine 0 \(\S+\): training files differ"),
        ("folder", r"run directory unlike-folder is another folder on machine 1 .* that all machines share"),
        ("devices", r"this machine starts . of 3 processes on 2 machines, .* equally many"),
    ],
    ids=["data", "folder", "devices"],
)
def test_differing_machines_are_refused(
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
        *("--batch-size", 4, "--devices", (1, 2) if differing == "devices" else 1),
        *("--data", (image_folder, renamed) if differing == "data" else image_folder),
        folders=(place, tmp_path if differing == "folder" else place),
    )
    for code, err in ends(pair):
        assert code == 2
        assert re.search(words, err) and "Traceback" not in err, err

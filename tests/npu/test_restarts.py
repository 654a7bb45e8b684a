"""After a kill: starts that an NPU refuses are tried again, and ``verify-resume``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ascend_emulator.environment import Machine, variables
from ascend_emulator.pytest_plugin import OnEmulator
from drills.kills.processes import ranks_of

# The command as its user starts it, but for the wait: what is tested is what comes after it.
WAITING_SHORTLY = """
import sys
from shufflenet_fn_backends.runtimes.npu import runtime
runtime.SETTLING = runtime.SETTLING._replace(seconds=0.1)
from shufflenet_fn_cli.main import main
sys.argv[1:1] = ["train", "--device", "npu", "--arch", "x0_5", "--image-size", "32", "--precision", "O0"]
sys.argv += ["--batch-size", "8"]
main()
"""
WAIT = "Waiting 0.1 s until the devices are free: after a process on it was killed, an NPU refuses new ones"

pytestmark = pytest.mark.usefixtures("npu")


@pytest.mark.campaign
def test_ranks_start_again_once_devices_are_free(libraries: Path, image_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ("--data", image_folder, "--devices", 2, "--run-dir", run)
    options += ("--max-restarts", 1, "--max-steps", 12, "--print-freq", 1)
    training = subprocess.Popen(
        [sys.executable, "-c", WAITING_SHORTLY, *map(str, options)],
        env={**os.environ, **variables(libraries, Machine(devices=2, faults="hccl:busy@2"))},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        log, deadline = run / "metrics.jsonl", time.monotonic() + 120
        while not (log.exists() and '"train"' in log.read_text()):
            assert training.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        os.kill(ranks_of(training.pid)[1], signal.SIGKILL)
        _, err = training.communicate(timeout=240)
    finally:
        training.kill()
    assert training.returncode == 0, err
    told = [line for line in err.splitlines() if "Waiting" in line or "again" in line or "Restart" in line]
    assert len(told) == 4, err
    assert "rank 1 was killed by SIGKILL" in told[0] and WAIT in told[0]
    assert told[1] == "Restart 1 of 1, from the last good checkpoint."
    assert "EJ0001" in told[2] and WAIT in told[2]
    assert told[3] == "Trying again (1 of 2)."


def test_single_device_retries_without_launcher(
    on_emulator: OnEmulator, image_folder: Path, tmp_path: Path
) -> None:
    options = ("--data", str(image_folder), "--run-dir", f"{tmp_path}/run", "--max-steps", "1")
    ran = on_emulator(WAITING_SHORTLY, *options, imported=True, timeout=240.0, faults="device:busy@1")
    assert ran.code == 0, ran.err
    assert ran.err.count(WAIT) == 1, ran.err


@pytest.mark.campaign
def test_a_killed_run_resumes_to_the_same_bytes(npu: object, libraries: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "shufflenet_fn_cli.main", "verify-resume"]
    done = subprocess.run(
        [*command, "--device", "npu", "--steps", "24", "--json"],
        env={**os.environ, **variables(libraries, Machine()), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["identical"] and told["saved"] == 4 and told["tensors"] > 100
    assert not list(tmp_path.glob("shufflenet-fn-*"))

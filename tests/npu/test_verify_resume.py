"""``shufflenet-fn verify-resume --device npu`` on the emulator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ascend_emulator.environment import Machine, variables


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

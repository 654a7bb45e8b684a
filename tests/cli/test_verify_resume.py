"""``shufflenet-fn verify-resume``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., Any]


@pytest.mark.slow
def test_the_drill_on_this_machine(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    outcome = command(*("verify-resume", "--device", "cpu", "--precision", "bf16", "--steps", 30, "--json"))
    assert outcome.code == 0, outcome.err
    told = json.loads(outcome.out)
    assert told["identical"] and told["different"] == [] and told["tensors"] > 100
    assert (told["saved"], told["steps"]) == (5, 30)
    assert "resuming what the kill left, from step-00000005" in outcome.err
    assert not list(scratch.iterdir())


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--steps", 5), 2, "--steps 5"),
        (("--backend", "gatherr"), 2, "did you mean 'gather'"),
        pytest.param(
            ("--device", "npu"),
            3,
            "npu",
            marks=pytest.mark.skipif(find_spec("torch_npu") is not None, reason="it may be there"),
        ),
    ],
)
def test_what_cannot_be_tried(command: Command, options: tuple[object, ...], code: int, words: str) -> None:
    outcome = command("verify-resume", "--device", "cpu", *options)
    assert outcome.code == code and words in outcome.err and "Traceback" not in outcome.err


def test_a_signal_leaves_nothing_behind(tmp_path: Path) -> None:
    drill = subprocess.Popen(
        [sys.executable, "-m", "shufflenet_fn_cli.main", "verify-resume", "--device", "cpu"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 90
    while not list(tmp_path.glob("shufflenet-fn-verify-resume-*/whole/config.json")):
        assert drill.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    training = Path(f"/proc/{drill.pid}/task/{drill.pid}/children").read_text().split()
    assert training
    drill.send_signal(signal.SIGTERM)
    _, err = drill.communicate(timeout=30)
    assert drill.returncode == 128 + signal.SIGTERM and "Traceback" not in err, err
    assert not [pid for pid in training if Path(f"/proc/{pid}").exists()]
    assert not list(tmp_path.glob("shufflenet-fn-*"))

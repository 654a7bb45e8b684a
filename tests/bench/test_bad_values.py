"""Invalid options of the benchmarks are refused with one message, before any measurement."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("torchvision")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ("step --rounds 1", 2, ("--rounds 1", "at least 3")),
        ("step --arch x3", 2, ("x3", "x1_0")),
        ("step --arch x1_0,x3", 2, ("x3",)),
        ("step --batch-size 1", 2, ("--batch-size '1'", "2 up")),
        ("step --batch-size 64,x", 2, ("--batch-size '64,x'",)),
        ("step --device npu", 3, ("npu is not available",)),
        ("step --steps-per-sync 0", 2, ("--steps 0",)),
        ("step --device cpu --precision O2", 2, ("--precision O2", "bf16")),
        ("step --device cpu --keep", 2, ("--keep", "cuda and npu")),
        ("step --device cpu --profile traces", 2, ("--profile", "cuda and npu")),
        ("step --image-size 4", 2, ("--image-size 4",)),
        ("step --precision fp16", 2, ("fp16", "bf16")),
        ("step --backend refrence", 2, ("refrence", "did you mean 'reference'")),
        ("step --backend cpu --ours-compile", 2, ("cpu", "routed")),
        ("step --allocator kept", 2, ("kept", "did you mean 'keep'")),
        ("step --threads 0", 2, ("--threads 0",)),
        ("infer --batch-size 0", 2, ("--batch-size '0'", "1,32")),
        ("infer --batch-size 1,x", 2, ("--batch-size '1,x'",)),
        ("infer --threads 2,2", 2, ("--threads '2,2'",)),
        ("infer --threads -1", 2, ("--threads '-1'",)),
        ("infer --arch all", 2, ("all", "x1_0")),
        ("infer --turn-seconds 0", 2, ("--turn-seconds", "above 0")),
        ("ops --turn-seconds -1", 2, ("--turn-seconds", "above 0")),
        ("ops --device npu", 3, ("npu is not available",)),
        ("ops --device gpu", 2, ("gpu", "cuda")),
        ("ops --precision O1", 2, ("O1", "bf16")),
        ("ops --only nothing", 2, ("nothing", "basic unit")),
        ("ops --only ,", 2, ("basic unit",)),
    ],
)
def test_bad_values_are_refused(
    command: Callable[..., Any], arguments: str, code: int, words: tuple[str, ...]
) -> None:
    outcome = command("bench", *arguments.split())
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    assert len([line for line in outcome.err.splitlines() if line.startswith("error: ")]) == 1
    for word in words:
        assert word in outcome.err


@pytest.mark.parametrize("which", ["step", "infer"])
def test_missing_torchvision_is_reported_first(
    command: Callable[..., Any], which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    outcome = command("bench", which)
    assert outcome.code == 2
    for word in (f"bench {which}", "torchvision", "pip install 'shufflenet-fn[bench]'"):
        assert word in outcome.err
    assert "building" not in outcome.err

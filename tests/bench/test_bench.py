"""The benchmark measures what it says, through the command line and on its arithmetic."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from shufflenet_fn.bench.contenders import OURS, PEERS
from shufflenet_fn.bench.ratios import interval, paired_ratios
from shufflenet_fn.bench.turns import peak_memory, take_turns
from shufflenet_fn_backends.errors import UserError

SMALL = ("--arch", "x0_5", "--image-size", 32, "--batch-size", 4, "--rounds", 3, "--threads", 1)


def test_bench_step_prints_one_json_object(process: Callable[..., Any]) -> None:
    outcome = process("bench", "step", *SMALL, "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert set(result["peers"]) == set(PEERS)
    assert result["ours_img_s"] > 0 and min(result["peers"].values()) > 0
    assert result["best_peer"] == max(result["peers"], key=result["peers"].get)
    assert result["ratio_best_peer"] == result["ratios"][result["best_peer"]]
    low, high = result["ratio_intervals"][result["best_peer"]]
    assert low <= result["ratio_best_peer"] <= high
    # A process with torch in it has at least 50 MB.
    assert min(result["ours_peak_bytes"], *result["peer_peak_bytes"].values()) > 50e6


def test_bench_step_prints_a_table(process: Callable[..., Any]) -> None:
    outcome = process("bench", "step", *SMALL, "--precision", "bf16")
    assert outcome.code == 0, outcome.err
    for word in (OURS, "torchvision", "images/s", "bf16", "against the best peer"):
        assert word in outcome.out


def test_bad_values_are_refused(command: Callable[..., Any]) -> None:
    outcome = command("bench", "step", "--rounds", 1)
    assert outcome.code == 2 and "--rounds 1" in outcome.err
    outcome = command("bench", "step", "--arch", "x3")
    assert outcome.code == 2 and "x3" in outcome.err


def test_ratios_and_interval() -> None:
    ratios = paired_ratios([1.0, 2.0, 4.0], [2.0, 2.0, 2.0])
    assert ratios == [2.0, 1.0, 0.5]
    low, high = interval([1.0, 1.1, 1.2, 1.3, 1.4] * 4)
    assert 1.0 <= low <= 1.2 <= high <= 1.4
    assert interval([3.0, 3.0, 3.0]) == (3.0, 3.0)


@pytest.mark.parametrize("function", [take_turns, peak_memory])
def test_a_contender_that_fails_is_named(function: Callable[..., Any]) -> None:
    from shufflenet_fn.bench.contenders import build_step
    from shufflenet_fn.bench.settings import StepBenchSettings

    options: dict[str, Any] = {"threads": 1, "steps": 1}
    if function is take_turns:
        options |= {"rounds": 3, "progress": print}
    with pytest.raises(UserError, match="nobody"):
        function(["nobody"], build_step, StepBenchSettings(), **options)

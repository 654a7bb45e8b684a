"""``bench step``: all candidates take the same step, and the report is complete."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from shufflenet_fn.bench import step_candidates
from shufflenet_fn.bench.peers import OURS, OURS_COMPILED, available, settled
from shufflenet_fn.bench.settings import StepBenchSettings
from shufflenet_fn.bench.step_candidates import PEERS, build_step
from shufflenet_fn_backends.runtimes import cpu
from shufflenet_fn_cli.bench_table import print_step_table
from tests.model.support import one_thread

__all__ = ["one_thread"]

pytest.importorskip("torchvision")

# Not the allocator "default": that would change the allocator of the tests' own process.
TINY = (
    *("--image-size", 32, "--batch-size", 4, "--rounds", 3, "--threads", 1),
    *("--no-compile", "--allocator", "keep"),
)
SETTINGS = StepBenchSettings(arch="shufflenet_v2_x0_5", image_size=32, batch_size="4", allocator="keep")
EAGER = [name for name, peer in PEERS.items() if not peer.compiled]


def losses(name: str, settings: StepBenchSettings) -> tuple[float, float]:
    step = build_step(name, "", settings)
    return float(step()), float(step())  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["reference", "routed", "cpu"])
def test_candidates_take_the_same_step(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second loss shows the update: 0.017 smaller than the first. (Later ones drift apart.)"""
    monkeypatch.setattr(step_candidates, "LEARNING_RATE", 1e-3)
    settings = replace(SETTINGS, backend=backend, image_size=64, batch_size="8")
    before, after = losses(OURS, settings)
    assert after < 0.99 * before
    for name in EAGER:
        assert losses(name, settings) == pytest.approx((before, after), rel=1e-4), name


def test_candidates_compute_in_half_precision_where_asked() -> None:
    half = replace(SETTINGS, precision="bf16")
    for name in (OURS, *EAGER):
        exact, rounded = losses(name, SETTINGS)[0], losses(name, half)[0]
        assert exact != rounded
        assert rounded == pytest.approx(exact, rel=5e-2)  # four images, one pixel each at the end


def test_ours_keeps_freed_memory_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[int] = []
    monkeypatch.setattr(cpu, "keep_freed_memory", lambda: kept.append(1))
    build_step(OURS, "", SETTINGS)
    build_step(EAGER[0], "", replace(SETTINGS, allocator="default"))
    assert not kept
    build_step(OURS, "", replace(SETTINGS, allocator="default"))
    assert kept


def test_compiled_peers_need_a_compiler(command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert available(PEERS, compiled=True).present == tuple(PEERS)
    monkeypatch.setenv("CXX", "no-such-compiler")
    field = available(PEERS, compiled=True)
    assert list(field.present) == EAGER
    assert set(field.left_out) == set(PEERS) - set(EAGER)
    (warning,) = field.warnings()
    for word in ("WARNING", "C++ compiler", *field.left_out):
        assert word in warning
    # Left out because the user said so: nothing to warn of.
    assert available(PEERS, compiled=False).warnings() == []
    outcome = command("bench", "step", "--ours-compile")
    assert outcome.code == 3 and "C++ compiler" in outcome.err


def test_compiled_steps_settle_before_they_are_measured() -> None:
    torch.compiler.reset()
    calls: list[int] = []

    @torch.compile(backend="eager", dynamic=False)
    def double(x: torch.Tensor) -> torch.Tensor:
        return 2 * x

    def step() -> None:
        calls.append(1)
        double(torch.ones(min(len(calls), 3)))  # three sizes, so three compilations

    settled(step)
    # A fourth call told that there was nothing more to compile.
    assert len(calls) == 4


@pytest.mark.usefixtures("in_process")
def test_one_json_object_and_its_table(
    command: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = command("bench", "step", "--arch", "x0_5", *TINY, "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert set(result["peers"]) == set(result["ratios"]) == set(EAGER)
    assert set(result["left_out"]) == set(PEERS) - set(EAGER)
    assert result["ours_img_s"] > 0 and min(result["peers"].values()) > 0
    best = result["best_peer"]
    assert best == max(result["peers"], key=result["peers"].get)
    assert result["ratio_best_peer"] == result["ratios"][best]
    low, high = result["ratio_intervals"][best]
    assert low <= result["ratio_best_peer"] <= high
    width = max(high / result["ratio_best_peer"] - 1, 1 - low / result["ratio_best_peer"])
    assert result["conclusive"] is (width <= 0.04)
    assert (result["advice"] is None) is result["conclusive"]
    assert result["ours_compiled"] is None
    assert result["allocator"] == "keep"
    assert result["ours_peak_bytes"] == result["peer_peak_bytes"][best] == 10**8
    assert result["activation_bytes"] == {name: 10**6 * len(name) for name in (OURS, *EAGER)}
    assert result["activation_ratios"][best] == len(OURS) / len(best)
    assert result["activation_ratio_best_peer"] == result["activation_ratios"][best]
    print_step_table({"results": [result, {**result, "arch": "shufflenet_v2_x1_0"}]})
    table = capsys.readouterr().out
    assert "shufflenet_v2_x0_5" in table and "shufflenet_v2_x1_0" in table
    for word in (OURS, *EAGER, "images/s", "against the best peer", "activations MiB"):
        assert word in table


def test_several_architectures_are_still_one_json_object(monkeypatch: pytest.MonkeyPatch) -> None:
    from shufflenet_fn.bench import step

    monkeypatch.setattr(step, "_one", lambda settings, progress: {"arch": settings.arch})
    every = step.run_step_bench(replace(SETTINGS, arch="all"))
    assert [one["arch"] for one in every["results"]] == [
        f"shufflenet_v2_{width}" for width in ("x0_5", "x1_0", "x1_5", "x2_0")
    ]
    assert step.run_step_bench(SETTINGS) == {"arch": "shufflenet_v2_x0_5"}


def test_compiled_step_is_compared_with_eager_and_peer() -> None:
    from shufflenet_fn.bench.step import _compiled

    seconds = {OURS: [2.0] * 3, OURS_COMPILED: [1.0] * 3, EAGER[0]: [3.0] * 3}
    rates = {OURS: 2.0, OURS_COMPILED: 4.0, EAGER[0]: 1.0}
    found = _compiled(SETTINGS, seconds, rates, EAGER[0])
    assert found == {
        "backend": "routed",
        "img_s": 4.0,
        "speedup": 2.0,
        "speedup_interval": (2.0, 2.0),
        "ratio_best_peer": 3.0,
    }

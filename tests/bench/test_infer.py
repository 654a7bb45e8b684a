"""``bench infer``: all candidates compute the same logits, and the report is complete."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from shufflenet_fn.bench.infer import ONNX, PEERS, InferCase, build_pass, onnx_is_missing, seasoned_variables
from shufflenet_fn.bench.peers import OURS
from shufflenet_fn.bench.settings import InferBenchSettings
from shufflenet_fn.tree import tree_paths
from shufflenet_fn_cli.bench_table import print_infer_table
from tests.model.support import one_thread

__all__ = ["one_thread"]

pytest.importorskip("torchvision")

SETTINGS = InferBenchSettings(arch="shufflenet_v2_x0_5", image_size=32, allocator="keep")
EAGER = [name for name, peer in PEERS.items() if not peer.compiled]
ARGUMENTS = (
    *("bench", "infer", "--arch", "x0_5", "--image-size", 32, "--no-compile"),
    *("--rounds", 3, "--turn-seconds", 0.01),
)


def logits(name: str, precision: str = "fp32") -> Tensor:
    found = build_pass(name, "", InferCase(replace(SETTINGS, precision=precision), 2, 1))()
    assert isinstance(found, Tensor) and found.shape == (2, 1000)
    return found


@pytest.mark.parametrize("name", [*EAGER, pytest.param(ONNX, marks=pytest.mark.interop)])
def test_candidates_compute_the_same(name: str) -> None:
    if name == ONNX and onnx_is_missing():
        pytest.skip(str(onnx_is_missing()))
    torch.testing.assert_close(logits(name), logits(OURS), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", [OURS, *EAGER])
def test_candidates_compute_in_half_precision_where_asked(name: str) -> None:
    exact, rounded = logits(name), logits(name, "bf16").float()
    assert not torch.equal(exact, rounded)
    # Measured: 0.01 to 0.03 of the largest.
    assert (rounded - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.interop
def test_a_compiled_candidate_computes_the_same() -> None:
    name = "torchvision channels_last folded compiled"
    torch.testing.assert_close(logits(name), logits(OURS), rtol=1e-3, atol=1e-5)


def test_folded_peers_have_no_batch_norm_left(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    original = nn.BatchNorm2d.forward

    def forward(self: nn.BatchNorm2d, x: Tensor) -> Tensor:
        called.append("norm")
        return original(self, x)

    monkeypatch.setattr(nn.BatchNorm2d, "forward", forward)
    for name in EAGER:
        called.clear()
        logits(name)
        assert len(called) == (0 if PEERS[name].folded else 56), name


def test_statistics_are_not_those_of_a_fresh_network() -> None:
    stats = dict(tree_paths(seasoned_variables("x0_5").batch_stats))
    for path, leaf in stats.items():
        assert not torch.equal(leaf, torch.zeros_like(leaf)), path
        assert not torch.equal(leaf, torch.ones_like(leaf)), path


@pytest.mark.interop
def test_one_json_object_and_its_table(
    command: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = command(*ARGUMENTS, "--batch-size", 2, "--threads", 1, "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert [(c["batch_size"], c["threads"]) for c in result["cases"]] == [(2, 1)]
    assert (ONNX in result["left_out"]) is (onnx_is_missing() is not None)
    assert (result["onnxruntime_version"] is None) is (ONNX in result["left_out"])
    for case in result["cases"]:
        assert set(case["peers_ms"]) == set(case["ratios"]) == set(EAGER)
        best = case["best_peer"]
        assert best == min(case["peers_ms"], key=case["peers_ms"].get)
        assert case["ratio_best_peer"] == case["ratios"][best]
        low, high = case["ratio_intervals"][best]
        assert low <= case["ratio_best_peer"] <= high
        assert (case["advice"] is None) is case["conclusive"]
        assert (case["onnxruntime"] is None) is (ONNX in result["left_out"])
        assert case["ours_ms"] > 0 and min(case["peers_ms"].values()) > 0
    print_infer_table(result)
    table = capsys.readouterr().out
    for word in (OURS, *EAGER, "1 threads", "fp32", "against the best peer", "not measured"):
        assert word in table

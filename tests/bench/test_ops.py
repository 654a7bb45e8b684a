"""``bench ops``: all candidates compute the same, and the report is complete."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from shufflenet_fn.bench.ops import (
    BOTH,
    FORWARD,
    TORCHVISION,
    Op,
    build_op,
    candidates_for,
    compute,
    settings_operations,
)
from shufflenet_fn.bench.settings import OpsBenchSettings
from shufflenet_fn_cli.bench_table import print_ops_table
from tests.model.support import one_thread

__all__ = ["one_thread"]

pytest.importorskip("torchvision")

SETTINGS = OpsBenchSettings(arch="shufflenet_v2_x0_5", image_size=56, batch_size=2, device="cpu", threads=1)
OPERATIONS = {op.name: op for op in settings_operations(SETTINGS)}
BACKENDS = candidates_for("cpu")[0][1:]


def error(actual: torch.Tensor, expected: torch.Tensor, least: float = 0.0) -> float:
    scale = max(expected.abs().max().item(), least)
    return (actual - expected).abs().max().item() / scale


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("op", OPERATIONS.values(), ids=lambda op: op.name)
def test_a_backend_computes_what_torchvision_does(op: Op, backend: str) -> None:
    ours, theirs = (compute(name, op, SETTINGS) for name in (backend, TORCHVISION))
    with torch.no_grad():
        assert error(ours.forward(), theirs.forward()) < 1e-5
    grads, expected = ours.both(), theirs.both()
    assert len(grads) == len(expected) == len(op.shapes) + len(ours.leaves) - len(op.shapes)
    for name, actual, wanted in zip(op.shapes, grads, expected, strict=False):
        assert error(actual, wanted) < 1e-4, name
    # Of the unit's own parameters, which may be in another order: as large as theirs. (The bias of a
    # depthwise batch norm has gradient zero, and what is computed is rounding.)
    norms, wanted_norms = (
        torch.tensor([grad.norm() for grad in all_of[len(op.shapes) :]]) for all_of in (grads, expected)
    )
    if op.uses:
        assert error(norms, wanted_norms) < 1e-3
        assert len(norms) == 9 * len(op.uses) or op.name == "downsampling unit"


@pytest.mark.parametrize("name", ["conv2d 1x1", "batch_norm_train and ReLU", "downsampling unit"])
@pytest.mark.parametrize("backend", [TORCHVISION, "reference", "routed"])
def test_operations_compute_in_the_training_dtype(backend: str, name: str) -> None:
    half, exact = (
        compute(backend, OPERATIONS[name], replace(SETTINGS, precision=precision))
        for precision in ("bf16", "fp32")
    )
    result = half.forward()
    assert result.dtype == half.gradient.dtype == torch.bfloat16
    assert {leaf.dtype for leaf in half.leaves if leaf.ndim == 1} <= {torch.float32}
    assert {leaf.dtype for leaf in half.leaves if leaf.ndim == 4} == {torch.bfloat16}
    assert [grad.dtype for grad in half.both()] == [leaf.dtype for leaf in half.leaves]
    # Rounding to 8 bits, a few times one behind the other.
    assert 0 < error(result.float(), exact.forward()) < 0.05


def test_sizes_are_those_of_the_network() -> None:
    """From the shapes that the network itself has there."""
    from shufflenet_fn.model.config import get_config
    from shufflenet_fn.model.network import apply
    from shufflenet_fn.model.variables import init
    from shufflenet_fn_backends.registry import get_backend

    seen: dict[str, list[tuple[int, ...]]] = {"pool": [], "split": [], "shuffle": []}
    reference = get_backend("reference")

    def max_pool2d(x: Any, **options: Any) -> Any:
        seen["pool"].append(tuple(x.shape))
        return reference.max_pool2d(x, **options)

    def channel_shuffle(x1: Any, x2: Any) -> Any:
        seen["shuffle"].append(tuple(x1.shape))
        return reference.channel_shuffle(x1, x2)

    config = get_config("x0_5")
    images = torch.zeros(2, 3, SETTINGS.image_size, SETTINGS.image_size)
    apply(
        config,
        init(config, torch.Generator()),
        images,
        backend=replace(reference, max_pool2d=max_pool2d, channel_shuffle=channel_shuffle),
    )
    assert OPERATIONS["max_pool2d"].shapes["x"] == seen["pool"][0]
    assert OPERATIONS["basic unit"].shapes["x1"] == seen["shuffle"][0]
    assert OPERATIONS["basic unit"].units == 3


def test_step_computes_the_pass_of_its_case() -> None:
    name = "conv2d 1x1"
    settings = SETTINGS
    forward = build_op("reference", f"{name}: {FORWARD}", settings)
    both = build_op("reference", f"{name}: {BOTH}", settings)
    assert isinstance(forward(), torch.Tensor)
    assert len(both()) == 2  # type: ignore[arg-type]  # gradients of x and weight


def test_other_devices_maps_are_not_measured() -> None:
    assert "npu" not in BACKENDS and "cpu" in BACKENDS
    on_npu, _ = candidates_for("npu")
    assert "npu" in on_npu and "cpu" not in on_npu
    assert {"reference", "native", "gather", "routed"} <= set(BACKENDS) & set(on_npu)


def test_backend_cpu_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    from shufflenet_fn_backends.fused.library import kernels

    monkeypatch.setenv("CXX", "no-such-compiler")
    kernels.cache_clear()
    present, missing = candidates_for("cpu")
    kernels.cache_clear()
    assert "cpu" not in present
    assert "C++ compiler" in missing["cpu"]


@pytest.mark.usefixtures("in_process")
def test_without_torchvision_the_reference_is_the_baseline(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As beside torch_npu on x86-64."""
    monkeypatch.setitem(sys.modules, "torchvision", None)
    outcome = command(*ARGUMENTS, "--only", "max_pool", "--json")
    assert outcome.code == 0, outcome.err
    assert "WARNING: not measured: torchvision" in outcome.err
    result = json.loads(outcome.out)
    assert result["baseline"] == "reference"
    assert "torchvision" in result["left_out"]
    for candidates in result["operations"][0]["passes"].values():
        assert set(candidates) == set(BACKENDS)
        assert candidates["reference"]["ratio"] is None
        assert candidates["routed"]["ratio"] > 0


ARGUMENTS = (
    *("bench", "ops", "--arch", "x0_5", "--image-size", 32, "--batch-size", 2, "--device", "cpu"),
    *("--rounds", 3, "--turn-seconds", 0.002, "--threads", 1),
)


@pytest.mark.interop
def test_one_json_object_and_its_table(
    command: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = command(*ARGUMENTS, "--json")
    assert outcome.code == 0, outcome.err
    result = json.loads(outcome.out)
    assert result["baseline"] == TORCHVISION
    assert (result["precision"], result["warning"]) == ("fp32", None)
    assert [found["name"] for found in result["operations"]] == list(OPERATIONS)
    for found in result["operations"]:
        assert set(found["passes"]) == {FORWARD, BOTH}
        for candidates in found["passes"].values():
            assert set(candidates) == {TORCHVISION, *BACKENDS}
            for name, one in candidates.items():
                assert one["ms"] > 0
                if name == TORCHVISION:
                    assert one["ratio"] is None and one["ratio_interval"] is None
                else:
                    low, high = one["ratio_interval"]
                    assert low <= one["ratio"] <= high
    print_ops_table(result)
    table = capsys.readouterr().out
    for word in ("max_pool2d, forward and backward", "to_tensor", *BACKENDS):
        assert word in table

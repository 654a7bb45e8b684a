"""The primitives of ``routed`` on maps of many parts in a permuted channel order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad
from torch.utils import _pytree as pytree

from shufflenet_fn.model.network import apply
from shufflenet_fn.training.losses import cross_entropy
from shufflenet_fn_backends import routed_map
from shufflenet_fn_backends.primitives import Backend
from shufflenet_fn_backends.reference import BACKEND as REFERENCE
from shufflenet_fn_backends.routed import BACKEND as ROUTED
from shufflenet_fn_backends.routed_map import Routed, index_constant
from tests.backends.test_shuffle_split import Seen
from tests.model.support import TINY, examples, generator, one_thread, tiny_variables

__all__ = ["one_thread"]

DOUBLE = torch.float64
CHANNELS = 20


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=DOUBLE)


def map_after_units(backend: Backend[Any], units: int = 3) -> Any:
    """A map that went through splits and shuffles, as after the basic units of a stage."""
    half = CHANNELS // 2
    x = backend.channel_shuffle(random(2, half, 6, 5, seed=1), random(2, half, 6, 5, seed=2))
    for unit in range(units):
        x1, x2 = backend.channel_split(x)
        branch = random(half, half, 1, 1, seed=10 + unit)
        y = backend.conv2d(x2, branch, stride=1, padding=0, groups=1)
        x = backend.channel_shuffle(x1, y)
    return x


@pytest.fixture
def maps() -> tuple[Routed, Tensor]:
    """One map, routed and literal."""
    x = map_after_units(ROUTED)
    assert len(x.parts) > 4 and x.layout.order != tuple(range(CHANNELS))
    return x, map_after_units(REFERENCE)


def assert_same(found: Routed | Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(routed_map.to_tensor(found), expected, rtol=1e-12, atol=1e-12)


def test_split_and_shuffle_move_nothing(maps: tuple[Routed, Tensor]) -> None:
    x, literal = maps
    halves, expected = ROUTED.channel_split(x), REFERENCE.channel_split(literal)
    for half, wanted in zip(halves, expected, strict=True):
        assert_same(half, wanted)
    swapped = ROUTED.channel_shuffle(halves[1], halves[0])
    assert_same(swapped, REFERENCE.channel_shuffle(expected[1], expected[0]))
    # Every part is a range of a tensor that was there before.
    storages = {part.untyped_storage().data_ptr() for part in x.parts}
    for new in (*halves, swapped):
        assert {part.untyped_storage().data_ptr() for part in new.parts} <= storages


BOTH = (ROUTED, REFERENCE)


@pytest.mark.parametrize(
    ("groups", "out_channels"), [(CHANNELS, CHANNELS), (CHANNELS, 2 * CHANNELS), (5, 10), (1, 6)]
)
def test_a_grouped_convolution_then_batch_norm_then_split(
    maps: tuple[Routed, Tensor], groups: int, out_channels: int
) -> None:
    """Depthwise keeps the map's order; groups of several channels need the canonical one."""
    weight = random(out_channels, CHANNELS // groups, 3, 3, seed=3)
    scale, shift = random(2, out_channels, seed=4)
    results = []
    for backend, x in zip(BOTH, maps, strict=True):
        shape = {"stride": 2, "padding": 1, "groups": groups}
        biased = [backend.conv2d_bias(x, weight, shift, relu=relu, **shape) for relu in (False, True)]
        y = backend.conv2d(x, weight, **shape)
        y, moments = backend.batch_norm_train(y, scale, shift, eps=1e-5, relu=True)
        results.append(((y, *biased, *backend.channel_split(y)), moments))
    (found, moments), (expected, expected_moments) = results
    for one, wanted in zip(found, expected, strict=True):
        assert_same(one, wanted)
    torch.testing.assert_close(moments.mean, expected_moments.mean)
    torch.testing.assert_close(moments.saved, expected_moments.saved)
    assert moments.count == expected_moments.count == 2 * 3 * 3


@pytest.mark.parametrize("twin", [False, True])
def test_the_twin_takes_parameters_in_the_maps_order(maps: tuple[Routed, Tensor], twin: bool) -> None:
    x, literal = maps
    backend = ROUTED.permuted if twin else ROUTED
    assert backend is not None
    order = list(x.layout.order) if twin else list(range(CHANNELS))
    pointwise, depthwise = random(6, CHANNELS, 1, 1, seed=3), random(CHANNELS, 1, 3, 3, seed=4)
    parameters = random(4, CHANNELS, seed=5).abs() + 0.1
    wanted = REFERENCE.conv2d(literal, pointwise, stride=1, padding=0, groups=1)
    assert_same(backend.conv2d(x, pointwise[:, order], stride=1, padding=0, groups=1), wanted)
    options = {"stride": 2, "padding": 1, "groups": CHANNELS}
    bias = parameters[0]
    wanted = REFERENCE.conv2d_bias(literal, depthwise, bias, relu=True, **options)
    found = backend.conv2d_bias(x, depthwise[order], bias[order], relu=True, **options)
    assert_same(found, wanted)
    wanted = REFERENCE.batch_norm_eval(literal, *parameters, eps=1e-5, relu=False)
    found = backend.batch_norm_eval(x, *parameters[:, order], eps=1e-5, relu=False)
    assert_same(found, wanted)
    found, moments = backend.batch_norm_train(x, *parameters[:2, order], eps=1e-5, relu=False)
    wanted, expected = REFERENCE.batch_norm_train(literal, *parameters[:2], eps=1e-5, relu=False)
    assert_same(found, wanted)
    torch.testing.assert_close(moments.mean, expected.mean[order])
    torch.testing.assert_close(moments.saved, expected.saved[order])


def test_shared_is_one_part_in_the_same_order(maps: tuple[Routed, Tensor]) -> None:
    shared = ROUTED.shared(maps[0])
    assert len(shared.parts) == 1 and shared.layout.order == maps[0].layout.order
    assert ROUTED.shared(shared) is shared
    assert_same(shared, maps[1])


def test_a_map_is_a_pytree_node(maps: tuple[Routed, Tensor]) -> None:
    x, literal = maps
    assert pytree.tree_leaves(x) == list(x.parts)
    doubled = pytree.tree_map(lambda part: 2 * part, x)
    assert isinstance(doubled, Routed) and doubled.layout == x.layout
    assert_same(doubled, 2 * literal)


def test_maps_without_equal_halves_are_refused() -> None:
    with pytest.raises(ValueError, match="7 channels"):
        ROUTED.channel_split(random(2, 7, 3, 3))
    with pytest.raises(ValueError, match="3 and 4 channels"):
        ROUTED.channel_shuffle(random(2, 3, 3, 3), random(2, 4, 3, 3))


# ---- constants ----


@pytest.mark.parametrize("inference", [False, True])
def test_a_constant_made_inside_a_transform_serves_outside(inference: bool) -> None:
    routed_map._cached_index.cache_clear()
    variables = tiny_variables(dtype=DOUBLE)
    images, labels = examples(2, dtype=DOUBLE)

    def loss(params: Any) -> Tensor:
        logits, _ = apply(TINY, variables._replace(params=params), images, backend=ROUTED)
        return cross_entropy(logits, labels)

    if inference:
        with torch.inference_mode():
            loss(variables.params)
    else:
        grad(loss)(variables.params)
    made = routed_map._cached_index.cache_info().misses
    assert made > 3
    head = variables.params["conv5"]["conv"]["weight"].requires_grad_()
    (gradient,) = torch.autograd.grad(loss(variables.params), head)
    assert gradient.abs().max() > 0
    assert routed_map._cached_index.cache_info().misses == made


def test_constants_are_cached_by_order_and_device() -> None:
    order, cpu = (2, 0, 1), torch.device("cpu")
    assert index_constant(order, cpu) is index_constant((2, 0, 1), torch.device("cpu"))
    assert index_constant(order, cpu).tolist() == [2, 0, 1]
    assert index_constant(order, torch.device("meta")).device.type == "meta"


@pytest.mark.parametrize("twin", [False, True])
def test_a_step_copies_nothing_from_the_host(twin: bool) -> None:
    backend = ROUTED.permuted if twin else ROUTED
    assert backend is not None
    variables = tiny_variables()
    images, labels = examples(2)

    def gradient() -> None:
        def loss(params: Any) -> Tensor:
            changed = variables._replace(params=params)
            logits, _ = apply(TINY, changed, images, backend=backend, train=True)
            return cross_entropy(logits, labels)

        grad(loss)(variables.params)

    gradient()
    with Seen() as seen:
        gradient()
    assert "aten::convolution" in seen.names
    forbidden = {"aten::lift_fresh", "aten::_to_copy", "aten::copy_", "aten::scalar_tensor"}
    assert not forbidden & set(seen.names)
    assert ("aten::index_select" in seen.names) == (not twin)

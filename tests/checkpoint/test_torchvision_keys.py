"""Conversion by key names: what is dropped, refused and never shared."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from shufflenet_fn.checkpoint.torchvision import from_torchvision, to_torchvision
from shufflenet_fn.errors import UsageError
from shufflenet_fn.model.config import get_config
from shufflenet_fn.model.variables import init
from shufflenet_fn.tree import tree_leaves
from tests.model.support import TINY, assert_nothing_shared, assert_trees_equal, tiny_variables, unchanged


def state_dict() -> dict[str, Tensor]:
    return to_torchvision(tiny_variables(), TINY)


@pytest.mark.parametrize("prefix", ["", "module.", "model._orig_mod."])
def test_index_buffers_of_old_checkpoints_are_dropped(prefix: str) -> None:
    old = {f"{prefix}{key}": value for key, value in state_dict().items()}
    for stage, unit, name in ((2, 0, "fp_index1"), (3, 1, "bp_index2"), (4, 1, "fp_index")):
        old[f"{prefix}stage{stage}.{unit}.channel_shuffle.{name}"] = torch.arange(8)
    old[f"{prefix}stage2.1.channelshuffle.fp_index2"] = torch.arange(8)
    assert_trees_equal(from_torchvision(old, TINY), tiny_variables())


def without(*keys: str) -> dict[str, Tensor]:
    return {key: value for key, value in state_dict().items() if key not in keys}


def of_x1_0() -> dict[str, Tensor]:
    config = get_config("x1_0", num_classes=3)
    return to_torchvision(init(config, torch.Generator()), config)


# Keys of megvii-model/ShuffleNet-Series: another network (other shuffle, other order).
MEGVII = {
    "module.first_conv.0.weight": torch.ones(24, 3, 3, 3),
    "module.features.0.branch_main.0.weight": torch.ones(58, 24, 1, 1),
    "module.features.0.branch_proj.0.weight": torch.ones(24, 1, 3, 3),
    "module.conv_last.0.weight": torch.ones(1024, 464, 1, 1),
    "module.classifier.0.weight": torch.ones(1000, 1024),
}


@pytest.mark.parametrize(
    ("given", "arch", "said", "unsaid"),
    [
        (
            lambda: without("stage2.0.branch1.0.weight", "fc.bias"),
            None,
            ("2 missing", "stage2.0.branch1.0.weight", "fc.bias"),
            "unexpected",
        ),
        (
            lambda: {**state_dict(), "stage2.0.se.weight": torch.ones(1), "fc.scale": torch.ones(1)},
            None,
            ("2 unexpected", "stage2.0.se.weight", "fc.scale"),
            "missing",
        ),
        (
            lambda: {**state_dict(), "fc.weight": torch.ones(7, 32)},
            None,
            ("1 of another shape", "fc.weight is (7, 32), should be (5, 32)"),
            "missing",
        ),
        (
            of_x1_0,
            "x0_5",
            (
                "stage2.0.branch1.2.weight is (58, 24, 1, 1), should be (24, 24, 1, 1)",
                "They are of shufflenet_v2_x1_0: choose it (--arch x1_0)",
            ),
            "missing",
        ),
        (
            lambda: {key: value.to(torch.int8) for key, value in state_dict().items()},
            None,
            ("not of floating point: conv1.0.weight is int8",),
            "missing",
        ),
        (state_dict, "x1_0", ("missing", "more", "x1_0"), "megvii"),
        (lambda: MEGVII, "x1_0", ("megvii", "first_conv.0.weight", "5 unexpected"), "--arch"),
        (dict, None, ("missing",), "unexpected"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    given: Callable[[], dict[str, Tensor]], arch: str | None, said: tuple[str, ...], unsaid: str
) -> None:
    with pytest.raises(UsageError) as error:
        from_torchvision(given(), get_config(arch) if arch else TINY)
    message = str(error.value)
    assert all(words in message for words in said) and unsaid not in message and len(message) < 1500


def test_no_storage_is_shared_in_either_direction() -> None:
    variables = tiny_variables()
    with unchanged(variables):
        given = to_torchvision(variables, TINY)
    assert_nothing_shared(given, variables)
    with unchanged(given):
        converted = from_torchvision(given, TINY)
        assert_trees_equal(converted, variables)
        assert_nothing_shared(converted, given)
        for leaf in tree_leaves(converted):
            leaf.zero_()


def test_parameters_come_detached() -> None:
    live = {
        key: value.clone().requires_grad_() if value.is_floating_point() else value
        for key, value in state_dict().items()
    }
    assert not any(leaf.requires_grad for leaf in tree_leaves(from_torchvision(live, TINY)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_are_kept(dtype: torch.dtype) -> None:
    variables = tiny_variables(dtype=dtype)
    assert_trees_equal(from_torchvision(to_torchvision(variables, TINY), TINY), variables)


def test_channels_last_weights_become_contiguous() -> None:
    given = state_dict()
    key = "conv1.0.weight"
    given[key] = given[key].contiguous(memory_format=torch.channels_last)
    weight = from_torchvision(given, TINY).params["conv1"]["conv"]["weight"]
    assert weight.is_contiguous() and torch.equal(weight, given[key])
    loose = tiny_variables()
    loose.params["conv1"]["conv"]["weight"] = given[key]
    assert to_torchvision(loose, TINY)[key].is_contiguous()


def test_num_batches_tracked_is_written_for_every_norm() -> None:
    tracked = {
        key: value
        for key, value in to_torchvision(tiny_variables(), TINY, num_batches_tracked=7).items()
        if key.endswith("num_batches_tracked")
    }
    assert len(tracked) == sum("running_var" in key for key in state_dict())
    for value in tracked.values():
        assert value.dtype == torch.int64 and value.shape == () and value.item() == 7
    assert len({value.data_ptr() for value in tracked.values()}) == len(tracked)

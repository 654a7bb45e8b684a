"""Operations on pytrees."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from shufflenet_fn.tree import (
    all_finite,
    global_norm,
    tree_cast,
    tree_foreach,
    tree_leaves,
    tree_map,
    tree_paths,
    tree_select,
    tree_unflatten,
    tree_zeros_like,
)
from shufflenet_fn_backends.primitives import Moments
from shufflenet_fn_backends.support.private import pytree
from tests.model.support import assert_trees_equal, tiny_variables


def sample() -> dict[str, Any]:
    return {
        "b": {"x": torch.tensor([3.0, 4.0]), "y": torch.tensor(1, dtype=torch.int64)},
        "a": (torch.tensor([[12.0]]), ()),
    }


def test_paths_are_dotted_in_leaf_order() -> None:
    paths = dict(tree_paths(sample()))
    assert list(paths) == ["b.x", "b.y", "a.0"]
    for left, right in zip(paths.values(), tree_leaves(sample()), strict=True):
        assert torch.equal(left, right)
    assert tree_paths(tiny_variables())[0][0] == "params.conv1.conv.weight"


def test_map_refuses_trees_of_different_structure() -> None:
    with pytest.raises(ValueError):
        tree_map(torch.add, sample(), {"b": torch.ones(1)})


def test_unflatten_is_the_inverse_of_leaves() -> None:
    assert_trees_equal(tree_unflatten(sample(), tree_leaves(sample())), sample())


def test_trees_agree_with_torch() -> None:
    tree = {"v": tiny_variables(), "l": [sample(), None], "p": Parameter(torch.ones(1))}
    named = pytree.tree_flatten_with_path(tree)[0]
    assert [path.count(".") + 1 for path, _ in tree_paths(tree)] == [len(keys) for keys, _ in named]
    tree["m"] = Moments(torch.ones(2), torch.ones(2), 4)
    leaves, structure = pytree.tree_flatten(tree)
    assert all(a is b for a, b in zip(tree_leaves(tree), leaves, strict=True))
    assert pytree.tree_structure(tree_unflatten(tree, leaves)) == structure


@pytest.mark.parametrize("count", [2, 4])
def test_other_number_of_leaves_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="leaves than the tree has"):
        tree_unflatten(sample(), [torch.ones(1)] * count)


def test_cast_leaves_integers_alone() -> None:
    cast = tree_cast(sample(), torch.float16)
    assert [leaf.dtype for leaf in tree_leaves(cast)] == [torch.float16, torch.int64, torch.float16]


def test_select_takes_one_side_whole() -> None:
    left, right = sample(), tree_zeros_like(sample())
    assert_trees_equal(tree_select(torch.tensor(True), left, right), left)
    assert_trees_equal(tree_select(torch.tensor(False), left, right), right)
    bad = {"w": torch.tensor([float("nan"), float("inf")])}
    good = {"w": torch.tensor([1.0, 2.0])}
    assert_trees_equal(tree_select(torch.tensor(False), bad, good), good)


def test_norm_and_finiteness_of_all_leaves() -> None:
    tree: dict[str, Tensor] = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([[12.0]])}
    assert math.isclose(global_norm(tree).item(), 13.0, rel_tol=1e-6)
    assert all_finite({"a": torch.full((100,), torch.finfo(torch.float16).max).half()})
    assert not all_finite({**tree, "c": torch.tensor([math.nan])})


def test_lists_of_an_empty_tree() -> None:
    assert tree_foreach(lambda leaves: torch._foreach_mul(leaves, 2.0), ()) == ()

"""Helpers for the tests of model, training, conversion, checkpoints and ranks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from shufflenet_fn.model.config import ShuffleNetConfig
from shufflenet_fn.model.variables import Variables, init
from shufflenet_fn.tree import tree_leaves, tree_map, tree_paths

TINY = ShuffleNetConfig(stage_repeats=(2, 2, 2), stage_channels=(8, 8, 16, 16, 32), num_classes=5)
"""Every kind of unit of the network, in 22 convolutions and 3,000 parameters."""


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tensors here are small, and threads that wait for each other are slow on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tiny_variables(
    seed: int = 0, *, dtype: torch.dtype = torch.float32, config: ShuffleNetConfig = TINY
) -> Variables:
    """Variables whose batch norms are not at their initial values, so that a mix-up shows."""
    rng = generator(seed)
    variables = init(config, rng, dtype=dtype)

    def scatter(path: str, leaf: Tensor) -> Tensor:
        low = {"weight": 0.5, "bias": -0.3, "mean": -0.3, "var": 0.5}[path.rpartition(".")[2]]
        return torch.empty(leaf.shape).uniform_(low, 0.6 + abs(low), generator=rng).to(leaf.dtype)

    leaves = iter([scatter(path, leaf) if ".bn." in path else leaf for path, leaf in tree_paths(variables)])
    return tree_map(lambda _: next(leaves), variables)


def examples(
    count: int,
    size: int = 32,
    *,
    seed: int = 1,
    num_classes: int = TINY.num_classes,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor]:
    """Images (``count``, 3, ``size``, ``size``) and labels."""
    rng = generator(seed)
    images = torch.randn(count, 3, size, size, generator=rng, dtype=torch.float64).to(dtype)
    return images, torch.randint(0, num_classes, (count,), generator=rng)


def random_like(tree: Any, seed: int) -> Any:
    """Normal random tensors, drawn in float64."""
    rng = generator(seed)
    return tree_map(lambda a: torch.randn(a.shape, generator=rng, dtype=torch.float64).to(a), tree)


def inner(a: Any, b: Any) -> Tensor:
    """The inner product of two trees."""
    pairs = zip(tree_leaves(a), tree_leaves(b), strict=True)
    return torch.stack([(x * y).sum() for x, y in pairs]).sum()


def assert_trees_close(actual: Any, expected: Any, *, rtol: float, atol: float) -> None:
    """The same paths, shapes and dtypes, and values within the tolerance."""
    left, right = dict(tree_paths(actual)), dict(tree_paths(expected))
    assert left.keys() == right.keys()
    for path, leaf in right.items():
        torch.testing.assert_close(
            left[path],
            leaf,
            rtol=rtol,
            atol=atol,
            equal_nan=True,
            msg=lambda message, path=path: f"{path}: {message}",
        )


def assert_trees_equal(actual: Any, expected: Any) -> None:
    """The same paths, shapes, dtypes and values, bit for bit."""
    assert_trees_close(actual, expected, rtol=0.0, atol=0.0)


def assert_close_to_scale(actual: Any, expected: Any, tolerance: float) -> None:
    """Every difference is at most ``tolerance`` times the largest value of its tensor.

    For gradients: single entries can be sums that cancel and have no accuracy of their own. Whole tensors
    can: a bias before a batch norm has gradient zero. So a tensor's scale is at least a thousandth of
    the tree's.
    """
    left, right = dict(tree_paths(actual)), dict(tree_paths(expected))
    assert left.keys() == right.keys()
    least = max(leaf.abs().max().item() for leaf in right.values()) / 1000
    assert least > 0
    for path, leaf in right.items():
        assert left[path].shape == leaf.shape, path
        assert left[path].dtype == leaf.dtype, path
        difference = (left[path] - leaf).abs().max().item()
        scale = max(leaf.abs().max().item(), least)
        assert difference <= tolerance * scale, f"{path}: {difference} at a scale of {scale}"


@contextmanager
def unchanged(*trees: Any) -> Iterator[None]:
    """The body leaves every tensor of ``trees`` as it is, and does not even write equal values."""
    leaves = [leaf for tree in trees for leaf in tree_leaves(tree)]
    assert leaves, "nothing to watch"
    before = [(leaf.detach().clone(), leaf._version) for leaf in leaves]
    yield
    for leaf, (values, version) in zip(leaves, before, strict=True):
        assert leaf._version == version, "a tensor was written to"
        torch.testing.assert_close(leaf, values, rtol=0.0, atol=0.0, equal_nan=True)


def assert_nothing_shared(tree: Any, others: Any) -> None:
    """No tensor of ``tree`` has its storage in common with one of ``others``."""
    mine = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(tree)}
    theirs = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(others)}
    assert mine and theirs and not mine & theirs

"""Bounds that follow from the arithmetic: how far float32 is from a truth in float64, on this machine.

What is computed amplifies rounding (a batch norm over few values, an entry taken over the edge of
a ReLU), and instruction sets round differently. So no constant fits. Other computations in float32, which are
right and round differently, show how much is unavoidable; what is tested may be a few times further off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from shufflenet_fn.tree import tree_map, tree_paths

TIMES = 4.0
"""A maximum of few samples underestimates the largest error of rounding; a wrong result is far beyond."""


def rounded_otherwise(tree: Any, count: int) -> list[Any]:
    """Return ``tree`` and copies in which every value is off by at most one unit in the last place."""

    def moved(leaf: Tensor, rng: torch.Generator) -> Tensor:
        if not leaf.is_floating_point():
            return leaf
        signs = torch.randint(-1, 2, leaf.shape, generator=rng)
        return leaf * (1 + signs.to(leaf.dtype) * torch.finfo(leaf.dtype).eps)

    generators = [torch.Generator().manual_seed(seed) for seed in range(count)]
    return [tree, *(tree_map(lambda leaf, rng=rng: moved(leaf, rng), tree) for rng in generators)]


def assert_rounding_only(actual: Any, samples: Sequence[Any], truth: Any) -> None:
    """Assert that each tensor of ``actual`` is hardly further from ``truth`` than the ``samples`` are.

    Args:
        actual: a tree of what is tested.
        samples: trees of other computations in the same dtype.
        truth: a tree in float64.

    A tensor's bound is ``TIMES`` the largest error of the samples in this tensor, plus the same of the whole
    tree relative to its size: a single tensor can be lucky in all samples.
    """
    exact = _doubles(truth)
    found, others = _doubles(actual), [_doubles(sample) for sample in samples]
    size = _norm(exact)
    overall = max(_norm({name: o[name] - exact[name] for name in exact}) for o in others) / size
    assert overall > 0, "the samples are the truth itself"
    for name, wanted in exact.items():
        unavoidable = max(float((o[name] - wanted).norm()) for o in others)
        allowed = TIMES * (unavoidable + overall * float(wanted.norm()))
        error = float((found[name] - wanted).norm())
        assert error <= allowed, f"{name}: error {error}, allowed {allowed}"


def _doubles(tree: Any) -> Mapping[str, Tensor]:
    return {path: leaf.detach().cpu().double() for path, leaf in tree_paths(tree)}


def _norm(tensors: Mapping[str, Tensor]) -> float:
    return float(torch.stack([tensor.norm() for tensor in tensors.values()]).norm())

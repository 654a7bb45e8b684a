"""What is expected of PyTorch's private API (run with torch 2.13.0 and 2.14.1)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from shufflenet_fn_backends.support.private import (
    TransformType,
    active_transforms,
    below_autograd,
    forward_mode,
    mark_constant,
    pytree,
    transforms_active,
)


def test_transforms_are_seen_outermost_first() -> None:
    seen: list[list[TransformType]] = []

    def look(x: Tensor) -> Tensor:
        assert transforms_active()
        seen.append(active_transforms())
        return x.sum()

    torch.func.vmap(torch.func.grad(look))(torch.ones(2, 3))
    assert seen == [[TransformType.Vmap, TransformType.Grad]]
    assert active_transforms() == [] and not transforms_active()


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
def test_forward_mode_is_seen_also_below_vmap() -> None:
    seen: list[bool] = []

    def look(x: Tensor) -> Tensor:
        seen.append(forward_mode())
        return x * 2

    x = torch.ones(2, 3)
    with forward_ad.dual_level():
        torch.func.vmap(look)(forward_ad.make_dual(x, x))
    assert seen == [True] and not forward_mode()


def test_below_autograd_records_nothing() -> None:
    x = torch.ones(3, requires_grad=True)
    with below_autograd():
        y = torch.ops.aten.mul(x, 2)
    assert not y.requires_grad


def test_mark_is_what_torch_sets() -> None:
    def ours() -> int:
        return 1

    def theirs() -> int:
        return 1

    mark_constant(ours)
    torch.compiler.assume_constant_result(theirs)
    assert vars(ours) == vars(theirs)


def test_pytrees_keep_structure_and_paths() -> None:
    tree = {"a": [torch.ones(1), torch.zeros(1)], "b": ()}
    leaves, structure = pytree.tree_flatten(tree)
    assert len(leaves) == 2 and pytree.tree_unflatten(leaves, structure).keys() == tree.keys()
    paths = [pytree.keystr(path) for path, _ in pytree.tree_flatten_with_path(tree)[0]]
    assert paths == ["['a'][0]", "['a'][1]"]

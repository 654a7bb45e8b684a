"""All backends under the transforms of ``torch.func``, compared with ``reference``."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch.func import grad, jvp, vmap

from shufflenet_fn.tree import tree_map
from shufflenet_fn_backends.primitives import Backend
from shufflenet_fn_backends.registry import get_backend
from tests.model.support import inner, random_like
from tests.parity.backends import Row, cases_and_rows
from tests.parity.cases import SMALL, Case, Inputs
from tests.parity.support import autograd, differentiable, loss_of, parted, prepared, stacked
from tests.parity.tolerance import assert_near, tolerance

# torch's own use, at the first forward-mode derivative in a process.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`")

Run = Callable[[Case, Backend[Any], list[Inputs]], Any]
"""Of a case, a backend and three input trees."""


def gradient(case: Case, b: Backend[Any], trees: list[Inputs]) -> Any:
    t, rest = parted(trees[0])
    return grad(loss_of(case, b, rest))(t)


def batched(case: Case, b: Backend[Any], trees: list[Inputs]) -> Any:
    return vmap(lambda t: case.run(b, t))(stacked(trees))


def batched_maps(case: Case, b: Backend[Any], trees: list[Inputs]) -> Any:
    """Maps differ, parameters are shared, and of two maps only the first differs."""
    first = next(iter(trees[0]))
    xs = stacked([t[first] for t in trees])
    return vmap(lambda x: case.run(b, {**trees[0], first: x}))(xs)


def batched_gradient(case: Case, b: Backend[Any], trees: list[Inputs]) -> Any:
    def one(tree: Inputs) -> Inputs:
        t, rest = parted(tree)
        return grad(loss_of(case, b, rest))(t)

    return vmap(one)(stacked(trees))


def nested(case: Case, b: Backend[Any], trees: list[Inputs]) -> Any:
    """Parameters by the outer dimension, maps by the outer and the inner one."""

    def inner_run(xs: Inputs, others: Inputs) -> Any:
        return case.run(b, {**others, **xs})

    xs = [{k: v for k, v in t.items() if k.startswith("x")} for t in trees]
    others = [{k: v for k, v in t.items() if not k.startswith("x")} for t in trees]
    grid = stacked([stacked([x, xs[0]]) for x in xs])
    if not others[0]:
        return vmap(vmap(lambda x: case.run(b, x)))(grid)
    return vmap(vmap(inner_run, in_dims=(0, None)))(grid, stacked(others))


def pushed(case: Case, b: Backend[Any], trees: list[Inputs]) -> Any:
    t, rest = parted(trees[0])
    return jvp(lambda t: differentiable(case.run(b, {**t, **rest})), (t,), (random_like(t, 5),))


def second_derivative(case: Case, b: Backend[Any], trees: list[Inputs]) -> Any:
    t, rest = parted(trees[0])
    direction = random_like(t, 5)
    return grad(lambda t: inner(grad(loss_of(case, b, rest))(t), direction))(t)


def forward_over_reverse(case: Case, b: Backend[Any], trees: list[Inputs]) -> Any:
    t, rest = parted(trees[0])
    return jvp(grad(loss_of(case, b, rest)), (t,), (random_like(t, 5),))[1]


TRANSFORMS: dict[str, Run] = {
    "grad": gradient,
    "vmap": batched,
    "vmap of maps": batched_maps,
    "vmap(grad)": batched_gradient,
    "vmap(vmap)": nested,
    "jvp": pushed,
    "grad(grad)": second_derivative,
    "jvp(grad)": forward_over_reverse,
}


def one_by_one(case: Case, b: Backend[Any], trees: list[Inputs]) -> Any:
    return stacked([case.run(b, t) for t in trees])


def gradients_one_by_one(case: Case, b: Backend[Any], trees: list[Inputs]) -> Any:
    return stacked([autograd(case, b, t)[1] for t in trees])


UNTRANSFORMED: dict[str, Run] = {
    "grad": lambda case, b, trees: autograd(case, b, trees[0])[1],
    "vmap": one_by_one,
    "vmap(grad)": gradients_one_by_one,
}
"""Where the expected value can be had without the transform, it is."""


def three(case: Case, device: torch.device, dtype: torch.dtype, layout: str) -> list[Inputs]:
    return [prepared(case.inputs(seed), device, dtype, layout) for seed in range(3)]


@cache
def expected(name: str, case: Case, device: torch.device, dtype: torch.dtype, layout: str) -> Any:
    run = UNTRANSFORMED.get(name, TRANSFORMS[name])
    return run(case, get_backend("reference"), three(case, device, dtype, layout))


@cases_and_rows(SMALL)
@pytest.mark.parametrize(
    ("dtype", "layout"),
    [(torch.float64, "NCHW"), (torch.float32, "channels_last")],
    ids=["float64", "float32 channels_last"],
)
@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform(
    case: Case, name: str, dtype: torch.dtype, layout: str, row: Row, device: torch.device
) -> None:
    allowed = 10 * tolerance(device, dtype)
    trees = three(case, device, dtype, layout)
    b = row.backend
    try:
        actual = TRANSFORMS[name](case, b, trees)
    except (RuntimeError, NotImplementedError):
        if row.reason(name, dtype):
            return
        raise
    wanted = expected(name, case, device, dtype, layout)
    assert_near(detached(actual), detached(wanted), allowed)


def detached(tree: Any) -> dict[str, Any]:
    return {"": tree_map(torch.detach, tree)}

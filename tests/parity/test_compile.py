"""All backends in one graph: ``torch.compile(fullgraph=True)``, also around ``grad`` and ``jvp``.

``aot_eager`` traces forward and backward as for inductor, without a C++ compiler.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from shufflenet_fn_backends.registry import get_backend
from tests.model.support import random_like
from tests.parity.backends import Row, rows
from tests.parity.cases import SMALL, Case
from tests.parity.support import autograd, loss_of, parted, prepared
from tests.parity.test_transforms import detached
from tests.parity.tolerance import assert_near, tolerance

# torch's own use, at the first forward-mode derivative in a process.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.jit.script`"),
    # Dynamo's own doing, in torch 2.13.
    pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning"),
    # Of integers and tuples alone (``routing``), so that to trace through it is no risk.
    pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`:UserWarning"),
]

CASES = {case.name: case for case in SMALL}


def backward(case: Case, b: Any, inputs: Any, compiled: Callable[[Any], Any]) -> Any:
    return autograd(case._replace(run=lambda b, t: compiled(lambda t: case.run(b, t))(t)), b, inputs)


def of_grad(case: Case, b: Any, inputs: Any, compiled: Callable[[Any], Any]) -> Any:
    t, rest = parted(inputs)
    return compiled(torch.func.grad(loss_of(case, b, rest)))(t)


def of_jvp(case: Case, b: Any, inputs: Any, compiled: Callable[[Any], Any]) -> Any:
    t, rest = parted(inputs)
    v = random_like(t, 5)
    return compiled(lambda t, v: torch.func.jvp(loss_of(case, b, rest), (t,), (v,)))(t, v)


def of_vmap(case: Case, b: Any, inputs: Any, compiled: Callable[[Any], Any]) -> Any:
    t = {**inputs, "x1": torch.stack([inputs["x1"], -inputs["x1"]])}
    dims = {key: 0 if key == "x1" else None for key in t}
    return compiled(torch.func.vmap(lambda t: case.run(b, t), in_dims=(dims,)))(t)


WAYS = {"compile": backward, "compile(grad)": of_grad, "compile(jvp)": of_jvp, "compile(vmap)": of_vmap}


@rows
@pytest.mark.parametrize(
    ("name", "way"),
    [
        ("stage", "compile(grad)"),
        pytest.param("stage", "compile", marks=pytest.mark.campaign),
        *(pytest.param("shuffle, everything", way, marks=pytest.mark.campaign) for way in WAYS),
    ],
)
def test_one_graph(name: str, way: str, row: Row, device: torch.device) -> None:
    allowed = 10 * tolerance(device, torch.float32)
    inputs = prepared(CASES[name].inputs(0), device, torch.float32, "NCHW")
    torch.compiler.reset()

    def compiled(function: Any) -> Any:
        return torch.compile(function, fullgraph=True, backend="aot_eager")

    b = row.backend
    try:
        actual = WAYS[way](CASES[name], b, inputs, compiled)
    except (RuntimeError, NotImplementedError):
        if row.reason("compile", torch.float32):
            return
        raise
    wanted = WAYS[way](CASES[name], get_backend("reference"), inputs, lambda function: function)
    assert_near(detached(actual), detached(wanted), allowed)

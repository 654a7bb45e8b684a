"""All backends compared with ``reference``: outputs, gradients, layouts, dtypes, finite differences."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from shufflenet_fn.tree import tree_leaves, tree_map, tree_unflatten
from shufflenet_fn_backends.registry import get_backend
from tests.model.support import unchanged
from tests.parity.backends import Row, cases_and_rows
from tests.parity.cases import CASES, SMALL, Case, Inputs, Outputs
from tests.parity.support import LAYOUTS, autograd, differentiable, parted, prepared
from tests.parity.tolerance import WIDE, assert_as_accurate, assert_near, tolerance

# torch's own use, at the first forward-mode derivative in a process.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`")

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class Expected(NamedTuple):
    reference: tuple[Outputs, Inputs]
    truth: tuple[Outputs, Inputs]


@cache
def expected(case: Case, device: torch.device, dtype: torch.dtype, layout: str) -> Expected:
    reference = get_backend("reference")
    inputs = prepared(case.inputs(0), device, dtype, layout)
    exact = tree_map(lambda leaf: leaf.cpu().double(), inputs)
    return Expected(autograd(case, reference, inputs), autograd(case, reference, exact))


@cases_and_rows(CASES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_outputs_and_gradients(
    case: Case, layout: str, dtype: torch.dtype, row: Row, device: torch.device
) -> None:
    allowed = tolerance(device, dtype)
    if reason := row.reason(str(dtype).removeprefix("torch."), dtype):
        pytest.skip(reason)
    inputs = prepared(case.inputs(0), device, dtype, layout)
    with unchanged(inputs):
        actual = autograd(case, row.backend, inputs)
    reference, truth = expected(case, device, dtype, layout)
    for part in range(2):
        if dtype in WIDE:
            assert_near(actual[part], reference[part], allowed)
        else:
            assert_as_accurate(actual[part], reference[part], truth[part], allowed)


@cases_and_rows(SMALL)
def test_gradcheck(case: Case, row: Row, device: torch.device) -> None:
    tolerance(device, torch.float64)
    t, rest = parted(prepared(case.inputs(1), device, torch.float64, "NCHW"))
    leaves = [leaf.clone().requires_grad_() for leaf in tree_leaves(t)]

    def outputs(*leaves: Tensor) -> list[Tensor]:
        tree = tree_unflatten(t, list(leaves))
        return list(differentiable(case.run(row.backend, {**tree, **rest})).values())

    forward_mode = row.reason("jvp", torch.float64) is None
    assert torch.autograd.gradcheck(
        outputs, leaves, fast_mode=True, check_forward_ad=forward_mode, check_batched_grad=True
    )

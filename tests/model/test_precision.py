"""Precision policies: their names, and the dtypes of parameters and results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from shufflenet_fn.errors import UsageError
from shufflenet_fn.model.network import apply
from shufflenet_fn.model.variables import Variables
from shufflenet_fn.training.losses import cross_entropy
from shufflenet_fn.training.precision import Policy, get_policy
from shufflenet_fn.tree import tree_leaves
from shufflenet_fn_backends.primitives import Backend
from shufflenet_fn_backends.reference import BACKEND as REFERENCE
from tests.model.support import TINY, assert_trees_equal, examples, tiny_variables, unchanged

F16, F32, BF16, F64 = torch.float16, torch.float32, torch.bfloat16, torch.float64


# For each policy the dtypes of stored parameters; of images and weights of a convolution; of activations and
# weights of a batch norm. Under autocast (O1) the convolutions are given float32 images first and float32
# weights always, and cast inside.
EXPECTED = {
    "O0": (F32, {(F32, F32)}, {(F32, F32)}),
    "fp32": (F32, {(F32, F32)}, {(F32, F32)}),
    "O1": (F32, {(F32, F32), (F16, F32)}, {(F16, F32)}),
    "O2": (F32, {(F16, F16)}, {(F16, F32)}),
    "O3": (F16, {(F16, F16)}, {(F16, F16)}),
    "bf16": (F32, {(BF16, BF16)}, {(BF16, F32)}),
}


def recording() -> tuple[Backend[Tensor], dict[str, set[Any]]]:
    """The reference, and the dtypes that it is called with and those of its moments."""
    seen: dict[str, set[Any]] = {"conv": set(), "norm": set(), "stats": set(), "moments": set()}

    def conv2d(x: Tensor, weight: Tensor, **options: Any) -> Tensor:
        seen["conv"].add((x.dtype, weight.dtype))
        return REFERENCE.conv2d(x, weight, **options)

    def recorded(batch_norm: Callable[..., Any]) -> Callable[..., Any]:
        def call(x: Tensor, weight: Tensor, bias: Tensor, *stats: Tensor, **options: Any) -> Any:
            assert weight.dtype == bias.dtype
            seen["norm"].add((x.dtype, weight.dtype))
            seen["stats"].update(leaf.dtype for leaf in stats)
            result = batch_norm(x, weight, bias, *stats, **options)
            if isinstance(result, tuple):
                seen["moments"].update((result[1].mean.dtype, result[1].saved.dtype))
            return result

        return call

    backend = replace(
        REFERENCE,
        conv2d=conv2d,
        batch_norm_train=recorded(REFERENCE.batch_norm_train),
        batch_norm_eval=recorded(REFERENCE.batch_norm_eval),
    )
    return backend, seen


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("train", [False, True])
def test_dtypes_in_the_network(name: str, train: bool) -> None:
    policy, (params, conv, norm) = get_policy(name), EXPECTED[name]
    assert policy.param_dtype == params
    backend, seen = recording()
    images, _ = examples(4)
    logits, batch_stats = apply(
        TINY, tiny_variables(dtype=policy.param_dtype), images, train=train, backend=backend, policy=policy
    )
    assert logits.dtype == F32
    assert {leaf.dtype for leaf in tree_leaves(batch_stats)} == {F32}
    own = {"stats": set(), "moments": {F32}} if train else {"stats": {F32}, "moments": set()}
    assert seen == {"conv": conv, "norm": norm, **own}


@pytest.mark.parametrize("name", EXPECTED)
def test_gradients_have_the_parameters_dtype(name: str) -> None:
    policy = get_policy(name)
    variables = tiny_variables(dtype=policy.param_dtype)
    images, labels = examples(8)

    def loss_fn(params: Any) -> Tensor:
        logits, _ = apply(TINY, Variables(params, variables.batch_stats), images, train=True, policy=policy)
        return cross_entropy(logits, labels)

    with unchanged(variables, images):
        grads, loss = torch.func.grad_and_value(loss_fn)(variables.params)
    assert loss.dtype == F32
    assert {leaf.dtype for leaf in tree_leaves(grads)} == {policy.param_dtype}
    assert all(leaf.isfinite().all() for leaf in tree_leaves(grads))


def test_without_a_policy_the_arguments_decide() -> None:
    images, _ = examples(2, dtype=F64)
    logits, batch_stats = apply(TINY, tiny_variables(dtype=F64), images, train=True)
    assert logits.dtype == F64
    assert {leaf.dtype for leaf in tree_leaves(batch_stats)} == {F64}
    images = images.float()
    plain, *same = (
        apply(TINY, tiny_variables(), images, train=True, policy=policy)
        for policy in (None, get_policy("O0"))
    )
    assert_trees_equal(same, [plain])


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("p=f32,c=bf16,o=f32", Policy(F32, BF16, F32, F32)),
        ("params=float32, compute=float16", Policy(F32, F16, F32, F32)),
        ("c=f16,n=f16", Policy(F32, F16, F32, F16)),
        ("p=f64,c=f64,o=f64,n=f64", Policy(F64, F64, F64, F64)),
        ("output=bfloat16", Policy(output_dtype=BF16)),
        ("p=f32,c=f32,o=f32", get_policy("O0")),
        ("fp32", get_policy("O0")),
        ("c=f16", get_policy("O2")),
        ("p=f16,c=f16,o=f32,n=f16", get_policy("O3")),
        ("c=bf16", get_policy("bf16")),
    ],
)
def test_the_grammar(text: str, policy: Policy) -> None:
    assert get_policy(text) == policy


NAMES = ("O0", "O1", "O2", "O3", "bf16", "p=f32,c=bf16,o=f32")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        *((text, NAMES) for text in ("O4", "o2", "half", "", "fp16")),
        *((text, ("cannot read",)) for text in ("p=f31", "q=f32", "p=f32,", "c=f16;o=f32", "=", "p=f32,c")),
    ],
)
def test_bad_precisions_name_what_is_allowed(text: str, said: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as error:
        get_policy(text)
    assert all(part in str(error.value) for part in (repr(text), *said))

"""``apply`` under every ``torch.func`` transform and ``torch.compile``, without changes to its arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import functorch
import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad, jacfwd, jacrev, jvp, vjp, vmap

from shufflenet_fn.model.inference import fold, infer, make_predictor
from shufflenet_fn.model.network import apply, features
from shufflenet_fn.model.variables import Variables
from shufflenet_fn.training.losses import cross_entropy
from shufflenet_fn.training.precision import get_policy
from shufflenet_fn.tree import tree_leaves, tree_map, tree_unflatten
from tests.model.support import (
    TINY,
    assert_close_to_scale,
    assert_trees_close,
    assert_trees_equal,
    examples,
    inner,
    random_like,
    tiny_variables,
    unchanged,
)

# torch's own use, at the first forward-mode derivative in a process.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script`:FutureWarning")

DOUBLE = torch.float64
TOLERANCE = 1e-11


Predict = Callable[[Any], Tensor]


def evaluated(images: Any) -> Tensor:
    return apply(TINY, tiny_variables(), images)[0]


def inferred(images: Any) -> Tensor:
    return infer(TINY, fold(TINY, tiny_variables()), images)


def predicted(images: Any) -> Tensor:
    return make_predictor(TINY, tiny_variables())(images)


def pooled(images: Any) -> Tensor:
    return features(TINY, tiny_variables(), images, at="pooled")["pooled"]


predictors = pytest.mark.parametrize("predict", [evaluated, inferred, predicted, pooled])


def loss_of(
    variables: Variables, images: Tensor, labels: Tensor, *, train: bool = False
) -> Callable[[Any], Tensor]:
    """``params -> loss``."""

    def loss(params: Any) -> Tensor:
        logits, _ = apply(TINY, Variables(params, variables.batch_stats), images, train=train)
        return cross_entropy(logits, labels)

    return loss


@pytest.mark.parametrize("train", [False, True])
def test_func_grad_equals_autograd(train: bool) -> None:
    variables = tiny_variables(dtype=DOUBLE)
    loss = loss_of(variables, *examples(4, dtype=DOUBLE), train=train)
    leaves = [leaf.clone().requires_grad_() for leaf in tree_leaves(variables.params)]
    params = tree_unflatten(variables.params, leaves)
    expected = tree_unflatten(params, list(torch.autograd.grad(loss(params), leaves)))
    assert_close_to_scale(grad(loss)(variables.params), expected, TOLERANCE)


def test_functorch_gives_the_same_gradients() -> None:
    """torch contains it; its names warn that they are those of ``torch.func``."""
    variables, (images, labels) = tiny_variables(), examples(3)

    def one(params: Any, image: Tensor, label: Tensor) -> Tensor:
        return loss_of(variables, image[None], label[None])(params)

    with pytest.warns(FutureWarning, match=r"torch\.func"):
        found = functorch.vmap(functorch.grad(one), (None, 0, 0))(variables.params, images, labels)
    expected = vmap(grad(one), (None, 0, 0))(variables.params, images, labels)
    assert_trees_equal(found, expected)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("own_images", [False, True])
def test_an_ensemble_is_its_members(train: bool, own_images: bool) -> None:
    members = [tiny_variables(seed, dtype=DOUBLE) for seed in range(3)]
    stacked = tree_map(lambda *a: torch.stack(a), *members)
    images = torch.stack([examples(4, seed=seed, dtype=DOUBLE)[0] for seed in range(3)])

    def member(variables: Variables, x: Tensor) -> tuple[Tensor, Any]:
        return apply(TINY, variables, x, train=train)

    if own_images:
        together = vmap(member)(stacked, images)
        singly = [member(m, x) for m, x in zip(members, images, strict=True)]
    else:
        together = vmap(member, in_dims=(0, None))(stacked, images[0])
        singly = [member(m, images[0]) for m in members]

    expected = tree_map(lambda *a: torch.stack(a), *singly)
    assert_trees_close(together, expected, rtol=1e-10, atol=1e-12)
    assert not torch.equal(together[0][0], together[0][1])


@pytest.mark.parametrize("train", [False, True])
def test_jvp_is_the_transpose_of_vjp(train: bool) -> None:
    variables = tiny_variables(dtype=DOUBLE)
    images, _ = examples(4, dtype=DOUBLE)

    def logits_of(params: Any) -> Tensor:
        return apply(TINY, Variables(params, variables.batch_stats), images, train=train)[0]

    tangent = random_like(variables.params, 5)
    logits, pushed = jvp(logits_of, (variables.params,), (tangent,))
    cotangent = random_like(logits, 6)
    (pulled,) = vjp(logits_of, variables.params)[1](cotangent)
    assert pushed.abs().max() > 1e-3
    torch.testing.assert_close(inner(pushed, cotangent), inner(tangent, pulled), rtol=1e-9, atol=0)


def test_jacobians_by_row_and_by_column_agree() -> None:
    variables = tiny_variables(dtype=DOUBLE)
    images, _ = examples(2, dtype=DOUBLE)

    def logits_of(head: Any) -> Tensor:
        params = {**variables.params, "fc": head}
        return apply(TINY, Variables(params, variables.batch_stats), images)[0]

    rows = jacrev(logits_of)(variables.params["fc"])
    assert rows["weight"].shape == (2, 5, 5, 32)
    assert torch.equal(rows["bias"], torch.eye(5, dtype=DOUBLE).expand(2, 5, 5))
    columns = jacfwd(logits_of)(variables.params["fc"])
    assert_trees_close(columns, rows, rtol=1e-12, atol=1e-14)


def test_jacobian_by_the_image() -> None:
    variables = tiny_variables(dtype=DOUBLE)
    images, _ = examples(2, 16, dtype=DOUBLE)
    jacobian = jacrev(lambda x: apply(TINY, variables, x)[0])(images)
    assert jacobian.shape == (2, 5, 2, 3, 16, 16)
    assert jacobian[0, :, 0].abs().max() > 0
    # In evaluation no image can have an influence on another's logits.
    assert not jacobian[0, :, 1].any() and not jacobian[1, :, 0].any()


def test_second_derivatives() -> None:
    """Hessian times vector, once as grad of grad and once as a difference of gradients."""
    variables = tiny_variables(dtype=DOUBLE)
    loss = loss_of(variables, *examples(4, dtype=DOUBLE), train=True)
    tangent = random_like(variables.params, 7)
    exact = grad(lambda p: inner(grad(loss)(p), tangent))(variables.params)
    eps = 1e-7
    ahead, behind = (
        grad(loss)(tree_map(lambda p, t, s=sign: p + s * eps * t, variables.params, tangent))
        for sign in (1, -1)
    )
    numeric = tree_map(lambda a, b: (a - b) / (2 * eps), ahead, behind)
    assert_close_to_scale(exact, numeric, 1e-5)


def test_features_under_every_transform() -> None:
    variables, images = tiny_variables(dtype=DOUBLE), examples(3, dtype=DOUBLE)[0]

    def maps(x: Tensor) -> dict[str, Tensor]:
        return features(TINY, variables, x, at=("stage3", "pooled"))

    with unchanged(variables, images):
        found, tangent = jvp(maps, (images,), (random_like(images, 5),))
        cotangent = random_like(found, 6)
        (pulled,) = vjp(maps, images)[1](cotangent)
        torch.testing.assert_close(
            inner(tangent, cotangent), inner(random_like(images, 5), pulled), rtol=1e-9, atol=0
        )
        singly = vmap(maps)(images[:, None])
        assert_close_to_scale(tree_map(lambda a: a[:, 0], singly), found, TOLERANCE)
        rows, columns = (jacobian(maps)(images[:1, :, :16, :16]) for jacobian in (jacrev, jacfwd))
        assert_close_to_scale(columns, rows, TOLERANCE)
        torch.compiler.reset()
        compiled = torch.compile(maps, fullgraph=True, backend="aot_eager")
        assert_close_to_scale(compiled(images), found, TOLERANCE)


@pytest.mark.parametrize("names", ["stage9", "pool", ("stage2", "fc"), (3,)])
def test_unknown_feature_is_refused(names: Any) -> None:
    wrong = names if isinstance(names, str) else names[-1]
    with pytest.raises(ValueError, match=rf"unknown feature {wrong!r}.*conv1, .*pooled"):
        features(TINY, tiny_variables(), examples(2)[0], at=names)


@pytest.mark.parametrize("train", [False, True])
def test_no_argument_is_written_to(train: bool) -> None:
    variables = tiny_variables()
    images, labels = examples(4)
    with unchanged(variables, images, labels):
        logits, batch_stats = apply(TINY, variables, images, train=train)
        grad(loss_of(variables, images, labels, train=train))(variables.params)
    assert logits.shape == (4, TINY.num_classes)
    if train:
        old = {leaf.data_ptr() for leaf in tree_leaves(variables)}
        assert not old & {leaf.data_ptr() for leaf in tree_leaves(batch_stats)}


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 1, 32, 32), (2, 32, 32, 3), (2, 3, 32), (2, 3, 0, 32)])
@predictors
def test_images_of_another_shape_are_refused(predict: Predict, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\(N, 3, H, W\)") as error:
        predict(torch.zeros(shape))
    assert str(shape) in str(error.value)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.bool, torch.complex64])
@predictors
def test_images_that_are_not_floating_point_are_refused(predict: Predict, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=f"floating-point dtype, not {dtype}.*normalize"):
        predict(torch.zeros((2, 3, 32, 32), dtype=dtype))
    with pytest.raises(ValueError, match=r"must be a torch\.Tensor.*not ndarray"):
        predict(np.zeros((2, 3, 32, 32), np.float32))


def test_images_of_another_dtype_need_a_policy() -> None:
    variables, double = tiny_variables(), examples(2, dtype=DOUBLE)[0]
    for predict in (evaluated, pooled):
        with pytest.raises(ValueError, match=r"x is torch\.float64 .* are torch\.float32: .*policy"):
            predict(double)
    with pytest.raises(ValueError, match=r"x is torch\.float64"):
        apply(TINY, variables, double, policy=get_policy("O1"))
    expected, _ = apply(TINY, variables, double.float())
    assert torch.equal(apply(TINY, variables, double, policy=get_policy("fp32"))[0], expected)
    assert torch.equal(make_predictor(TINY, variables)(double), predicted(double.float()))
    with torch.autocast("cpu", torch.bfloat16):
        assert apply(TINY, variables, double.bfloat16())[0].isfinite().all()


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (1, 3, 7, 20), (0, 3, 64, 64)])
def test_one_value_per_channel_is_refused_in_training(shape: tuple[int, ...]) -> None:
    variables, images = tiny_variables(), torch.zeros(shape)
    loss = loss_of(variables, images, torch.zeros(shape[0], dtype=torch.long), train=True)
    for function in (loss, grad(loss), torch.compile(loss, backend="eager")):
        with pytest.raises(ValueError, match=r"more in training: give more images, or .* 32 pixels"):
            function(variables.params)
    with pytest.raises(ValueError, match="more in training"):
        vmap(lambda x: apply(TINY, variables, x, train=True)[0])(images.expand(3, *shape))
    apply(TINY, variables, images)
    for larger in ((2, 3, 32, 32), (1, 3, 33, 8)):
        logits, _ = apply(TINY, variables, torch.randn(larger), train=True)
        assert logits.isfinite().all()

"""Folded inference against ``apply`` in evaluation."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.func import grad

from shufflenet_fn.model.architecture import conv_layers
from shufflenet_fn.model.config import ARCHITECTURES, get_config
from shufflenet_fn.model.inference import InferenceParams, fold, infer, make_predictor
from shufflenet_fn.model.network import apply, features
from shufflenet_fn.training.precision import get_policy
from shufflenet_fn.tree import tree_cast, tree_leaves, tree_map
from shufflenet_fn_backends.names import BACKEND_NAMES
from shufflenet_fn_backends.registry import get_backend
from tests.model.support import TINY, examples, generator, one_thread, tiny_variables, unchanged

__all__ = ["one_thread"]

# ``npu`` is ``routed`` under another name.
backends = pytest.mark.parametrize("name", [name for name in BACKEND_NAMES if name != "npu"])


def relative(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize("arch", ARCHITECTURES)
@backends
def test_logits_are_those_of_apply(arch: str, name: str) -> None:
    config = get_config(arch, num_classes=10)
    variables, backend = tiny_variables(config=config), get_backend(name)
    images, _ = examples(3, 64, num_classes=10)
    expected, _ = apply(config, variables, images)
    with unchanged(variables, images):
        params = fold(config, variables, backend=backend)
        found = infer(config, params, images, backend=backend)
        predicted = make_predictor(config, variables, backend=backend)(images)
        pooled = infer(config, params, images, backend=backend, pooled=True)
        served = make_predictor(config, variables, backend=backend, pooled=True)(images)
    assert relative(found, expected) <= 1e-5
    assert relative(predicted, expected) <= 1e-5
    for inputs in (pooled, served):
        assert relative(inputs, features(config, variables, images)["pooled"]) <= 1e-5


@backends
def test_in_float64_nothing_is_lost(name: str) -> None:
    variables, backend = tiny_variables(dtype=torch.float64), get_backend(name)
    images, _ = examples(3, 32, dtype=torch.float64)
    expected, _ = apply(TINY, variables, images)
    found = infer(TINY, fold(TINY, variables, backend=backend), images, backend=backend)
    assert relative(found, expected) <= 1e-12


@pytest.mark.parametrize("precision", ["bf16", "O1", "O2", "O3"])
@pytest.mark.parametrize("name", ["reference", "routed", "cpu"])
def test_half_precision_is_as_accurate_as_apply(precision: str, name: str) -> None:
    policy, backend = get_policy(precision), get_backend(name)
    variables = tiny_variables()
    images, _ = examples(4, 32)
    exact, _ = apply(TINY, tree_cast(variables, torch.float64), images.double())
    half = variables._replace(params=tree_cast(variables.params, policy.param_dtype))
    usual, _ = apply(TINY, half, images, policy=policy)
    params = fold(TINY, half, backend=backend)
    found = infer(TINY, params, images, backend=backend, policy=policy)
    predicted = make_predictor(TINY, half, backend=backend, policy=policy)(images)
    assert found.dtype == predicted.dtype == torch.float32
    allowed = 2 * relative(usual.double(), exact)
    assert relative(found.double(), exact) <= allowed
    assert relative(predicted.double(), exact) <= allowed


@pytest.mark.parametrize("threads", [1, 3])
def test_odd_sizes(threads: int) -> None:
    variables = tiny_variables()
    torch.set_num_threads(threads)
    for ordered in (get_backend("cpu"), replace(get_backend("cpu"), permuted=None)):
        predict = make_predictor(TINY, variables, backend=ordered)
        for side, count in ((1, 1), (17, 2), (47, 5), (17, 1)):
            images = torch.randn(count, 3, side, side + 3, generator=generator(side))
            assert relative(predict(images), apply(TINY, variables, images)[0]) <= 1e-5


def test_a_predictor_may_be_called_from_several_threads() -> None:
    predict = make_predictor(TINY, tiny_variables(), backend=get_backend("cpu"))
    batches = [torch.randn(2, 3, 32, 32, generator=generator(i)) for i in range(8)]
    expected = [predict(x) for x in batches]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda x: [predict(x) for _ in range(20)], batches))
    for results, wanted in zip(found, expected, strict=True):
        assert all(torch.equal(result, wanted) for result in results)


def test_predictor_ignores_later_weight_changes() -> None:
    variables, (images, _) = tiny_variables(), examples(2, 32)
    predict = make_predictor(TINY, variables, backend=get_backend("cpu"))
    expected = predict(images)
    for leaf in tree_leaves(variables):
        leaf.mul_(2.0)
    assert torch.equal(predict(images), expected)


def test_infer_differentiates() -> None:
    variables, images = tiny_variables(), examples(2, 32)[0]

    def score(x: Tensor, name: str) -> Tensor:
        backend = get_backend(name)
        params = fold(TINY, variables, backend=backend)
        return infer(TINY, params, x, backend=backend)[:, 0].sum()

    expected = grad(lambda x: apply(TINY, variables, x)[0][:, 0].sum())(images)
    for name in BACKEND_NAMES:
        assert relative(grad(score)(images, name), expected) <= 1e-4, name


def test_folded_parameters_are_a_pytree() -> None:
    params = fold(TINY, tiny_variables(), backend=get_backend("routed"))
    doubled = tree_map(lambda leaf: 2 * leaf, params)
    assert isinstance(doubled, InferenceParams)
    assert doubled.permuted
    assert len(tree_leaves(params)) == 2 * len(list(conv_layers(TINY))) + 2


def test_parameters_for_another_backend_are_refused() -> None:
    images, _ = examples(1, 32)
    params = fold(TINY, tiny_variables(), backend=get_backend("routed"))
    with pytest.raises(ValueError, match="folded for another backend than reference"):
        infer(TINY, params, images)
    with pytest.raises(ValueError, match="folded for another backend than cpu"):
        infer(TINY, fold(TINY, tiny_variables()), images, backend=get_backend("cpu"))

"""The network compared with torchvision's, with the same weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from shufflenet_fn.checkpoint.torchvision import from_torchvision, to_torchvision
from shufflenet_fn.model.channel_order import to_permuted
from shufflenet_fn.model.config import FEATURES, get_config
from shufflenet_fn.model.network import apply, features
from shufflenet_fn.model.variables import Variables
from shufflenet_fn_backends.registry import get_backend
from tests.model.support import assert_close_to_scale, assert_trees_close, examples

pytest.importorskip("torchvision")

from tests.model.peers import WIDTHS, peer

SIZES = ((224, 224), (97, 130), (64, 64), (33, 31), (1, 1))


@pytest.mark.parametrize(
    ("width", "size", "num_classes"),
    [*((width, size, 10) for width in WIDTHS for size in SIZES), ("x1_0", (128, 128), 1000)],
)
def test_logits_in_evaluation_are_bit_equal(width: str, size: tuple[int, int], num_classes: int) -> None:
    module = peer(width, num_classes=num_classes).eval()
    config = get_config(width, num_classes=num_classes)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(3))

    with torch.no_grad():
        expected = module(images)
        logits, _ = apply(config, from_torchvision(module.state_dict(), config), images)

    assert expected.std() > 0
    assert torch.equal(logits, expected)


# Measured: equal but for 2e-16 in variances in float64, and for 2e-7 in float32. The room is for kernels that
# sum in another order.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 2e-5)], ids=str)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_training_pass(width: str, dtype: torch.dtype, tolerance: float) -> None:
    """Loss, every gradient and every running statistic."""
    config = get_config(width, num_classes=10)
    module = peer(width, dtype=dtype).train()
    variables = from_torchvision(module.state_dict(), config)
    images, labels = examples(4, 64, num_classes=10, dtype=dtype)

    def loss_fn(params: Any) -> tuple[Tensor, Any]:
        logits, batch_stats = apply(config, Variables(params, variables.batch_stats), images, train=True)
        return nnf.cross_entropy(logits, labels), batch_stats

    grads, (loss, batch_stats) = torch.func.grad_and_value(loss_fn, has_aux=True)(variables.params)
    expected_loss = nnf.cross_entropy(module(images), labels)
    expected_loss.backward()

    torch.testing.assert_close(loss, expected_loss.detach(), rtol=tolerance, atol=0.0)
    parameters = dict(module.named_parameters())
    state_dict = {**module.state_dict(), **{key: p.grad for key, p in parameters.items()}}
    expected = from_torchvision(state_dict, config)
    assert_close_to_scale(grads, expected.params, tolerance)
    assert_close_to_scale(batch_stats, expected.batch_stats, tolerance)
    # As many as torchvision has, so none was left out of the comparison.
    assert len(to_torchvision(Variables(grads, batch_stats), config)) == len(module.state_dict())


@pytest.mark.parametrize(("momentum", "eps"), [(0.0, 1e-5), (0.25, 1e-5), (1.0, 1e-5), (0.1, 0.1)])
def test_momentum_and_epsilon_of_batch_norms_are_torchs(momentum: float, eps: float) -> None:
    module = peer("x0_5", dtype=torch.float64).train()
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum, norm.eps = momentum, eps
    config = get_config("x0_5", num_classes=10, bn_momentum=momentum, bn_eps=eps)
    variables = from_torchvision(module.state_dict(), config)
    images, _ = examples(4, 64, dtype=torch.float64)

    logits, batch_stats = apply(config, variables, images, train=True)

    torch.testing.assert_close(logits, module(images), rtol=1e-11, atol=1e-11)
    expected = from_torchvision(module.state_dict(), config)
    assert_trees_close(batch_stats, expected.batch_stats, rtol=1e-11, atol=1e-12)


def test_channels_last_images_give_the_same_logits() -> None:
    module = peer("x0_5").eval()
    config = get_config("x0_5", num_classes=10)
    variables = from_torchvision(module.state_dict(), config)
    images, _ = examples(2, 64)

    logits, _ = apply(config, variables, images.to(memory_format=torch.channels_last))

    torch.testing.assert_close(logits, module(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("width", WIDTHS)
def test_features_equal_those_of_torchvision(width: str) -> None:
    from torchvision.models.feature_extraction import create_feature_extractor

    module = peer(width).eval()
    config = get_config(width, num_classes=10)
    variables, routed = from_torchvision(module.state_dict(), config), get_backend("routed")
    images, _ = examples(3, 64)
    nodes = {**{name: name for name in FEATURES[:-1]}, "mean": "pooled"}
    with torch.no_grad():
        expected = create_feature_extractor(module, nodes)(images)
        found = features(config, variables, images, at=FEATURES)
        moved = features(config, variables, images, at=FEATURES, backend=routed)
        permuted = features(
            config, to_permuted(config, variables), images, at=FEATURES, backend=routed.permuted
        )
    assert list(found) == list(FEATURES)
    for name in FEATURES:
        assert torch.equal(found[name], expected[name]), name
        assert_close_to_scale(moved[name], expected[name], 1e-5)
        assert_close_to_scale(permuted[name], expected[name], 1e-5)

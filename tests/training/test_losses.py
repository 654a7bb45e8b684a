"""Losses and counts of correct predictions, compared with torch and with counts by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

from shufflenet_fn.training.losses import Mix, correct_counts, cross_entropy, mixed_cross_entropy
from tests.model.support import generator


def batch(count: int, classes: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    rng = generator(3)
    logits = torch.randn(count, classes, generator=rng, dtype=torch.float64).to(dtype)
    return logits, torch.randint(0, classes, (count,), generator=rng)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_label_smoothing_is_torchs_and_megviis(smoothing: float) -> None:
    logits, labels = batch(7, 10, torch.float64)
    loss = cross_entropy(logits, labels, label_smoothing=smoothing)
    torch.testing.assert_close(
        loss, nnf.cross_entropy(logits, labels, label_smoothing=smoothing), rtol=1e-14, atol=0.0
    )
    target = (1 - smoothing) * nnf.one_hot(labels, 10).double() + smoothing / 10
    torch.testing.assert_close(loss, -(target * logits.log_softmax(1)).sum(1).mean(), rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_logits_are_widened_first(dtype: torch.dtype) -> None:
    logits, labels = batch(64, 1000, dtype)
    loss = cross_entropy(logits, labels)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, nnf.cross_entropy(logits.float(), labels))
    assert cross_entropy(logits.double(), labels).dtype == torch.float64


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixed_loss_equals_soft_target_loss(smoothing: float) -> None:
    logits, labels = batch(8, 10, torch.float64)
    partners, weight = labels.flip(0), torch.tensor(0.3, dtype=torch.float64)
    target = weight * nnf.one_hot(labels, 10) + (1 - weight) * nnf.one_hot(partners, 10)

    def ours(logits: Tensor) -> Tensor:
        mix = Mix(partners, weight)
        return mixed_cross_entropy(logits, labels, mix, label_smoothing=smoothing)

    def expected(logits: Tensor) -> Tensor:
        return nnf.cross_entropy(logits, target, label_smoothing=smoothing)

    torch.testing.assert_close(ours(logits), expected(logits), rtol=1e-13, atol=0.0)
    torch.testing.assert_close(
        torch.func.grad(ours)(logits), torch.func.grad(expected)(logits), rtol=1e-12, atol=1e-15
    )


def test_plain_labels_give_the_plain_loss() -> None:
    logits, labels = batch(8, 10)
    assert torch.equal(mixed_cross_entropy(logits, labels, ()), cross_entropy(logits, labels))


@pytest.mark.parametrize("classes", [1, 2, 5, 6, 100])
def test_topk_counts_equal_sorted_ranks(classes: int) -> None:
    logits, labels = batch(200, classes)
    ranks = [
        row.argsort(descending=True).tolist().index(label)
        for row, label in zip(logits, labels.tolist(), strict=True)
    ]
    top1, top5 = correct_counts(logits, labels)
    assert top1.item() == sum(rank < 1 for rank in ranks)
    assert top5.item() == sum(rank < 5 for rank in ranks)
    assert top1.dtype == top5.dtype == torch.int64 and top1.shape == ()
    if classes <= 5:
        assert top5.item() == 200


def test_other_ks() -> None:
    logits, labels = batch(200, 10)
    one, three, five, ten = correct_counts(logits, labels, (1, 3, 5, 10))
    assert 0 < one < three < five < ten == 200


@pytest.mark.parametrize("classes", [3, 10])
def test_a_row_with_a_nan_is_wrong(classes: int) -> None:
    logits = torch.zeros(4, classes)
    logits[:, 1] = 9.0
    labels = torch.ones(4, dtype=torch.int64)
    assert [count.item() for count in correct_counts(logits, labels)] == [4, 4]
    logits[2, 1] = float("nan")
    logits[3, 0] = float("nan")
    assert [count.item() for count in correct_counts(logits, labels)] == [2, 2]
    assert [c.item() for c in correct_counts(torch.full_like(logits, torch.nan), labels)] == [0, 0]


def test_infinities_are_ordered() -> None:
    logits = torch.tensor([[1.0, float("inf"), -float("inf")]])
    assert correct_counts(logits, torch.tensor([1]))[0].item() == 1
    assert correct_counts(logits, torch.tensor([2]), (2,))[0].item() == 0

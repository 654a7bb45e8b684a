"""Evaluation computes with folded batch norms: the scores are those of ``apply``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch

from shufflenet_fn.config.settings import EvalSettings
from shufflenet_fn.data.bad_images import BadImage
from shufflenet_fn.data.batches import Batch
from shufflenet_fn.data.opening import open_train_val
from shufflenet_fn.distributed.world import World
from shufflenet_fn.model.channel_order import in_order_of
from shufflenet_fn.run.build import bad_images_of, build_predictor, build_prepare
from shufflenet_fn.run.evaluation import evaluate
from shufflenet_fn.run.reporting import left_out_line
from shufflenet_fn.training.precision import get_policy
from shufflenet_fn.training.step import Examples, make_eval_step
from shufflenet_fn_backends.registry import get_backend
from shufflenet_fn_backends.support.errors import UserError
from tests.model.support import TINY, generator, one_thread, tiny_variables

__all__ = ["one_thread"]

CPU = torch.device("cpu")


def batches() -> list[Batch]:
    rng = generator(3)
    return [
        Batch(
            torch.randint(0, 256, (count, 3, 32, 32), generator=rng, dtype=torch.uint8),
            torch.randint(0, TINY.num_classes, (count,), generator=rng),
            torch.arange(count),
        )
        for count in (4, 4, 3)
    ]


def in_place(batch: Batch) -> Examples:
    return Examples(batch.images, batch.labels)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "O2"])
@pytest.mark.parametrize("name", ["reference", "routed", "cpu"])
def test_scores_are_those_of_apply(name: str, precision: str) -> None:
    policy, prepare = get_policy(precision), build_prepare(torch.channels_last, CPU)
    # As a training run has it: the state in permuted order, and the twin that takes that.
    variables, backend = in_order_of(TINY, tiny_variables(), get_backend(name))
    predictor = build_predictor(TINY, backend=backend, policy=policy, prepare=prepare)
    scores = evaluate(predictor(variables), batches(), feed=in_place, world=World())

    step = make_eval_step(TINY, prepare=prepare)
    sums = [step(tiny_variables(), Examples(b.images, b.labels)) for b in batches()]
    assert scores.num_images == 11
    tolerance = 1e-5 if precision == "fp32" else 2e-2
    assert scores.loss == pytest.approx(float(sum(s.loss for s in sums)) / 11, rel=tolerance)
    if precision == "fp32":
        assert scores.accuracy1 == pytest.approx(100 * sum(int(s.correct1) for s in sums) / 11)
        assert scores.accuracy5 == 100.0


def test_evaluation_does_not_normalise_batch_by_batch() -> None:
    """The convolutions' own batch norms are gone: nothing but ``conv2d_bias`` is called."""

    def refused(*arguments: Any, **options: Any) -> NoReturn:
        raise AssertionError("not folded")

    backend = replace(get_backend("reference"), conv2d=refused, batch_norm_eval=refused)
    predictor = build_predictor(
        TINY, backend=backend, policy=get_policy("fp32"), prepare=build_prepare(torch.preserve_format, CPU)
    )
    scores = evaluate(predictor(tiny_variables()), batches(), feed=in_place, world=World())
    assert scores.num_images == 11


# ---- what a run says about its bad images, and where it writes them down ----


def test_unwritable_record_names_file_and_image(image_folder: Path, tmp_path: Path) -> None:
    settings, file = EvalSettings(on_bad_image="skip"), tmp_path / "gone" / "bad_images.jsonl"
    bad = bad_images_of(open_train_val(image_folder)[0], settings, file)
    assert bad is not None
    with pytest.raises(UserError) as caught:
        bad.report(7, BadImage("train/a/7.jpg", "the file is empty"))
    assert f"{file}: No such file" in str(caught.value)
    assert "train/a/7.jpg" in str(caught.value) and "--resume" in str(caught.value)


@pytest.mark.parametrize(
    ("names", "end"),
    [
        ((), "the scores are over 93 images"),
        (("a", "b"), "93 images. They are: a, b"),
        (tuple("abcdefg"), "93 images. They are: a, b, c, d, e and 2 more"),
    ],
)
def test_images_left_out_are_named(names: tuple[str, ...], end: str) -> None:
    line = left_out_line(100, 93, names)
    assert line is not None and line.endswith(end)

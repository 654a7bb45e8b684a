"""Reading whole batches: decode and transform samples straight into one buffer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from shufflenet_fn.data.augment.mixing import Mixing, mix_images, partners
from shufflenet_fn.data.augment.sample import SampleAugmentation
from shufflenet_fn.data.decode import RgbImage, open_picture
from shufflenet_fn.data.randomness import sample_rng
from shufflenet_fn.data.samples import Samples
from shufflenet_fn.data.schedule import StepSchedule
from shufflenet_fn.data.scratch import Scratch
from shufflenet_fn.data.transforms import EvalTransform, TrainTransform
from shufflenet_fn.training.losses import Mix


class Batch(NamedTuple):
    """What a loader yields, on the CPU.

    Attributes:
      images: uint8 (N, 3, H, W) in channels_last memory.
      labels: int64 (N,).
      indices: int64 (N,), the samples' positions in their folder.
      mix: what mixup or cutmix made of the labels, ``()`` without them.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor
    mix: Mix | tuple[()] = ()


class Stopped(Exception):
    """The loader was closed while this batch was being read."""


def train_batch(
    step: int,
    stopped: Callable[[], bool],
    *,
    folder: Samples,
    transform: TrainTransform,
    augment: SampleAugmentation,
    mixing: Mixing | None,
    schedule: StepSchedule,
    seed: int,
    scratch: Scratch,
) -> Batch:
    """The augmented batch of ``step``. Raises as ``read_batch``."""
    epoch, indices, repeats = schedule(step)

    def fill(slot: int, index: int, out: RgbImage) -> None:
        picture = open_picture(folder.read(index), name=folder.name(index), scratch=scratch)
        repeat = int(repeats[slot])
        rng = sample_rng(seed, epoch, index, repeat=repeat)
        transform(picture, rng, out=out, scratch=scratch)
        augment(out, seed=seed, epoch=epoch, index=index, repeat=repeat)

    batch = read_batch(folder, indices, transform.size, fill, stopped)
    return batch if mixing is None else mixed(batch, mixing, seed=seed, step=step)


def mixed(batch: Batch, mixing: Mixing, *, seed: int, step: int) -> Batch:
    """``batch``, of an even size, with its images mixed in place and the labels of their partners."""
    images = batch.images.permute(0, 2, 3, 1).numpy()
    blend = mixing.draw(seed=seed, step=step, height=images.shape[1], width=images.shape[2])
    mix_images(images, blend)
    labels = torch.from_numpy(partners(batch.labels.numpy()))
    return batch._replace(mix=Mix(labels, torch.tensor(blend.weight)))


def eval_batch(
    number: int,
    stopped: Callable[[], bool],
    *,
    folder: Samples,
    transform: EvalTransform,
    share: range,
    batch_size: int,
    scratch: Scratch,
) -> Batch:
    """Batch ``number`` of a rank's ``share``; the last may be short. Raises as ``read_batch``."""
    indices = np.array(share[number * batch_size : (number + 1) * batch_size], dtype=np.int64)

    def fill(slot: int, index: int, out: RgbImage) -> None:
        picture = open_picture(folder.read(index), name=folder.name(index), scratch=scratch)
        transform(picture, out=out, scratch=scratch)

    return read_batch(folder, indices, transform.size, fill, stopped)


def read_batch(
    folder: Samples,
    indices: npt.NDArray[np.int64],
    size: int,
    fill: Callable[[int, int, RgbImage], None],
    stopped: Callable[[], bool],
) -> Batch:
    """Read samples into one (N, size, size, 3) buffer, of which ``images`` is a permuted view.

    Args:
      folder: where the samples are.
      indices: samples to read, int64 (N,).
      size: side of the square images.
      fill: ``fill(slot, index, out)`` reads, decodes and transforms sample ``index`` into ``out``, slot
        number ``slot`` of the buffer.
      stopped: asked before every sample, so that closing a loader does not wait for a batch.

    Raises:
      UserError: a file cannot be read or decoded.
      Stopped: ``stopped()`` was true.
    """
    buffer = np.empty((len(indices), size, size, 3), dtype=np.uint8)
    for slot, index in enumerate(indices.tolist()):
        if stopped():
            raise Stopped
        fill(slot, index, buffer[slot])
    return Batch(
        images=torch.from_numpy(buffer).permute(0, 3, 1, 2),
        labels=torch.from_numpy(folder.labels[indices]),
        indices=torch.from_numpy(indices.copy()),
    )

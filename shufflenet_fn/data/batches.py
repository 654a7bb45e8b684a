"""Reading whole batches: decode and transform samples straight into one buffer."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from shufflenet_fn.data.augment import SampleAugmentation
from shufflenet_fn.data.bad_images import BadImage, BadImages, replacement
from shufflenet_fn.data.buffers import BatchMemory, Parts, Stopped
from shufflenet_fn.data.dataset import Dataset, Located, Stored
from shufflenet_fn.data.decode import RgbImage, Scratch, open_image
from shufflenet_fn.data.mixing import Mixing, mix_images
from shufflenet_fn.data.native.reader import Flags, NativeReader
from shufflenet_fn.data.randomness import sample_rng
from shufflenet_fn.data.schedule import StepSchedule
from shufflenet_fn.data.transforms import EvalTransform, TrainTransform
from shufflenet_fn.training.losses import Mix


class Batch(NamedTuple):
    """What a loader yields, on the CPU.

    Attributes:
      images: uint8 (N, 3, H, W) in channels_last memory.
      labels: int64 (N,).
      indices: int64 (N,), the samples' positions in their folder. A bad image is replaced by another in
        training and left out in evaluation.
      mix: the mixed labels of mixup or cutmix, ``()`` without them.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor
    mix: Mix | tuple[()] = ()


Fill = Callable[[int, int, RgbImage], None]
"""``fill(slot, index, out)`` writes sample ``index`` to ``out``, uint8 (size, size, 3); ``slot`` is its place
among the samples asked for. Raises ``BadImage``."""

Finish = Callable[[int, int, RgbImage], None]
"""As ``Fill``, for a sample that the native reader has read: does the rest."""

Instead = Callable[[int, int], "int | None"]
"""``instead(index, attempt)``: the sample to try in the place of ``index``, or ``None`` for none."""


def train_batch(
    step: int,
    stopped: Callable[[], bool],
    *,
    folder: Dataset,
    transform: TrainTransform,
    augment: SampleAugmentation,
    mixing: Mixing | None,
    schedule: StepSchedule,
    seed: int,
    scratch: Scratch,
    bad_images: BadImages | None,
    memory: BatchMemory,
    native: NativeReader | None,
) -> Batch:
    """Read the augmented batch of ``step``. Raises as ``read_batch``."""
    epoch, indices, repeats = schedule(step)

    def fill(slot: int, index: int, out: RgbImage) -> None:
        picture = open_image(folder.read(index), name=folder.name(index), scratch=scratch)
        repeat = int(repeats[slot])
        rng = sample_rng(seed, epoch, index, repeat=repeat)
        transform(picture, rng, out=out, scratch=scratch)
        augment(out, seed=seed, epoch=epoch, index=index, repeat=repeat)

    def finish(slot: int, index: int, out: RgbImage) -> None:
        augment(out, seed=seed, epoch=epoch, index=index, repeat=int(repeats[slot]))

    def instead(index: int, attempt: int) -> int:
        return replacement(seed, epoch, index, attempt, len(folder))

    def read(reader: NativeReader, stored: Stored, part: slice) -> Flags:
        numbers = indices[part], repeats[part]
        return reader.train(stored, transform, seed, epoch, *numbers, out=_rows(parts)[part])

    with memory.writing(step, stopped) as place:
        parts = memory.layout.parts(place, len(indices))
        done = read_natively(native, folder, indices, stopped, read)
        batch = read_batch(folder, indices, parts, done, finish, fill, stopped, bad_images, instead)
        return batch if mixing is None else mixed(batch, mixing, seed=seed, step=step)


def mixed(batch: Batch, mixing: Mixing, *, seed: int, step: int) -> Batch:
    """Mix the images of a batch of even size in place and add the labels of their partners."""
    images = batch.images.permute(0, 2, 3, 1).numpy()
    blend = mixing.draw(seed=seed, step=step, height=images.shape[1], width=images.shape[2])
    mix_images(images, blend)
    partners = batch.labels.view(-1, 2).flip(1).flatten()
    return batch._replace(mix=Mix(partners, torch.tensor(blend.weight)))


def eval_batch(
    number: int,
    stopped: Callable[[], bool],
    *,
    folder: Dataset,
    transform: EvalTransform,
    share: range,
    batch_size: int,
    scratch: Scratch,
    bad_images: BadImages | None,
    memory: BatchMemory,
    native: NativeReader | None,
) -> Batch:
    """Read batch ``number`` of a rank's ``share``; the last may be short. Raises as ``read_batch``."""
    indices = np.array(share[number * batch_size : (number + 1) * batch_size], dtype=np.int64)

    def fill(slot: int, index: int, out: RgbImage) -> None:
        picture = open_image(folder.read(index), name=folder.name(index), scratch=scratch)
        transform(picture, out=out, scratch=scratch)

    def nothing(slot: int, index: int, out: RgbImage) -> None:
        pass

    def read(reader: NativeReader, stored: Stored, part: slice) -> Flags:
        return reader.eval(stored, transform, out=_rows(parts)[part])

    def leave_out(index: int, attempt: int) -> None:
        return None

    with memory.writing(number, stopped) as place:
        parts = memory.layout.parts(place, len(indices))
        done = read_natively(native, folder, indices, stopped, read)
        return read_batch(folder, indices, parts, done, nothing, fill, stopped, bad_images, leave_out)


def read_batch(
    folder: Dataset,
    indices: npt.NDArray[np.int64],
    parts: Parts,
    done: npt.NDArray[np.bool_],
    finish: Finish,
    fill: Fill,
    stopped: Callable[[], bool],
    bad_images: BadImages | None,
    instead: Instead,
) -> Batch:
    """Read samples into given memory.

    Args:
      folder: where the samples are.
      indices: samples to read, int64 (N,).
      parts: memory for images and labels, which the batch references.
      done: bool (N,), which samples are already in ``parts``, each in its slot.
      finish: completes these samples.
      fill: reads, decodes and transforms each of the other samples into its slot.
      stopped: called before every sample, so that closing a loader does not wait for a batch.
      bad_images: counts bad images; ``None`` raises the first.
      instead: chooses the replacement of a bad image.

    Raises:
      BadImage: a file cannot be read or decoded, and ``bad_images`` is ``None``.
      UserError: there are too many of them.
      Stopped: ``stopped()`` was true.
    """
    images = _rows(parts)
    taken: list[int] = []
    for slot, (index, is_done) in enumerate(zip(indices.tolist(), done.tolist(), strict=True)):
        if is_done:
            if stopped():
                raise Stopped
            out = images[len(taken)]
            if len(taken) < slot:
                out[...] = images[slot]
            finish(slot, index, out)
            taken.append(index)
            continue
        sample: int | None = index
        for attempt in itertools.count():
            if stopped():
                raise Stopped
            if sample is None:
                break
            try:
                fill(slot, sample, images[len(taken)])
            except BadImage as error:
                if bad_images is None:
                    raise
                bad_images.report(sample, error)
                sample = instead(index, attempt)
            else:
                taken.append(sample)
                break
    found = np.array(taken, dtype=np.int64)
    return Batch(
        images=parts.images[: len(taken)],
        labels=parts.labels[: len(taken)].copy_(torch.from_numpy(folder.labels[found])),
        indices=torch.from_numpy(found),
    )


def _rows(parts: Parts) -> npt.NDArray[np.uint8]:
    """Return the images as uint8 (N, size, size, 3)."""
    return parts.images.permute(0, 2, 3, 1).numpy()


_CHUNK = 32
"""Number of samples per call. A closed loader is noticed only between calls."""

Read = Callable[[NativeReader, Stored, slice], Flags]
"""``read(reader, stored, part)`` reads the samples ``part`` of a batch, and returns which were read."""


def read_natively(
    reader: NativeReader | None,
    folder: Dataset,
    indices: npt.NDArray[np.int64],
    stopped: Callable[[], bool],
    read: Read,
) -> Flags:
    """Read samples as far as the native reader can: none without one, or if the data set is not ``Located``.

    Returns:
      bool (N,), which samples were read.

    Raises:
      Stopped: ``stopped()`` was true.
    """
    done = np.zeros(len(indices), dtype=np.bool_)
    if reader is not None and isinstance(folder, Located):
        for start in range(0, len(indices), _CHUNK):
            if stopped():
                raise Stopped
            part = slice(start, start + _CHUNK)
            with folder.located(indices[part]) as stored:
                done[part] = read(reader, stored, part)
    return done

"""Reading whole batches: decode and transform samples straight into one buffer."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from shufflenet_fn.data.bad_images import BadImage, BadImages
from shufflenet_fn.data.buffers import Parts, Stopped
from shufflenet_fn.data.dataset import Dataset, Located, Stored
from shufflenet_fn.data.decode import LazyImage, RgbImage, Scratch, open_image
from shufflenet_fn.data.mixing import Mixing, mix_images
from shufflenet_fn.data.native.reader import Flags, NativeReader
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


class Steps(NamedTuple):
    """What is done to the samples of one batch. ``slot`` is a sample's place among those asked for.

    Attributes:
      native: ``native(reader, stored, part, out)`` reads the samples of the slice ``part`` to ``out``, uint8
        (N, size, size, 3), and returns which were read.
      transform: ``transform(image, slot, index, out)`` does the same for one opened sample, to ``out``, uint8
        (size, size, 3).
      finish: ``finish(slot, index, out)`` does the rest, in place, however the sample was read.
      instead: ``instead(index, attempt)`` is the sample to try in the place of a bad one; ``None`` for none.
    """

    native: Callable[[NativeReader, Stored, slice, RgbImage], Flags]
    transform: Callable[[LazyImage, int, int, RgbImage], object]
    finish: Callable[[int, int, RgbImage], None]
    instead: Callable[[int, int], int | None]


class Source(NamedTuple):
    """Where samples come from, the same for all batches of a loader.

    Attributes:
      folder: the data set.
      native: reads the samples that it supports; ``None`` reads all in Python.
      bad_images: counts bad images; ``None`` raises the first.
      scratch: memory for decoding.
    """

    folder: Dataset
    native: NativeReader | None
    bad_images: BadImages | None
    scratch: Scratch


_CHUNK = 32
"""Number of samples per call of the native reader. A closed loader is noticed only between calls."""


def read_batch(
    source: Source, indices: npt.NDArray[np.int64], steps: Steps, parts: Parts, stopped: Callable[[], bool]
) -> Batch:
    """Read the samples ``indices``, int64 (N,), into ``parts``, which the batch references.

    ``stopped`` is called before every sample, so that closing a loader does not wait for a batch.

    Raises:
      BadImage: a file cannot be read or decoded, and nothing counts bad images.
      UserError: there are too many of them.
      Stopped: ``stopped()`` was true.
    """
    folder, bad_images = source.folder, source.bad_images
    images = parts.images.permute(0, 2, 3, 1).numpy()
    done = _read_natively(source, indices, steps, images, stopped)

    def decoded(slot: int, index: int, out: RgbImage) -> int | None:
        """Return the sample that was decoded: ``index``, the one in its place, or ``None``."""
        sample: int | None = index
        attempts = itertools.count()
        while sample is not None:
            _check(stopped)
            try:
                image = open_image(folder.read(sample), name=folder.name(sample), scratch=source.scratch)
                steps.transform(image, slot, sample, out)
                return sample
            except BadImage as error:
                if bad_images is None:
                    raise
                bad_images.report(sample, error)
            sample = steps.instead(index, next(attempts))
        return None

    taken: list[int] = []
    for slot, (index, is_done) in enumerate(zip(indices.tolist(), done, strict=True)):
        out, sample = images[len(taken)], index
        if not is_done:
            sample = decoded(slot, index, out)
        elif len(taken) < slot:
            out[...] = images[slot]
        if sample is not None:
            _check(stopped)
            steps.finish(slot, sample, out)
            taken.append(sample)
    found = np.array(taken, dtype=np.int64)
    return Batch(
        images=parts.images[: len(taken)],
        labels=parts.labels[: len(taken)].copy_(torch.from_numpy(folder.labels[found])),
        indices=torch.from_numpy(found),
    )


def _read_natively(
    source: Source,
    indices: npt.NDArray[np.int64],
    steps: Steps,
    images: RgbImage,
    stopped: Callable[[], bool],
) -> list[bool]:
    """Read samples as far as the native reader can; return which, each in its slot of ``images``."""
    folder, done = source.folder, np.zeros(len(indices), dtype=np.bool_)
    if source.native is not None and isinstance(folder, Located):
        for start in range(0, len(indices), _CHUNK):
            _check(stopped)
            part = slice(start, start + _CHUNK)
            with folder.located(indices[part]) as stored:
                done[part] = steps.native(source.native, stored, part, images[part])
    flags: list[bool] = done.tolist()
    return flags


def _check(stopped: Callable[[], bool]) -> None:
    if stopped():
        raise Stopped


def mixed(batch: Batch, mixing: Mixing, *, seed: int, step: int) -> Batch:
    """Mix the images of a batch of even size in place and add the labels of their partners."""
    images = batch.images.permute(0, 2, 3, 1).numpy()
    blend = mixing.draw(seed=seed, step=step, height=images.shape[1], width=images.shape[2])
    mix_images(images, blend)
    partners = batch.labels.view(-1, 2).flip(1).flatten()
    return batch._replace(mix=Mix(partners, torch.tensor(blend.weight)))

"""Reading the samples of a batch by a native reader, as far as it can."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.buffers import Stopped
from shufflenet_fn.data.native.reader import Draws, Flags, Images, NativeReader
from shufflenet_fn.data.samples import Samples
from shufflenet_fn.data.stored import Located
from shufflenet_fn.data.transforms import TRAIN_DRAWS, EvalTransform, TrainTransform

_CHUNK = 32
"""Samples of one call, which does not notice that the loader was closed."""


def train_at_once(
    reader: NativeReader | None,
    folder: Samples,
    transform: TrainTransform,
    *,
    seed: int,
    epoch: int,
    indices: npt.NDArray[np.int64],
    repeats: npt.NDArray[np.int64],
    images: Images,
    stopped: Callable[[], bool],
) -> tuple[Flags, Draws]:
    """Crops and flips of a batch's samples, in ``images``. Result as ``NativeReader.train``.

    Without a reader, or of samples that do not tell where they lie, nothing is read.

    Raises:
      Stopped: ``stopped()`` was true.
    """
    done = np.zeros(len(indices), dtype=np.bool_)
    draws = np.zeros((len(indices), TRAIN_DRAWS), dtype=np.float64)
    if reader is None or not isinstance(folder, Located):
        return done, draws
    for part in _parts(len(indices), stopped):
        with folder.located(indices[part]) as stored:
            done[part], draws[part] = reader.train(
                stored,
                transform,
                seed=seed,
                epoch=epoch,
                indices=indices[part],
                repeats=repeats[part],
                out=images[part],
            )
    return done, draws


def eval_at_once(
    reader: NativeReader | None,
    folder: Samples,
    transform: EvalTransform,
    *,
    indices: npt.NDArray[np.int64],
    images: Images,
    stopped: Callable[[], bool],
) -> Flags:
    """Resized samples of a batch, in ``images``. Otherwise as ``train_at_once``."""
    done = np.zeros(len(indices), dtype=np.bool_)
    if reader is None or not isinstance(folder, Located):
        return done
    for part in _parts(len(indices), stopped):
        with folder.located(indices[part]) as stored:
            done[part] = reader.eval(stored, transform, out=images[part])
    return done


def _parts(count: int, stopped: Callable[[], bool]) -> Iterator[slice]:
    for start in range(0, count, _CHUNK):
        if stopped():
            raise Stopped
        yield slice(start, min(start + _CHUNK, count))

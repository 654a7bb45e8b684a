"""The loaders: one resumable sequence of steps to train, exact sharded coverage to evaluate."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import Tensor

from shufflenet_fn.data.augment import SampleAugmentation
from shufflenet_fn.data.bad_images import BadImages, replacement
from shufflenet_fn.data.batches import Batch, Source, Steps, mixed, read_batch
from shufflenet_fn.data.buffers import BatchBuffers, FreshMemory, Layout
from shufflenet_fn.data.dataset import Dataset, Stored
from shufflenet_fn.data.decode import LazyImage, RgbImage, Scratch
from shufflenet_fn.data.mixing import Mixing, check_pairs
from shufflenet_fn.data.native.reader import Flags, NativeReader
from shufflenet_fn.data.randomness import sample_rng
from shufflenet_fn.data.schedule import StepSchedule, eval_share
from shufflenet_fn.data.threads import PrefetchIterator, one_thread_setter
from shufflenet_fn.data.transforms import EvalTransform, TrainTransform
from shufflenet_fn_backends.support.errors import UsageError

BatchIterator = PrefetchIterator[Batch]


def train_loader(
    folder: Dataset,
    transform: TrainTransform,
    *,
    augment: SampleAugmentation | None = None,
    mixing: Mixing | None = None,
    repeats: int = 1,
    seed: int,
    global_batch: int,
    rank: int = 0,
    world_size: int = 1,
    start_step: int = 0,
    stop_step: int,
    threads: int = 2,
    bad_images: BadImages | None = None,
    buffers: BatchBuffers | None = None,
    native: NativeReader | None = None,
) -> BatchIterator:
    """Iterate over this rank's batches of steps ``start_step`` to ``stop_step - 1``.

    Step k belongs to epoch ``k // steps_per_epoch(len(folder), global_batch)``. The batch of a step, its
    augmentation included, is a pure function of (seed, step): starting at any step, with any number of
    threads, gives the same bytes. Concatenated over ranks it is the same batch for any world size.

    Args:
      folder: the training split.
      transform: crop, jitter and flip.
      augment: augmentation of each sample after ``transform``.
      mixing: mixup and cutmix of the batch; needs an even number of samples per rank.
      repeats: number of times that an epoch shows a sample, each with its own augmentation.
      seed: seed of order and augmentation, 0 <= seed < 2**64.
      global_batch: samples per step over all ranks, a multiple of ``world_size``.
      rank: this process's share of every batch, ``[rank * B / world_size, (rank + 1) * B /
        world_size)``.
      world_size: number of ranks.
      start_step: first step, counted from 0 over all epochs.
      stop_step: one past the last step.
      threads: reading threads; 0 reads in the calling thread.
      bad_images: counts images that cannot be read or decoded, which are then replaced by others, the same
        for any threads and ranks. ``None`` raises the first of them.
      buffers: memory that is reused: a batch is then valid until it is released. ``None`` allocates
        memory for each batch.
      native: reads the images that it supports; ``None`` reads all in Python. The batches are the same.

    Raises:
      UsageError: an argument out of range, named with its value.
      BadImage: while iterating, a file that cannot be read or decoded.
      UserError: while iterating, more of those than ``bad_images`` allows.
    """
    schedule = StepSchedule(
        seed=seed, n=len(folder), global_batch=global_batch, rank=rank, world_size=world_size, repeats=repeats
    )
    if mixing is not None:
        check_pairs(global_batch, world_size)
    if not 0 <= start_step <= stop_step:
        raise UsageError(
            f"start_step must be from 0 to stop_step, got start_step={start_step} and stop_step={stop_step}."
        )
    source = Source(folder, native, bad_images, Scratch())
    memory = _memory(buffers, Layout(schedule.batch_size, transform.size), start_step)
    augmented = augment or SampleAugmentation()

    def read(step: int, stopped: Callable[[], bool]) -> Batch:
        epoch, indices, repeats = schedule(step)

        def natively(reader: NativeReader, stored: Stored, part: slice, out: RgbImage) -> Flags:
            return reader.train(stored, transform, seed, epoch, indices[part], repeats[part], out=out)

        def transformed(image: LazyImage, slot: int, index: int, out: RgbImage) -> None:
            rng = sample_rng(seed, epoch, index, repeat=int(repeats[slot]))
            transform(image, rng, out=out, scratch=source.scratch)

        def finish(slot: int, index: int, out: RgbImage) -> None:
            augmented(out, seed=seed, epoch=epoch, index=index, repeat=int(repeats[slot]))

        def instead(index: int, attempt: int) -> int:
            return replacement(seed, epoch, index, attempt, len(folder))

        with memory.writing(step, stopped) as place:
            parts = memory.layout.parts(place, len(indices))
            steps = Steps(natively, transformed, finish, instead)
            batch = read_batch(source, indices, steps, parts, stopped)
            return batch if mixing is None else mixed(batch, mixing, seed=seed, step=step)

    return _loader(read, start_step, stop_step, threads)


def eval_loader(
    folder: Dataset,
    transform: EvalTransform,
    *,
    batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    threads: int = 2,
    bad_images: BadImages | None = None,
    buffers: BatchBuffers | None = None,
    native: NativeReader | None = None,
    compute: Callable[[Tensor], Tensor] | None = None,
) -> BatchIterator:
    """Iterate over this rank's share of ``folder``: each sample on exactly one rank, in order.

    Nothing is padded or dropped: the last batch may be short, ranks may have different numbers of
    batches, and with fewer samples than ranks some ranks get none. So use no collective per batch.

    Args:
      folder: the split to evaluate.
      transform: resize and crop.
      batch_size: samples per batch on this rank.
      rank, world_size: which share.
      threads: as ``train_loader``.
      bad_images: counts images that cannot be read or decoded, which are then left out of their batch; it
        may be empty. ``None`` raises the first of them.
      buffers, native: as ``train_loader``.
      compute: function of a batch's images, called by the thread that read it, with one compute thread. Its
        result takes the place of the images.

    Raises:
      UsageError, BadImage, UserError: as ``train_loader``.
    """
    if batch_size < 1:
        raise UsageError(f"the evaluation batch size must be at least 1, got {batch_size}.")
    share = eval_share(len(folder), rank, world_size)
    source = Source(folder, native, bad_images, Scratch())
    memory = _memory(buffers, Layout(batch_size, transform.size), 0)

    def natively(reader: NativeReader, stored: Stored, part: slice, out: RgbImage) -> Flags:
        return reader.eval(stored, transform, out=out)

    def transformed(image: LazyImage, slot: int, index: int, out: RgbImage) -> None:
        transform(image, out=out, scratch=source.scratch)

    steps = Steps(natively, transformed, finish=lambda slot, index, out: None, instead=lambda index, n: None)

    def read(number: int, stopped: Callable[[], bool]) -> Batch:
        indices = np.array(share[number * batch_size : (number + 1) * batch_size], dtype=np.int64)
        with memory.writing(number, stopped) as place:
            parts = memory.layout.parts(place, len(indices))
            batch = read_batch(source, indices, steps, parts, stopped)
        if compute is None or not len(batch.indices):
            return batch
        return batch._replace(images=compute(batch.images))

    return _loader(read, 0, -(-len(share) // batch_size), threads)


def prefetch_of(threads: int) -> int:
    """Return how many batches of a loader are ready or being read."""
    return 2 * threads


def _memory(buffers: BatchBuffers | None, layout: Layout, first: int) -> FreshMemory | BatchBuffers:
    if buffers is None:
        return FreshMemory(layout)
    if buffers.layout != layout:
        raise UsageError(
            f"the buffers hold batches of {buffers.layout.capacity} images of {buffers.layout.size} "
            f"pixels a side, but the loader's are of {layout.capacity} of {layout.size}."
        )
    buffers.start(first)
    return buffers


def _loader(
    read: Callable[[int, Callable[[], bool]], Batch], start: int, stop: int, threads: int
) -> BatchIterator:
    if threads < 0:
        raise UsageError(
            f"the number of reading threads must be at least 0, got {threads}; 0 reads in the calling thread."
        )
    import cv2

    # Whole batches are read in parallel. With OpenCV's own thread pool, every reading thread would compete
    # for all cores, also with the training step. The setting applies to the whole process.
    cv2.setNumThreads(0)
    use_one_thread = one_thread_setter()

    def read_alone(number: int, stopped: Callable[[], bool]) -> Batch:
        use_one_thread()
        return read(number, stopped)

    # The calling thread may train, which may use any number of threads.
    chosen = read_alone if threads else read
    return PrefetchIterator(chosen, start, stop, threads=threads, prefetch=prefetch_of(threads))

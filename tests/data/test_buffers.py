"""Reused memory: batches are what fresh memory gives, and nothing is overwritten before its release."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from shufflenet_fn.data.batches import Batch
from shufflenet_fn.data.buffers import BatchBuffers, Layout, Stopped
from shufflenet_fn.data.folder import ImageFolder, open_train_val
from shufflenet_fn.data.loader import eval_loader, train_loader
from shufflenet_fn.data.transforms import EvalTransform, TrainTransform

LAYOUT, STEPS = Layout(8, 24), 12


@pytest.fixture(scope="module")
def train(photo_root: Path) -> ImageFolder:
    return open_train_val(photo_root)[0]


def load(
    folder: ImageFolder, buffers: BatchBuffers | None, *, threads: int, start: int = 0
) -> Iterator[Batch]:
    with train_loader(
        folder,
        TrainTransform(24),
        seed=5,
        global_batch=8,
        start_step=start,
        stop_step=STEPS,
        threads=threads,
        buffers=buffers,
    ) as batches:
        yield from batches


def assert_same(one: Batch, other: Batch) -> None:
    for left, right in zip(one[:3], other[:3], strict=True):
        assert left.dtype == right.dtype
        assert torch.equal(left, right)


@pytest.mark.parametrize("count", [0, 1, 5, 8])
@pytest.mark.parametrize("size", [1, 7, 24])
def test_parts_are_apart_and_inside(count: int, size: int) -> None:
    layout = Layout(8, size)
    memory = torch.zeros(layout.nbytes, dtype=torch.uint8)
    parts = layout.parts(memory, count)
    assert parts.images.shape == (count, 3, size, size)
    assert parts.images.is_contiguous(memory_format=torch.channels_last)
    assert parts.labels.shape == parts.partners.shape == (count,)
    assert parts.weight.shape == ()
    parts.images.fill_(255)
    parts.labels.fill_(-1)
    parts.partners.fill_(-1)
    parts.weight.fill_(-0.5)
    assert int((memory > 0).sum()) == 3 * size * size * count + 16 * count + 1  # of -0.5, one byte
    assert not memory[layout.used(count) :].any()
    assert layout.used(8) == layout.nbytes


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("slots", [2, 3, 9])
@pytest.mark.parametrize("start", [0, 5])
def test_reused_memory_gives_the_same_batches(
    train: ImageFolder, threads: int, slots: int, start: int
) -> None:
    buffers = BatchBuffers(slots, LAYOUT, page_locked=False)
    expected = load(train, None, threads=0, start=start)
    places = set()
    for ours, theirs in zip(load(train, buffers, threads=threads, start=start), expected, strict=True):
        memory = buffers.take()
        assert ours.labels.data_ptr() == memory.data_ptr()
        assert_same(ours, theirs)
        places.add(memory.data_ptr())
        buffers.release()
    assert len(places) == min(slots, STEPS - start)


def test_a_held_batch_is_not_overwritten(train: ImageFolder) -> None:
    """Batches are held as long as the ring allows, while threads wait to write over them."""
    buffers, held = BatchBuffers(3, LAYOUT, page_locked=False), 2
    kept: list[tuple[Batch, Batch]] = []
    for batch in load(train, buffers, threads=3):
        buffers.take()
        kept.append((batch, Batch(*(part.clone() for part in batch[:3]))))
        if len(kept) > held:
            kept.pop(0)
        time.sleep(0.01)  # for a thread that would not wait
        for one, copy in kept:
            assert_same(one, copy)
        if buffers.held == held:
            buffers.release()
            kept.pop(0)


def test_without_buffers_each_batch_stays_as_it_is(train: ImageFolder) -> None:
    batches = list(load(train, None, threads=3))
    for ours, theirs in zip(batches, load(train, None, threads=0), strict=True):
        assert_same(ours, theirs)
    assert len({batch.images.data_ptr() for batch in batches}) == STEPS


def test_memory_is_used_again_by_the_next_loader(photo_root: Path) -> None:
    val = open_train_val(photo_root)[1]
    buffers = BatchBuffers(4, Layout(4, 24), page_locked=False)
    for _ in range(3):
        seen: list[int] = []
        with eval_loader(val, EvalTransform(28, 24), batch_size=4, threads=1, buffers=buffers) as batches:
            for batch in batches:
                buffers.take()
                assert batch.labels.tolist() == val.labels[batch.indices.numpy()].tolist()
                seen += batch.indices.tolist()
                buffers.release()
        assert seen == list(range(11))


def test_closing_ends_threads_that_wait_for_memory(train: ImageFolder) -> None:
    buffers = BatchBuffers(2, LAYOUT, page_locked=False)
    loader = train_loader(
        train, TrainTransform(24), seed=5, global_batch=8, stop_step=STEPS, threads=4, buffers=buffers
    )
    next(loader)  # never released: the threads come no further than one more
    loader.close()
    end = time.monotonic() + 10
    while any(t.name.startswith("prefetch-") for t in threading.enumerate()):
        assert time.monotonic() < end, "a thread still waits"
        time.sleep(0.01)


def test_new_loader_waits_for_writes_of_old_one() -> None:
    buffers = BatchBuffers(2, LAYOUT, page_locked=False)
    order: list[str] = []
    with buffers.writing(0, lambda: False):

        def second() -> None:
            with buffers.writing(10, lambda: False):
                order.append("second")

        buffers.start(10)
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.1)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_waiting_ends_at_stop_or_release() -> None:
    buffers, stopped = BatchBuffers(2, LAYOUT, page_locked=False), threading.Event()
    for number in (0, 1):
        with buffers.writing(number, stopped.is_set):
            buffers.take()
    released = threading.Timer(0.05, buffers.release)
    released.start()
    with buffers.writing(2, stopped.is_set) as memory:
        assert memory.shape == (LAYOUT.nbytes,)
    stopping = threading.Timer(0.05, stopped.set)
    stopping.start()
    with pytest.raises(Stopped), buffers.writing(3, stopped.is_set):
        pass
    stopping.join()

"""Threads that work ahead: order, errors, early close and a clean exit."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from shufflenet_fn.data.threads import PrefetchIterator, ordered_map

Stopped = Callable[[], bool]


def prefetch_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("prefetch-")]


def wait_until_none(seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while prefetch_threads() and time.monotonic() < end:
        time.sleep(0.01)
    assert not prefetch_threads()


def slow(number: int, stopped: Stopped) -> int:
    for _ in range(200):
        if stopped():
            raise RuntimeError("stopped")
        time.sleep(0.05)
    return number


def run(code: str, *arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{code}", *map(str, arguments)],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_results_come_in_order(threads: int) -> None:
    def read(number: int, stopped: Stopped) -> int:
        time.sleep(0.002 * (number % 3))
        return number

    results = PrefetchIterator(read, 3, 20, threads=threads, prefetch=6)
    assert list(results) == list(range(3, 20))
    assert list(results) == list(PrefetchIterator(read, 4, 4, threads=threads, prefetch=6)) == []


def test_no_more_is_read_ahead_than_asked_for() -> None:
    begun: list[int] = []

    def read(number: int, stopped: Stopped) -> int:
        begun.append(number)
        return number

    with PrefetchIterator(read, 0, 1000, threads=3, prefetch=5) as results:
        for expected in range(7):
            assert next(results) == expected
            time.sleep(0.01)  # for a thread that would go on
            assert len(begun) <= expected + 1 + 5
    assert sorted(begun) == list(range(len(begun)))


def test_only_zero_threads_read_on_demand_in_the_calling_thread() -> None:
    started = threading.Event()

    def read(number: int, stopped: Stopped) -> int:
        started.set()
        return threading.get_ident()

    results = PrefetchIterator(read, 0, 3, threads=0, prefetch=0)
    assert not started.is_set()
    assert set(results) == {threading.get_ident()}
    started.clear()
    with PrefetchIterator(read, 0, 3, threads=1, prefetch=1):
        assert started.wait(5)


@pytest.mark.parametrize("threads", [0, 2])
def test_errors_keep_their_place_and_identity(threads: int) -> None:
    error = KeyError("third")

    def read(number: int, stopped: Stopped) -> int:
        if number == 3:
            raise error
        return number

    results = PrefetchIterator(read, 0, 10, threads=threads, prefetch=4)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(KeyError) as caught:
        next(results)
    assert caught.value is error
    assert list(results) == []


def test_closing_or_dropping_the_iterator_stops_its_threads() -> None:
    with PrefetchIterator(slow, 0, 1000, threads=3, prefetch=9) as results:
        assert prefetch_threads()
    wait_until_none()  # one read takes 10 s
    assert list(results) == []
    results.close()
    results = PrefetchIterator(slow, 0, 1000, threads=3, prefetch=9)
    assert prefetch_threads()
    del results
    gc.collect()
    wait_until_none()


def test_open_iterator_does_not_delay_exit() -> None:
    code = """
import time
from shufflenet_fn.data.threads import PrefetchIterator
def read(number, stopped):
    for _ in range(300):
        if stopped():
            return number
        time.sleep(0.1)
results = PrefetchIterator(read, 0, 1000, threads=2, prefetch=8)
raise SystemExit(7)
"""
    # 8 reads of 30 s on 2 threads are queued: without help the exit would take 120 s.
    done = run(code)
    assert (done.returncode, done.stderr) == (7, "")


def test_sources_and_demo_do_not_import_torch() -> None:
    code = """
import sys
import shufflenet_fn.data
before = "torch" in sys.modules
import shufflenet_fn.data.folder, shufflenet_fn.data.demo
assert before or "torch" not in sys.modules
assert not {"cv2", "simplejpeg", "PIL", "torchvision"} & set(sys.modules)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("workers", [1, 4])
def test_mapped_results_are_in_order(workers: int) -> None:
    def slow_first(item: int) -> int:
        time.sleep(0.002 * (item % 3 == 0))
        return item * item

    assert list(ordered_map(slow_first, range(40), workers=workers)) == [item * item for item in range(40)]
    assert list(ordered_map(slow_first, (), workers=workers)) == []


def test_an_error_in_a_mapping_ends_its_threads() -> None:
    def fail_at_five(item: int) -> int:
        if item == 5:
            raise OSError("five")
        return item

    results = ordered_map(fail_at_five, range(1000), workers=3)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(OSError, match="five"):
        next(results)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch-")]


COUNT = """
import os, sys
from pathlib import Path
import torch
from shufflenet_fn.data.loader import train_loader
from shufflenet_fn.data.opening import open_train_val
from shufflenet_fn.data.transforms import TrainTransform

torch.set_num_threads(4)
train, _ = open_train_val(Path(sys.argv[1]))
threads = int(sys.argv[2])

def names():
    return [Path(f"/proc/self/task/{task}/comm").read_text() for task in os.listdir("/proc/self/task")]

def read():
    with train_loader(
        train, TrainTransform(128), seed=0, global_batch=8, stop_step=12, threads=threads
    ) as batches:
        for _ in batches:
            pass
        return len(names())

before = len(names())
print(read() - before, torch.get_num_threads())
"""


def test_readers_start_no_compute_threads(photo_root: Path) -> None:
    threads = 2
    # The kernels without SIMD are the ones that torch runs in parallel.
    done = run(COUNT, photo_root, threads, ATEN_CPU_CAPABILITY="default", OMP_NUM_THREADS="4")
    assert done.returncode == 0, done.stderr
    started, main = map(int, done.stdout.split())
    assert started <= threads + 2  # a team each would be 4 * threads; threads that end blur the count
    assert main == 4

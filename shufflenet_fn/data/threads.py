"""Threads that prefetch results for a consumer, in order."""

from __future__ import annotations

import atexit
import ctypes
import threading
import weakref
from collections.abc import Callable, Generator, Sequence
from typing import Generic, TypeVar

A = TypeVar("A")
T = TypeVar("T")
Read = Callable[[int, Callable[[], bool]], T]

_LOOK_S = 0.1
"""Seconds after which a waiting thread checks whether its iterator was closed."""


class PrefetchIterator(Generic[T]):
    """Iterates over ``read(start), ..., read(stop - 1)``, read ahead by threads.

    Reading starts on construction. ``close()``, exiting the ``with`` block or deleting the last reference
    makes the threads stop and discards prefetched results, without waiting for the threads. An exception of
    ``read`` is raised at its position in the order, and closes the iterator.
    """

    def __init__(self, read: Read[T], start: int, stop: int, *, threads: int, prefetch: int) -> None:
        """Args:
        read: ``read(number, stopped)``, called from several threads at once. It should raise an exception as
          soon as ``stopped()`` is true.
        start, stop: the range to read.
        threads: number of reading threads; 0 reads on demand in the calling thread.
        prefetch: maximum number of results that are ready or being read, at least ``threads``.
        """
        self._next, self._stop = start, stop
        # The threads reference the queue. It must not reference `self`, or a dropped iterator would stay
        # alive.
        self._queue = _Queue(read, range(start, stop), prefetch)
        self._close = weakref.finalize(self, self._queue.close)
        self._close.atexit = False  # the queue's own hook also waits
        self._queue.start(threads)

    def __iter__(self) -> PrefetchIterator[T]:
        return self

    def __next__(self) -> T:
        if self._queue.stopped() or self._next == self._stop:
            raise StopIteration
        try:
            result = self._queue.take(self._next)
        except BaseException:
            self.close()
            raise
        self._next += 1
        return result

    def __enter__(self) -> PrefetchIterator[T]:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading. Further ``next`` calls raise ``StopIteration``."""
        self._close()

    def join(self) -> None:
        """Wait until no thread of a closed iterator reads any more."""
        self._queue.join()


class _Queue(Generic[T]):
    """What the reading threads share: the numbers to read and the results that are ready."""

    def __init__(self, read: Read[T], numbers: range, ahead: int) -> None:
        self._read, self._numbers, self._ahead = read, numbers, ahead
        self._begun = self._taken = numbers.start
        self._ready: dict[int, tuple[T | None, Exception | None]] = {}
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self.stopped = self._stopping.is_set

    def start(self, threads: int) -> None:
        if not threads:
            return
        # Daemon threads, since the interpreter waits for others before it runs any hook at exit. Native
        # code must not run while it shuts down, so the hook waits for the samples that are being read.
        atexit.register(self._exit)
        for number in range(threads):
            thread = threading.Thread(target=self._work, name=f"prefetch-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def take(self, number: int) -> T:
        """Wait for the result of ``number`` and free its place. Raises the exception of ``read``."""
        if not self._threads:
            return self._read(number, self.stopped)
        with self._changed:
            while number not in self._ready:
                self._changed.wait(_LOOK_S)
                if self.stopped():
                    raise StopIteration
            result, error = self._ready.pop(number)
            self._taken = number + 1
            self._changed.notify_all()
        if error is not None:
            raise error
        return result  # type: ignore[return-value]  # a result or an error

    def close(self) -> None:
        # Takes no lock: the garbage collector may call it in a thread that holds any.
        self._stopping.set()
        self._ready.clear()
        atexit.unregister(self._exit)

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _exit(self) -> None:
        self._stopping.set()
        self.join()

    def _work(self) -> None:
        while (number := self._claim()) is not None:
            result, error = None, None
            try:
                result = self._read(number, self.stopped)
            except Exception as raised:
                error = raised
            with self._changed:
                if not self.stopped():
                    self._ready[number] = result, error
                self._changed.notify_all()
            del result, error  # nothing is held while the next one is read

    def _claim(self) -> int | None:
        """Return the next number to read once there is room for its result; ``None`` at the end."""
        with self._changed:
            while not self.stopped() and self._begun < self._numbers.stop:
                if self._begun < self._taken + self._ahead:
                    self._begun += 1
                    return self._begun - 1
                self._changed.wait(_LOOK_S)
        return None


def ordered_map(function: Callable[[A], T], items: Sequence[A], *, workers: int) -> Generator[T, None, None]:
    """Map ``function`` over ``items`` in order, with ``workers`` threads that prefetch four items each.

    An exception of ``function`` is raised at its position in the order. Closing waits for calls in progress.
    """

    def read(number: int, stopped: Callable[[], bool]) -> T:
        return function(items[number])

    results = PrefetchIterator(read, 0, len(items), threads=workers, prefetch=4 * workers)
    try:
        yield from results
    finally:
        results.close()
        results.join()


def one_thread_setter() -> Callable[[], None]:
    """Return a function that makes torch's operators run single-threaded in the calling thread.

    Without it, each reading thread starts a team of compute threads when torch runs an operator in parallel,
    for example without a SIMD kernel for uint8: n readers on n cores would have n * n threads.
    ``torch.set_num_threads`` would also affect the training threads; ``omp_set_num_threads`` affects only the
    calling thread. It is a cheap call. A torch without OpenMP has no such teams.
    """
    import torch

    # Several OpenMP runtimes may be loaded. A lookup in torch's library finds the one that torch uses.
    set_num_threads = getattr(ctypes.CDLL(torch._C.__file__), "omp_set_num_threads", None)
    if set_num_threads is None:
        return lambda: None

    def use_one_thread() -> None:
        torch.get_num_threads()  # at its first use in a thread, torch sets the process-wide number
        set_num_threads(1)

    return use_one_thread

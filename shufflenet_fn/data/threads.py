"""Grain's prefetching threads, made quiet, closable and exact about errors."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class _Failure:
    """An exception on its way from a reading thread to the consumer."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class PrefetchIterator(Generic[T]):
    """``read(start), ..., read(stop - 1)`` in order, read ahead by threads.

    Reading starts on construction. ``close()``, leaving the ``with`` block or dropping the last
    reference tells the threads to stop and drops what they had prepared; it does not wait for them.

    An exception of ``read`` is carried over as a value and raised in its place in the order, after
    which the iterator is closed: Grain's own loses count if an exception passes through it.
    """

    def __init__(
        self,
        read: Callable[[int, Callable[[], bool]], T],
        start: int,
        stop: int,
        *,
        threads: int,
        prefetch: int,
    ) -> None:
        """Args:
        read: ``read(number, stopped)``, called from several threads at once. It should raise
          anything as soon as ``stopped()`` is true.
        start, stop: the range to read.
        threads: reading threads; 0 reads in the calling thread, when asked.
        prefetch: results held ready or in work, at least ``threads``.
        """
        self._stopped = threading.Event()
        # The threads hold `guarded`; it must not hold `self`, or a dropped iterator would live on.
        guarded = functools.partial(_guarded, read, self._stopped.is_set)
        grain = import_grain()
        options = grain.ReadOptions(
            num_threads=threads, prefetch_buffer_size=prefetch if threads else 0
        )
        dataset = grain.MapDataset.range(start, stop).map(guarded).to_iter_dataset(options)
        self._results = iter(dataset)
        _set_at_exit(self._stopped)
        self._results.start_prefetch()

    def __iter__(self) -> PrefetchIterator[T]:
        return self

    def __next__(self) -> T:
        if self._stopped.is_set():
            raise StopIteration
        result: T | _Failure = next(self._results)
        if isinstance(result, _Failure):
            self.close()
            raise result.error
        return result

    def __enter__(self) -> PrefetchIterator[T]:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading. Further ``next`` calls raise ``StopIteration``."""
        self._stopped.set()
        results = getattr(self, "_results", None)  # absent if construction failed
        if results is not None:
            results.close()


def _guarded(
    read: Callable[[int, Callable[[], bool]], T], stopped: Callable[[], bool], number: int
) -> T | _Failure:
    try:
        return read(number, stopped)
    except Exception as error:
        return _Failure(error)


def _set_at_exit(event: threading.Event) -> None:
    """Set ``event`` when the interpreter begins to exit.

    Otherwise ``concurrent.futures``, whose pool Grain uses, first works off all that is queued: an
    iterator left open, as by an uncaught error, would hold up the exit by several batches. An
    ``atexit`` function would run only after that, and Python has no public hook before it. The last
    function registered runs first: call this when the pool exists.
    """
    register = getattr(threading, "_register_atexit", None)
    if register is not None:
        reference = weakref.ref(event)

        def set_if_alive() -> None:
            alive = reference()
            if alive is not None:
                alive.set()

        register(set_if_alive)


def import_grain() -> Any:
    """The ``grain`` module, without what absl would print.

    Grain warns through absl that it found no JAX, and absl answers its first message by
    configuring the root logger. Neither is of use to someone who trains with torch.
    """
    logger = logging.getLogger("absl")
    if not any(isinstance(item, _GrainFilter) for item in logger.filters):
        logger.addFilter(_GrainFilter())
    with _handled_root_logger():
        import grain

    return grain


class _GrainFilter(logging.Filter):
    """Drops Grain's messages below ERROR."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or "grain" not in record.pathname


@contextlib.contextmanager
def _handled_root_logger() -> Iterator[None]:
    """Lends the root logger a handler, so that absl does not install its own."""
    handler = logging.NullHandler()
    logging.root.addHandler(handler)
    try:
        yield
    finally:
        logging.root.removeHandler(handler)

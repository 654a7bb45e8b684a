"""Work done by threads, its results in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def ordered_map(
    function: Callable[[A], B], items: Iterable[A], *, workers: int
) -> Generator[B, None, None]:
    """``map(function, items)`` by ``workers`` threads, at most four results a thread held ready.

    An exception of ``function`` is raised in its place in the order; what was not begun is dropped.
    """
    remaining = iter(items)
    with ThreadPoolExecutor(workers, thread_name_prefix="ordered-map") as pool:
        pending: deque[Future[B]] = deque()
        try:
            for item in islice(remaining, 4 * workers):
                pending.append(pool.submit(function, item))
            while pending:
                result = pending.popleft().result()
                for item in islice(remaining, 1):
                    pending.append(pool.submit(function, item))
                yield result
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from shufflenet_fn.data.ordered import ordered_map


@pytest.mark.parametrize("workers", [1, 4])
def test_results_are_in_order(workers: int) -> None:
    def slow_first(item: int) -> int:
        time.sleep(0.002 * (item % 3 == 0))
        return item * item

    assert list(ordered_map(slow_first, range(40), workers=workers)) == [
        item * item for item in range(40)
    ]
    assert list(ordered_map(slow_first, (), workers=workers)) == []


def test_no_more_is_taken_than_may_be_held_ready() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for item in range(1000):
            taken.append(item)
            yield item

    with closing(ordered_map(lambda item: item, items(), workers=2)) as results:
        for expected in range(5):
            assert next(results) == expected
            assert len(taken) <= expected + 1 + 4 * 2


def test_an_error_comes_in_its_place_and_ends_the_work() -> None:
    def fail_at_five(item: int) -> int:
        if item == 5:
            raise OSError("five")
        return item

    results = ordered_map(fail_at_five, range(1000), workers=3)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(OSError, match="five"):
        next(results)
    assert not [thread for thread in threading.enumerate() if "ordered-map" in thread.name]

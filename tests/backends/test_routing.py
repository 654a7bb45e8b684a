"""The bookkeeping of split and shuffle, compared with lists of channels that are really moved."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shufflenet_fn.model.config import ARCHITECTURES, get_config
from shufflenet_fn_backends.routing import Half, Layout, interleave, inverse, is_natural, join, natural, split

halves = st.integers(1, 70)
unit_counts = st.integers(1, 11)
depths = st.integers(1, 8)


def channels_of(layout: Layout, parts: list[list[int]]) -> list[int]:
    """What the canonical channels hold, given what the parts hold."""
    permuted = [value for part in parts for value in part]
    return [permuted[place] for place in inverse(layout.order)]


def taken(half: Half, parts: list[list[int]]) -> list[list[int]]:
    return [parts[r.part][r.start : r.stop] for r in half.ranges]


def shuffled(first: list[int], second: list[int]) -> list[int]:
    """The literal shuffle: two rows, read column by column."""
    return [value for pair in zip(first, second, strict=True) for value in pair]


def assert_partitions(layout: Layout, first: Half, second: Half) -> None:
    """Every channel of every part is in exactly one range, and each half has half of the channels."""
    found = sorted(
        (r.part, channel)
        for half in (first, second)
        for r in half.ranges
        for channel in range(r.start, r.stop)
    )
    assert found == [(p, channel) for p, size in enumerate(layout.sizes) for channel in range(size)]
    for half in (first, second):
        assert sorted(half.layout.order) == list(range(len(layout.order) // 2))
        assert half.layout.sizes == tuple(r.stop - r.start for r in half.ranges)
        assert all(r.start < r.stop for r in half.ranges)


def assert_ascending_parts(layout: Layout) -> None:
    for begin, end in pairwise(accumulate(layout.sizes, initial=0)):
        assert all(a < b for a, b in pairwise(layout.order[begin:end]))


@settings(deadline=None)
@given(halves, unit_counts, depths)
def test_a_stage_of_any_width_and_length(half: int, units: int, depth: int) -> None:
    """The book and the literal operations hold the same channels, unit after unit."""
    fresh = iter(range(10**6))

    def made() -> list[int]:
        return [next(fresh) for _ in range(half)]

    parts = [made(), made()]
    layout = interleave(natural(half), natural(half))
    literal = shuffled(*parts)
    for _ in range(units):
        assert channels_of(layout, parts) == literal
        assert_ascending_parts(layout)
        first, second = split(layout, depth=depth)
        assert_partitions(layout, first, second)
        kept, used = taken(first, parts), taken(second, parts)
        assert channels_of(first.layout, kept) == literal[:half]
        assert channels_of(second.layout, used) == literal[half:]
        branch = made()
        parts = [*kept, branch]
        layout = interleave(first.layout, natural(half))
        literal = shuffled(literal[:half], branch)
    assert channels_of(layout, parts) == literal


@settings(deadline=None)
@given(halves, unit_counts, depths)
def test_cuts_in_advance_change_neither_order_nor_halves(half: int, units: int, depth: int) -> None:
    plain = ahead = interleave(natural(half), natural(half))
    for _ in range(units):
        assert ahead.order == plain.order
        once, early = split(plain), split(ahead, depth=depth)
        assert [h.layout.order for h in early] == [h.layout.order for h in once]
        # Without cuts in advance no part gives more than one range to a half.
        for found in once:
            assert len({r.part for r in found.ranges}) == len(found.ranges)
        plain, ahead = (interleave(h[0].layout, natural(half)) for h in (once, early))


@settings(deadline=None)
@given(halves, st.integers(1, 8))
def test_no_tensor_is_cut_twice_within_the_depth(half: int, units: int) -> None:
    layout = interleave(natural(half), natural(half))
    origins = [0, 1]
    was_cut: set[int] = set()
    for unit in range(units):
        first, second = split(layout, depth=units)
        pieces: dict[int, int] = {}
        for r in (*first.ranges, *second.ranges):
            pieces[r.part] = pieces.get(r.part, 0) + 1
        cut_now = {origins[part] for part, count in pieces.items() if count > 1}
        assert not cut_now & was_cut
        was_cut |= cut_now
        origins = [*(origins[r.part] for r in first.ranges), unit + 2]
        layout = interleave(first.layout, natural(half))


@settings(deadline=None)
@given(st.data(), halves, depths)
def test_a_map_in_any_order_and_any_parts(data: st.DataObject, half: int, depth: int) -> None:
    order = tuple(data.draw(st.permutations(range(2 * half))))
    cuts = sorted(data.draw(st.sets(st.integers(1, 2 * half - 1), max_size=6)))
    bounds = [0, *cuts, 2 * half]
    layout = Layout(tuple(b - a for a, b in pairwise(bounds)), order)
    values = [100 + channel for channel in order]
    parts = [values[a:b] for a, b in pairwise(bounds)]
    first, second = split(layout, depth=depth)
    assert_partitions(layout, first, second)
    assert channels_of(first.layout, taken(first, parts)) == list(range(100, 100 + half))
    assert channels_of(second.layout, taken(second, parts)) == list(range(100 + half, 100 + 2 * half))


@settings(deadline=None)
@given(st.permutations(range(12)))
def test_inverse_is_where_each_channel_lies(order: list[int]) -> None:
    back = inverse(tuple(order))
    assert [order[place] for place in back] == list(range(12))
    assert inverse(back) == tuple(order)
    assert is_natural(tuple(order)) == (order == sorted(order))


def test_join_keeps_the_places() -> None:
    layout = interleave(natural(3), natural(3))
    assert join(layout) == Layout((6,), (0, 2, 4, 1, 3, 5))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_branches_read_at_most_8_ranges(name: str) -> None:
    config = get_config(name)
    for channels, units in zip(config.stage_channels[1:4], config.stage_repeats, strict=True):
        layout = interleave(natural(channels // 2), natural(channels // 2))
        for _ in range(units - 1):
            first, second = split(layout)
            assert 1 <= len(second.ranges) <= 8
            layout = interleave(first.layout, natural(channels // 2))


def test_unequal_halves_are_refused() -> None:
    with pytest.raises(ValueError, match="7 channels"):
        split(natural(7))
    with pytest.raises(ValueError, match="3 and 4 channels"):
        interleave(natural(3), natural(4))

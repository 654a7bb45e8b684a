"""Which channel is where, when nothing is moved: the integer bookkeeping of split and shuffle.

A feature map is kept as *parts*: tensors, or ranges of them, that earlier layers made. Its channels one
after the other, part by part, are the *physical* ones; ``order`` says which *logical* channel (that of the
paper and of torchvision) each of them is. Splitting and shuffling then only change which parts there are
and what they are called. Integers and tuples alone: what a part is, is the caller's affair.

Why halves consist of few ranges (ROUTING, point 2). Call a part *ascending* if its logical channels are:

* what a layer makes is one part in logical order, so ascending;
* ``interleave`` maps logical channel i to 2i or 2i + 1, so ascending parts stay ascending;
* the first half is the logical channels below a bound. In an ascending part these are a prefix, and the
  rest a suffix: each half takes at most one range of it, and ranges of an ascending part are ascending.

Every part that arises in the network is ascending. One that is not, say the output of a depthwise layer
that saw a map of several parts, is cut as often as needed.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate, groupby, pairwise
from typing import NamedTuple

# Of one network about 40 different arguments are seen; the bound is for those who build networks in a loop.
_CACHED = 4096


class Layout(NamedTuple):
    """How a feature map lies.

    ``sizes``: channels of each part. ``order[k]``: the logical channel that physical channel k is; a
    permutation of ``range(sum(sizes))``.
    """

    sizes: tuple[int, ...]
    order: tuple[int, ...]


class Range(NamedTuple):
    """Channels ``start`` to ``stop`` (exclusive) of part number ``part``."""

    part: int
    start: int
    stop: int


class Half(NamedTuple):
    """One result of ``split``: the ranges that are its parts, in this order, and how it lies then."""

    ranges: tuple[Range, ...]
    layout: Layout


@lru_cache(_CACHED)
def natural(channels: int) -> Layout:
    """One part in logical order: what a layer makes."""
    return Layout((channels,), tuple(range(channels)))


@lru_cache(_CACHED)
def split(layout: Layout, *, depth: int = 1) -> tuple[Half, Half]:
    """The first and the second half of the logical channels.

    Args:
        layout: of a feature map with an even number of channels.
        depth: make the cuts of this many splits at once. With 1, an ascending part gives at most one range
            to each half. With more, a part that has to be cut is cut at once where the splits that follow
            will cut what is left of it, if an ``interleave`` with the first half in front comes between
            them, as in the network.

    Returns:
        Both halves. Every channel of every part is in exactly one range of one half. Ranges are in the
        order of the parts and of their channels, so ``order`` does not depend on ``depth``.

    Raises:
        ValueError: the number of channels is odd.
    """
    channels = len(layout.order)
    if channels % 2:
        raise ValueError(f"{channels} channels cannot be split in halves")
    half = channels // 2
    # After k more rounds of interleave and split, channel c of the first half has become c * 2^k.
    bounds = [-(-half >> k) for k in range(depth)]
    ranges: tuple[list[Range], list[Range]] = ([], [])
    orders: tuple[list[int], list[int]] = ([], [])
    for part, (begin, end) in enumerate(pairwise(accumulate(layout.sizes, initial=0))):
        logical = layout.order[begin:end]
        # How many splits, from this one on, see the channel in the first half.
        stays = [sum(channel < bound for bound in bounds) for channel in logical]
        if 0 not in stays:
            stays = [1] * len(stays)  # not cut now, so not cut in advance either
        start = 0
        for survives, run in groupby(stays):
            stop = start + len(tuple(run))
            side = 0 if survives else 1
            ranges[side].append(Range(part, start, stop))
            orders[side].extend(channel - side * half for channel in logical[start:stop])
            start = stop
    first, second = (
        Half(tuple(taken), Layout(tuple(r.stop - r.start for r in taken), tuple(order)))
        for taken, order in zip(ranges, orders, strict=True)
    )
    for found in (first, second):
        assert sorted(found.layout.order) == list(range(half)), "order must be a permutation"
    return first, second


@lru_cache(_CACHED)
def interleave(first: Layout, second: Layout) -> Layout:
    """The parts of ``first`` and then of ``second``, shuffled with two groups.

    Logical channel 2i of the result is channel i of ``first``, and 2i + 1 is channel i of ``second``.

    Raises:
        ValueError: they have different numbers of channels.
    """
    if len(first.order) != len(second.order):
        raise ValueError(
            f"{len(first.order)} and {len(second.order)} channels cannot be interleaved: there must be "
            "equally many"
        )
    return Layout(
        first.sizes + second.sizes,
        (*(2 * channel for channel in first.order), *(2 * c + 1 for c in second.order)),
    )


def join(layout: Layout) -> Layout:
    """The same channels in the same places, as one part."""
    return Layout((len(layout.order),), layout.order)


@lru_cache(_CACHED)
def inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    """Where each logical channel lies: ``inverse(order)[order[k]] == k``."""
    return tuple(sorted(range(len(order)), key=order.__getitem__))


@lru_cache(_CACHED)
def is_natural(order: tuple[int, ...]) -> bool:
    """Whether physical and logical order are the same, so that nothing has to be permuted."""
    return order == tuple(range(len(order)))

"""The channel bookkeeping of split and shuffle without data movement, in integers and tuples only.

A feature map is stored as *parts*: tensors, or ranges of tensors, that earlier layers computed. The channels
of all parts in sequence are the *permuted* channels. ``order`` gives the *canonical* channel of each, which
is that of the paper and of torchvision. Split and shuffle only change the list of parts and the order. This
module does not depend on the type of a part.

Halves consist of few ranges, for the following reason. Call a part *ascending* if its canonical channels
ascend:

* the output of a layer is one part in canonical order, so it is ascending;
* ``interleave`` maps canonical channel i to 2i or 2i + 1, so ascending parts stay ascending;
* the first half consists of the canonical channels below a bound. In an ascending part these are a prefix,
  and the others a suffix. So each half takes at most one range of it, and ranges of an ascending part are
  ascending.

A part that is not ascending is cut as often as needed, for example the output of a depthwise layer whose
input has several parts.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate, groupby, pairwise
from typing import NamedTuple

# A network uses about 40 different arguments. The bound is for programs that build many networks.
_CACHED = 4096


class Layout(NamedTuple):
    """Channel layout of a feature map.

    ``sizes``: number of channels of each part. ``order[k]``: canonical channel of permuted channel k; a
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
    """One result of ``split``: the ranges that are its parts, in order, and its layout."""

    ranges: tuple[Range, ...]
    layout: Layout


@lru_cache(_CACHED)
def natural(channels: int) -> Layout:
    """Return the layout of a layer's output: one part in canonical order."""
    return Layout((channels,), tuple(range(channels)))


@lru_cache(_CACHED)
def split(layout: Layout, *, depth: int = 1) -> tuple[Half, Half]:
    """Split the canonical channels into the first and the second half.

    Args:
        layout: layout of a feature map with an even number of channels.
        depth: number of splits whose cuts are made now. With 1, an ascending part gives at most one range to
            each half. With more, a part that must be cut now is also cut where later splits will cut the
            rest of it, on the assumption that an ``interleave`` with the first half in front precedes each
            of them, as in the network.

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
    # After k more interleaves and splits, channel c of the first half is channel c * 2^k.
    bounds = [-(-half >> k) for k in range(depth)]
    ranges: tuple[list[Range], list[Range]] = ([], [])
    orders: tuple[list[int], list[int]] = ([], [])
    for part, (begin, end) in enumerate(pairwise(accumulate(layout.sizes, initial=0))):
        canonical = layout.order[begin:end]
        # The number of splits, including this one, that put the channel into the first half.
        stays = [sum(channel < bound for bound in bounds) for channel in canonical]
        if 0 not in stays:
            stays = [1] * len(stays)  # a part that is not cut now is not cut in advance
        start = 0
        for survives, run in groupby(stays):
            stop = start + len(tuple(run))
            side = 0 if survives else 1
            ranges[side].append(Range(part, start, stop))
            orders[side].extend(channel - side * half for channel in canonical[start:stop])
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
    """Return the layout of the parts of ``first``, then ``second``, shuffled with two groups.

    Canonical channel 2i of the result is channel i of ``first``, and 2i + 1 is channel i of ``second``.

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
    """Return the layout of the same channels in one part."""
    return Layout((len(layout.order),), layout.order)


@lru_cache(_CACHED)
def inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    """Return the permuted position of each canonical channel: ``inverse(order)[order[k]] == k``."""
    return tuple(sorted(range(len(order)), key=order.__getitem__))


@lru_cache(_CACHED)
def is_natural(order: tuple[int, ...]) -> bool:
    """Return whether the permuted order equals the canonical order, so that nothing has to be permuted."""
    return order == tuple(range(len(order)))

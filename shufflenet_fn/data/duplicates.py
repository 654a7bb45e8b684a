"""The same bytes under several names: an image in both splits makes a validation score a lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from shufflenet_fn.data.inspection import Finding
from shufflenet_fn.data.samples import Samples
from shufflenet_fn_backends.support.errors import UserError


class Digests:
    """64 bits of each sample's content: eight bytes an image, however large the data set."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples
        self.values = np.zeros(len(samples), dtype=np.uint64)
        self.known = np.zeros(len(samples), dtype=bool)

    def add(self, index: int, digest: int | None) -> None:
        """Note the digest of sample ``index``; ``None`` if it could not be read."""
        if digest is not None:
            self.values[index], self.known[index] = digest, True


def duplicates(splits: Sequence[Digests]) -> Iterator[Finding]:
    """Samples whose bytes are those of an earlier sample, read again to be sure.

    Kinds: ``in both splits``, ``in two classes`` of a split, or ``duplicate``.
    """
    values = np.concatenate([split.values[split.known] for split in splits])
    distinct, counts = np.unique(values, return_counts=True)
    repeated = distinct[counts > 1]
    groups: dict[int, list[_Place]] = {}
    for split in splits:
        alike = np.flatnonzero(split.known & np.isin(split.values, repeated))
        for index in alike.tolist():
            place = _Place(split.samples, index)
            groups.setdefault(int(split.values[index]), []).append(place)
    for first, *others in groups.values():
        content = first.content()
        for other in others:
            if content is not None and other.content() == content:
                yield Finding(_kind(first, other), other.name, f"the same bytes as {first.name}")


@dataclass(frozen=True)
class _Place:
    samples: Samples
    index: int

    @property
    def name(self) -> str:
        return self.samples.name(self.index)

    @property
    def label(self) -> str:
        return self.samples.classes[int(self.samples.labels[self.index])]

    def content(self) -> bytes | None:
        try:
            return bytes(self.samples.read(self.index).data)
        except UserError:  # it was there a moment ago
            return None


def _kind(first: _Place, other: _Place) -> str:
    if first.samples.split != other.samples.split:
        return "in both splits"
    return "duplicate" if first.label == other.label else "in two classes"

"""Images that cannot be used, and what a run does about them.

A run either stops at the first one or goes on without it (``BadImages``). Damage to a whole data set or a
failure of the machine does not count as a bad image: a damaged shard or a lost mount always stops the run.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar, NamedTuple

from shufflenet_fn.data.dataset import Dataset
from shufflenet_fn.data.paths import printable
from shufflenet_fn.data.randomness import REPLACEMENT, sample_rng
from shufflenet_fn_backends.support.errors import UsageError, UserError

_NAMED = 3
"""Number of bad images that the error message names."""


class BadImage(UserError):
    """A sample that is not a usable image.

    Attributes:
      name: the result of ``Dataset.name``: a path, or a shard, its record and the original path.
      reason: what is wrong with it, without the name.
      kind: under which `data check` lists it.
    """

    verb: ClassVar[str] = "decode"

    def __init__(self, name: str, reason: str, kind: str = "corrupt") -> None:
        super().__init__(
            f"cannot {self.verb} image {name}: {reason}. Replace or remove the file, or pass "
            "--on-bad-image skip to go on without such files; `shufflenet-fn data check` lists them all."
        )
        self.name = name
        self.reason = reason
        self.kind = kind

    def __reduce__(self) -> tuple[type[BadImage], tuple[str, str, str]]:
        return type(self), (self.name, self.reason, self.kind)


class UnreadableImage(BadImage):
    """A sample whose own file cannot be read: missing, access denied, or not a regular file."""

    verb: ClassVar[str] = "read"


class BadLimit(NamedTuple):
    """A limit of bad images: ``text`` is what the user wrote; ``value`` a number, or a share of a split."""

    text: str
    value: Fraction
    is_share: bool

    def of(self, n: int) -> int:
        """Return how many of ``n`` images may be bad. A share is rounded down, and one image must be left."""
        return min(int(self.value * n if self.is_share else self.value), n - 1)


def parse_bad_limit(text: str) -> BadLimit:
    """Parse ``0.1%`` or ``20``.

    Raises:
      UsageError: neither a percentage from 0% to below 100% nor a whole number from 0.
    """
    found = re.fullmatch(r"(\d+)|(\d+\.?\d*|\.\d+) ?%", text.strip(), re.ASCII)
    number, percent = found.groups() if found else (None, None)
    if number is not None:
        return BadLimit(text.strip(), Fraction(number), is_share=False)
    if percent is not None and Fraction(percent) < 100:
        return BadLimit(text.strip(), Fraction(percent) / 100, is_share=True)
    raise UsageError(
        f"--max-bad {text!r} is no limit of bad images. Give a share of the images below 100%, such as 0.1%, "
        "or a whole number of them, such as 20."
    )


@dataclass(frozen=True)
class BadSample:
    """A bad image: its split, its index there, its name, and what is wrong with it."""

    split: str
    index: int
    name: str
    reason: str


class BadImages:
    """Counts the bad images of one split that this process has found, up to a limit.

    Each sample counts once. The limit is that of the whole split, and every rank applies it to its own count,
    without communication: over the epochs each rank reads every sample, so its count approaches that of the
    split. Holds at most one sample more than the limit. Safe to use from several threads.
    """

    def __init__(
        self,
        samples: Dataset,
        limit: BadLimit | None,
        *,
        record: Callable[[BadSample], None] = lambda sample: None,
    ) -> None:
        """Args:
        samples: the split.
        limit: of bad images; ``None`` allows any number.
        record: called once with each bad sample, one call at a time, by the thread that found it.
        """
        self._samples, self._limit, self._record = samples, limit, record
        self._met: dict[int, BadSample] = {}
        self._too_many: str | None = None
        self._lock = threading.Lock()

    @property
    def met(self) -> tuple[BadSample, ...]:
        """The bad samples so far, in the order in which they were found."""
        with self._lock:
            return tuple(self._met.values())

    def report(self, index: int, error: BadImage) -> None:
        """Count sample ``index``. Raises ``UserError`` if that makes too many."""
        with self._lock:
            if self._too_many is None and index not in self._met:
                sample = BadSample(self._samples.split, index, error.name, error.reason)
                self._met[index] = sample
                self._record(sample)
                if self._limit is not None and len(self._met) > self._limit.of(len(self._samples)):
                    self._too_many = self._message(self._limit)
            if self._too_many is not None:  # later threads raise the same error
                raise UserError(self._too_many) from error

    def _message(self, limit: BadLimit) -> str:
        count, n = len(self._met), len(self._samples)
        first = [f"{sample.name} ({sample.reason})" for sample in self._met.values()][:_NAMED]
        rest = f" and {count - _NAMED} more" if count > _NAMED else ""
        folder = printable(self._samples.root / self._samples.split)
        return (
            f"{count} of the {n:,} images in {folder} are bad so far; --max-bad {limit.text} allows "
            f"{limit.of(n)}. They are: {'; '.join(first)}{rest}. Replace or remove them (`shufflenet-fn data "
            "check` lists all), or raise --max-bad."
        )


def replacement(seed: int, epoch: int, index: int, attempt: int, n: int) -> int:
    """Return which of ``n`` samples replaces the bad sample ``index`` in ``epoch``.

    It does not depend on ranks or threads. It may be bad as well: ``attempt`` counts up from 0 until it is
    not.
    """
    bits = sample_rng(seed, epoch, index, domain=REPLACEMENT, repeat=attempt).bit_generator
    # A raw draw is the same in all versions of numpy. The bias of n not dividing 2**64 is negligible.
    return int(bits.random_raw()) % n

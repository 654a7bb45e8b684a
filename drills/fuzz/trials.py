"""One trial: a file with damage that depends on the trial's number, and the outcome."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from drills.fuzz.images import Wrong, outcome_of
from drills.fuzz.mutations import mutate
from drills.fuzz.native import NativeImages
from drills.fuzz.packed import PackedSet
from drills.fuzz.pictures import made_pictures, pictures_in
from shufflenet_fn.data.decode import Scratch

PACKED_EVERY = 5
"""Every ``PACKED_EVERY``-th trial damages a packed data set, the others an image file."""

UNCHANGED, DETECTED = "unchanged by chance", "detected"


class Trial(NamedTuple):
    """The result of a trial. ``violation``: what is wrong with the outcome, or empty if it is allowed."""

    target: str
    mutation: str
    outcome: str
    violation: str = ""


def make_trials(seed: int, data: str | None, folder: str) -> Callable[[int], Trial]:
    """Return a function from a trial's number to its result, reproducible for the same ``seed`` and ``data``.

    Args:
      seed: of all mutations.
      data: folder with image files to damage; ``None`` generates some.
      folder: where a packed data set is made and damaged.
    """
    pictures = made_pictures() if data is None else pictures_in(Path(data))
    # A new folder for each process: a process that was killed may have left its files damaged.
    packed = PackedSet(Path(tempfile.mkdtemp(dir=folder)), pictures)
    scratch = Scratch()  # one for all trials, as in a reading thread
    native = NativeImages(Path(tempfile.mkdtemp(dir=folder)))

    def trial(number: int) -> Trial:
        rng = np.random.default_rng([seed, number])
        if number % PACKED_EVERY == 0:
            path = list(packed.files)[rng.integers(len(packed.files))]
            target, whole = f"packed {path.suffix.lstrip('.')}", packed.files[path]
        else:
            whole, target = pictures[rng.integers(len(pictures))], "image"
        kind, damaged = mutate(whole, rng)
        if damaged == whole:
            return Trial(target, kind, UNCHANGED)
        try:
            if target == "image":
                native.check(damaged, number)
                return Trial(target, kind, outcome_of(damaged, number, scratch))
            packed.check(path, damaged)
        except Wrong as error:
            return Trial(target, kind, "violation", str(error))
        return Trial(target, kind, DETECTED)

    return trial

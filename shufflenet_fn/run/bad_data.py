"""Handling of bad images in a run: the policy, the file that lists them, and lines in the log."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from shufflenet_fn.data.bad_images import BadImages, BadSample, parse_bad_limit
from shufflenet_fn.data.dataset import Dataset
from shufflenet_fn.data.paths import printable
from shufflenet_fn.distributed.group import gather
from shufflenet_fn.distributed.world import World
from shufflenet_fn.io import explained, to_json

_NAMED = 5
"""Bad images that a warning names."""


def bad_images_of(
    samples: Dataset,
    *,
    on_bad_image: str,
    max_bad: str,
    record: Callable[[BadSample], None] = lambda sample: None,
) -> BadImages | None:
    """Return how to treat bad images of ``samples``; ``None`` to stop at the first one."""
    if on_bad_image == "stop":
        return None
    return BadImages(samples, parse_bad_limit(max_bad), record=record)


class BadImageFile:
    """``bad_images.jsonl`` of rank 0, ``bad_images.rankN.jsonl`` of another: one object per bad image.

    Each rank has its own file, because lines of several machines could mix on a network file system. The
    file is created for the first bad image; a resumed run appends the bad images that it reads again.
    """

    def __init__(self, run_dir: Path, rank: int) -> None:
        self._path = run_dir / f"bad_images{f'.rank{rank}' if rank else ''}.jsonl"

    def record(self, sample: BadSample) -> None:
        """Add a line for ``sample``. Raises ``UserError`` if it cannot be written."""
        what = f"add the bad image {sample.name} to {printable(self._path)}"
        fix = "Make room or restore the run directory, then go on with --resume."
        with explained(what, fix), open(self._path, "a", encoding="utf-8") as file:
            file.write(to_json(dataclasses.asdict(sample)) + "\n")


def replaced_line(bad: BadImages | None, n: int, run_dir: Path, world: World) -> str | None:
    """Return a line on how many of ``n`` training images all ranks have replaced so far; ``None`` if none.

    A collective if ``bad`` is not ``None``: all ranks must call it.
    """
    if bad is None:
        return None
    met = gather(frozenset(sample.index for sample in bad.met), world)
    count = len(frozenset[int]().union(*met))
    if not count:
        return None
    return (
        f"{count} of {n:,} training images are bad and were replaced by others so far; they are named in "
        f"{run_dir}/bad_images*.jsonl"
    )


def left_out_line(n: int, num_images: int, names: Sequence[str] = ()) -> str | None:
    """Return a line on how many of ``n`` images an evaluation left out; ``None`` if none.

    ``names``: their names, of which the first few are shown; empty if they are reported elsewhere.
    """
    if num_images == n:
        return None
    line = (
        f"{n - num_images} of {n:,} images to evaluate are bad and were left out: the scores are over "
        f"{num_images:,} images"
    )
    if not names:
        return line
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{line}. They are: {', '.join(names[:_NAMED])}{rest}"


def bad_names(bad: BadImages | None, world: World) -> tuple[str, ...]:
    """Return the names of the bad images that any rank has met, in their split's order.

    A collective if ``bad`` is not ``None``: all ranks must call it.
    """
    if bad is None:
        return ()
    shares = gather({sample.index: sample.name for sample in bad.met}, world)
    return tuple(name for _, name in sorted(item for share in shares for item in share.items()))

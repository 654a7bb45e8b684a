"""What the commands that go over images share: options, bad images, and the report at the end."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from shufflenet_fn_backends.support.errors import UserError
from shufflenet_fn_cli.options import choice

if TYPE_CHECKING:
    from shufflenet_fn.data.bad_images import BadImages

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="Image files, folders, patterns, packed data, @FILE with a path on each line, or - for "
        "standard input.",
        show_default=False,
    ),
]
BatchSize = Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Images at a time.")]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", "-j", min=0, help="Threads that read and, on a CPU, compute. Default: the cores."
    ),
]
OnBadImage = Annotated[
    str, choice("--on-bad-image", "Count images that cannot be read, or stop at one.", "skip", "stop")
]
_SHOWN = 5


def standard_input() -> Iterable[str]:
    """Return the lines of standard input; a closed one has none. Bytes that are not UTF-8 are kept."""
    if sys.stdin is None:
        return ()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    return sys.stdin


def report(count: int, start: float, bad: BadImages | None, more: Sequence[str] = ()) -> None:
    """Print how many images were read since ``start``, how fast, ``more``, and which could not be read.

    Raises:
        UserError: none could be read, and there is nothing ``more``.
    """
    met = sorted(bad.met, key=lambda sample: sample.index) if bad else []
    shown = "; ".join(f"{sample.name} ({sample.reason})" for sample in met[:_SHOWN])
    rest = f"; and {len(met) - _SHOWN} more" if len(met) > _SHOWN else ""
    if not count and not more:
        raise UserError(f"none of the {len(met)} images can be read: {shown}{rest}.")
    rate = count / (time.perf_counter() - start)
    print("; ".join([f"{count} images, {rate:.0f} images/s", *more]), file=sys.stderr)
    if met:
        print(f"{len(met)} unreadable: {shown}{rest}", file=sys.stderr)

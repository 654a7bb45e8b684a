"""Rows of predictions: a table for people, CSV or JSON lines, to standard output or a file."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from shufflenet_fn.data.paths import printable
from shufflenet_fn.io import check_output, to_json
from shufflenet_fn.use.predict import Prediction
from shufflenet_fn_backends.support.errors import UsageError, UserError

_SAMPLE = 16
"""Rows of a continued file that are computed again."""
_TOLERANCE = 1e-3
"""Largest difference of a probability between two engines or devices."""
_CORRECT = {None: "", True: "true", False: "false"}

Shares = dict[str, float]
"""Probabilities by class."""


class Rows:
    """Writes predictions as they come. A file that was broken off can be continued.

    ``done``: the names of images that the file has already. ``sample``: some of its rows, by name.
    """

    def __init__(self, file: Path | None, kind: str, top: int, *, resume: bool) -> None:
        """Args:
        file: where rows go; ``None`` is standard output.
        kind: ``"table"``, ``"csv"`` or ``"jsonl"``.
        top: predictions in a row.
        resume: continue ``file``.

        Raises:
            UsageError: ``file`` exists already, or cannot be continued.
        """
        self._file, self._kind, self._top = file, kind, top
        self.done: set[str] = set()
        self.sample: dict[str, Shares] = {}
        self._good = 0
        self.resumable = file is not None and kind != "table"
        if resume and not self.resumable:
            raise UsageError("--resume needs -o FILE with --format csv or jsonl.")
        if file is None:
            return
        check_output(file)
        if file.exists() and not resume:
            go_on = "Continue it with --resume, or give" if self.resumable else "Give"
            raise UsageError(f"{printable(file)} exists already. {go_on} -o another name.")
        if file.exists():
            self._continue(file)

    def __enter__(self) -> Rows:
        if self._file is None:
            self._out: Any = sys.stdout
        else:
            try:
                self._out = open(self._file, "ab")
                self._out.truncate(self._good)
            except OSError as error:
                raise UserError(f"cannot write {printable(self._file)}: {error.strerror}.") from error
        if self._kind == "csv" and not self._good:
            self._write(self._header())
        return self

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            self._out.close()

    def check(self, again: Iterable[Prediction]) -> None:
        """Raise ``UsageError`` if predictions of images in ``sample`` differ from the rows of the file."""
        for each in again:
            then, now = self.sample[each.name], dict(zip(each.classes, each.probabilities, strict=True))
            if not (_within(then, now) and _within(now, then)):
                was, found = (", ".join(f"{n} {p:.4f}" for n, p in s.items()) for s in (then, now))
                raise UsageError(
                    f"{printable(self._file or '')} was begun with another model, --top-k or image: for "
                    f"{printable(each.name)} it has {was}, but now it is {found}. Go on with what it was "
                    "begun with, or give -o another name."
                )

    def write(self, predictions: Sequence[Prediction]) -> None:
        """Write a row for each prediction. Raises ``UserError`` if that fails."""
        if self._kind == "csv":
            self._write(_csv(map(self._cells, predictions)))
        else:
            self._write("".join(map(_json_row if self._kind == "jsonl" else _table_row, predictions)))

    def _write(self, text: str) -> None:
        try:
            self._out.write(text if self._file is None else text.encode("utf-8", "surrogateescape"))
            self._out.flush()
        except OSError as error:
            where = "standard output" if self._file is None else printable(self._file)
            go_on = " Make room and go on with --resume." if self.resumable else ""
            raise UserError(f"cannot write to {where}: {error.strerror}.{go_on}") from error

    def _continue(self, file: Path) -> None:
        """Read the rows of ``file``, up to the end of its last whole one."""
        try:
            content = file.read_bytes()
            self._good = content.rfind(b"\n") + 1
            text, header = os.fsdecode(content[: self._good]), self._header()
            if content and not self._good and not header.encode().startswith(content):
                raise ValueError("it has no whole row")
            if self._kind == "csv" and self._good:
                if not text.startswith(header):
                    raise ValueError(f"its first line is not {header.strip()!r}, that of --top-k {self._top}")
                text = text[len(header) :]
            for name, shares in _parsed(text, self._kind):
                self.done.add(name)
                if len(self.sample) < _SAMPLE:
                    self.sample[name] = shares
        except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
            raise UsageError(
                f"{printable(file)} cannot be continued as {self._kind} ({error}). Give the options that it "
                "was begun with, or -o another name."
            ) from error

    def _header(self) -> str:
        numbered = [f"{what}{k}" for k in range(1, self._top + 1) for what in ("class", "probability")]
        return _csv([["path", *numbered, "correct"]])

    def _cells(self, each: Prediction) -> list[str]:
        cells = [each.name]
        for name, share in zip(each.classes, each.probabilities, strict=True):
            cells += (name, f"{share:.6f}")
        blank = [""] * (2 * self._top + 1 - len(cells))
        return [*cells, *blank, _CORRECT[each.correct]]


def _csv(rows: Iterable[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _json_row(each: Prediction) -> str:
    return to_json(each._asdict()) + "\n"


def _table_row(each: Prediction) -> str:
    shares = zip(each.classes, each.probabilities, strict=True)
    mark = {None: "", True: "  right", False: "  wrong"}[each.correct]
    return f"{printable(each.name)}  " + "  ".join(f"{n} {100 * p:.1f} %" for n, p in shares) + mark + "\n"


def _within(one: Shares, other: Shares) -> bool:
    """Return whether ``one`` may be ``other`` with other rounding, which may exchange classes that tie."""
    least = min(other.values(), default=0.0)
    return len(one) == len(other) and all(
        abs(share - other[name]) <= _TOLERANCE if name in other else share <= least + _TOLERANCE
        for name, share in one.items()
    )


def _parsed(text: str, kind: str) -> Iterator[tuple[str, Shares]]:
    """Yield name and probabilities of each row. Raises if it is not of ``kind``."""
    if kind == "jsonl":
        for line in text.split("\n")[:-1]:
            row = json.loads(line)
            yield row["name"], dict(zip(row["classes"], map(float, row["probabilities"]), strict=True))
        return
    for name, *cells, _ in csv.reader(io.StringIO(text)):
        yield name, {c: float(p) for c, p in zip(cells[::2], cells[1::2], strict=True) if c}

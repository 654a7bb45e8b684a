"""Rows of predictions: a table for people, CSV or JSON lines, to standard output or a file."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shufflenet_fn.data.paths import printable
from shufflenet_fn.io import to_json
from shufflenet_fn.use.predict import Prediction
from shufflenet_fn_backends.support.errors import UsageError, UserError


class Rows:
    """Writes predictions as they come. A file that was broken off can be continued.

    ``done``: the names of images that the file has already.
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
        self.done: frozenset[str] = frozenset()
        self._good = 0
        if resume and (file is None or kind == "table"):
            raise UsageError("--resume needs -o FILE with --format csv or jsonl.")
        if file is not None and file.exists() and not resume:
            raise UsageError(
                f"{printable(file)} exists already. Continue it with --resume, or give -o another name."
            )
        if file is not None and not file.absolute().parent.is_dir():
            raise UsageError(f"-o {printable(file)}: its folder does not exist.")
        if file is not None and resume and file.exists():
            self.done, self._good = _read(file, kind, self._header())

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

    def write(self, predictions: Sequence[Prediction]) -> None:
        """Write a row for each prediction. Raises ``UserError`` if that fails."""
        self._write("".join(map(self._row, predictions)))

    def _write(self, text: str) -> None:
        try:
            self._out.write(text if self._file is None else text.encode("utf-8", "surrogateescape"))
            self._out.flush()
        except OSError as error:
            where = "standard output" if self._file is None else printable(self._file)
            raise UserError(
                f"cannot write to {where}: {error.strerror}. Make room and go on with --resume."
            ) from error

    def _header(self) -> str:
        numbered = [f"{what}{k}" for k in range(1, self._top + 1) for what in ("class", "probability")]
        return _csv(["path", *numbered, "correct"])

    def _row(self, each: Prediction) -> str:
        pairs = list(zip(each.classes, each.probabilities, strict=True))
        if self._kind == "jsonl":
            return to_json(each._asdict()) + "\n"
        if self._kind == "csv":
            blank = [""] * (2 * (self._top - len(pairs)))
            correct = "" if each.correct is None else str(each.correct).lower()
            flat = [text for name, share in pairs for text in (name, f"{share:.6f}")]
            return _csv([each.name, *flat, *blank, correct])
        mark = {None: "", True: "  right", False: "  wrong"}[each.correct]
        return f"{printable(each.name)}  " + "  ".join(f"{n} {100 * p:.1f} %" for n, p in pairs) + mark + "\n"


def _csv(cells: list[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()


def _read(file: Path, kind: str, header: str) -> tuple[frozenset[str], int]:
    """Return the names in a file, and the bytes up to the end of its last whole row."""
    content = file.read_bytes()
    good = content.rfind(b"\n") + 1
    text = os.fsdecode(content[:good])
    try:
        if kind == "jsonl":
            return frozenset(json.loads(line)["name"] for line in text.splitlines()), good
        if good and not text.startswith(header):
            raise ValueError("its columns are others")
        rows = csv.reader(io.StringIO(text[len(header) :]))
        return frozenset(row[0] for row in rows if row), good
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise UsageError(
            f"{printable(file)} cannot be continued as {kind} ({error}). Give the options that it was begun "
            "with, or -o another name."
        ) from error

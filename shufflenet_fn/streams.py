"""Standard output and error that never end a run, and text with any path in it."""

from __future__ import annotations

import codecs
import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final, TextIO

_DELIBERATE: Final = (errno.EPIPE, errno.EBADF)
"""The reader has ended, as ``head`` does, or the stream was closed from the start."""


def escaping() -> str:
    """Return the codec error handler that escapes what cannot be encoded, as messages escape paths.

    A byte of a path that is not UTF-8 becomes ``\\xff``, any other character ``\\u2026``.
    """
    codecs.register_error("shufflenet_fn.escape", _escape)
    return "shufflenet_fn.escape"


def _escape(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_escaped, error.object[error.start : error.end])), error.end


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte, as os.fsdecode has it
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("ascii", "backslashreplace").decode()


class Output(io.FileIO):
    """A standard stream that goes on silently after a failure.

    The first failure is told on the ``other`` stream and, in a run, in its log.
    """

    def __init__(self, descriptor: int, title: str) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._title = title
        self._log: Callable[[str], None] | None = None
        self.failure: OSError | None = None
        self.other: Output | None = None

    def write(self, content: Any) -> int:
        while True:
            try:
                written = super().write(content)
            except OSError as error:
                if self.failure is None:
                    self.failure = error
                    self._tell()
                return len(content)
            if written is not None:
                return written
            select.select((), (self,), ())  # another process has made it non-blocking

    def log_to(self, log: Callable[[str], None]) -> None:
        """Take ``log`` for failures, also for the one that has been."""
        self._log = log
        self._tell()

    @property
    def lost(self) -> bool:
        """Return whether output is lost that nobody has turned away and no log has."""
        return bool(self.failure and not self._log and self.failure.errno not in _DELIBERATE)

    def _tell(self) -> None:
        if self.failure is None:
            return
        closed = self.failure.errno == errno.EBADF
        reason = "it is closed" if closed else self.failure.strerror
        text = f"{self._title} cannot be written: {reason}. The command goes on without it."
        if self._log is None and self.failure.errno == errno.EPIPE:
            return  # `checkpoint show RUN | head` ends quietly
        if self._log is not None:
            self._log(text)
        if self.other is not None and self.other.failure is None:
            other, self.other = self.other, None
            other.write(f"warning: {text}\n".encode())


@contextlib.contextmanager
def lasting_streams(*, results_only: bool = False) -> Iterator[Output | None]:
    """Replace standard output and error, where they are files, by ones that never raise.

    ``results_only``: nothing may be written to standard output beside results. Gives standard output.
    """
    _open_missing()
    before = sys.stdout, sys.stderr
    out = _output(1, "standard output", sys.stdout)
    error = _output(2, "standard error", sys.stderr)
    if out is not None and error is not None:
        out.other, error.other = error, None if results_only else out
    if out is not None:
        sys.stdout = _text(out, before[0])
    if error is not None:
        sys.stderr = _text(error, before[1])
    try:
        yield out
    finally:
        flush_output()
        sys.stdout, sys.stderr = before


@contextlib.contextmanager
def log_failures(log: Callable[[str], None]) -> Iterator[None]:
    """Have failures of the standard streams, also earlier ones, told by ``log`` during the body."""
    buffers = [getattr(stream, "buffer", None) for stream in (sys.stdout, sys.stderr)]
    raws = [getattr(buffer, "raw", None) for buffer in buffers]
    outputs = [raw for raw in raws if isinstance(raw, Output)]
    for output in outputs:
        output.log_to(log)
    try:
        yield
    finally:
        for output in outputs:
            output.log_to(_closed)


def _closed(text: str) -> None:
    """Drop ``text``, as the log is closed."""


def flush_output() -> None:
    """Flush standard output and error, ignoring a full disk or a closed pipe."""
    for stream in (sys.stderr, sys.stdout):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


def _open_missing() -> None:
    """Open closed standard descriptors, so that no file gets their number; writing to them still fails."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number, which is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDONLY), True)


def _output(number: int, title: str, stream: TextIO | None) -> Output | None:
    if stream is None:
        return Output(number, title)
    if not isinstance(stream, io.TextIOWrapper):  # as in a notebook
        return None
    try:
        return Output(stream.fileno(), title)
    except (OSError, ValueError):  # it is in memory
        stream.reconfigure(errors=escaping())
        return None


def _text(output: Output, stream: TextIO | None) -> TextIO:
    inner = io.BufferedWriter(output)
    if not isinstance(stream, io.TextIOWrapper):  # it was closed
        return io.TextIOWrapper(inner, encoding="utf-8", errors=escaping())
    return io.TextIOWrapper(
        inner,
        encoding=stream.encoding,
        errors=escaping(),
        line_buffering=bool(stream.line_buffering or stream.write_through),
        write_through=stream.write_through,
    )

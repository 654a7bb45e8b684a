"""Python modules in a child process, for work that may crash or hang, such as a vendor's library."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

# The child resolves imports like this process, regardless of its script's folder and the working directory.
_START = "import runpy, sys; sys.path[:] = {path!r}; sys.argv[1:] = {arguments!r}; "
_RUN = "runpy.run_module({module!r}, run_name='__main__', alter_sys=False)"


class Outcome(NamedTuple):
    """How a child ended. ``code`` is negative for a signal, and ``None`` after a timeout."""

    code: int | None
    out: str
    err: str

    @property
    def text(self) -> str:
        """All output of the child."""
        return f"{self.err}\n{self.out}"

    @property
    def ending(self) -> str:
        """How it ended: ``ended with exit code 1``, ``was killed by SIGABRT`` or ``did not end in time``."""
        if self.code is None:
            return "did not end in time"
        if self.code < 0:
            return f"was killed by {_signal_name(-self.code)}"
        return f"ended with exit code {self.code}"


def run_module(
    module: str,
    arguments: Sequence[str] = (),
    *,
    timeout_s: float,
    environment: Mapping[str, str] | None = None,
) -> Outcome:
    """Run ``python -m module arguments`` for at most ``timeout_s``, then kill the child and its children.

    Args:
        module: a module that can be imported here.
        arguments: its ``sys.argv[1:]``.
        timeout_s: time limit in seconds.
        environment: the child's whole environment; defaults to that of this process.
    """
    code = (_START + _RUN).format(path=sys.path, arguments=list(arguments), module=module)
    # Use files instead of pipes: a grandchild that outlives the child would keep a pipe open, and block us.
    with tempfile.TemporaryDirectory(prefix="shufflenet-fn-") as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        with open(out, "wb") as out_file, open(err, "wb") as err_file:
            child = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                stdout=out_file,
                stderr=err_file,
                env=None if environment is None else dict(environment),
                start_new_session=True,
            )
            ended: int | None = None
            try:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    ended = child.wait(timeout_s)
            finally:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        return Outcome(ended, _text(out), _text(err))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"

"""One launch of a run, which may be killed, and what it leaves behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from drills.kills.points import CONTROL, Control
from drills.kills.processes import listening_ports, ranks_of, session, shared_memory, still_listening

END_S = 15.0
"""Seconds within which a launch must end after one of its processes was killed."""

_CONNECTIONS_S = 1.0
_ROOT = Path(__file__).resolve().parents[2]


def end_in_order_at_sigterm() -> None:
    """Make SIGTERM raise ``SystemExit`` in this process, so that its launches end with it."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))


class Launch:
    """A process of ``command`` in its own session. A context manager that kills the whole session at the end.

    Args:
        command: program and arguments.
        place: the working directory; the temporary folder is in it.
        control: arms its processes.
        cache: folder for the caches of programs; in ``place`` if not given.
    """

    def __init__(
        self, command: Sequence[str], place: Path, control: Control, *, cache: Path | None = None
    ) -> None:
        self._temporary, self._output = place / "tmp", place / "output.txt"
        self._temporary.mkdir(exist_ok=True)
        self._shared, self._ports = set[str](), set[int]()
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=place,
                env=_environment(self._temporary, control, cache or place / "cache"),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self.process.pid

    def __enter__(self) -> Launch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kill_all()
        self.process.wait()

    def has_ended(self) -> bool:
        return self.process.poll() is not None

    def output(self) -> str:
        """Return what it has printed."""
        return self._output.read_text(errors="replace")

    def ranks(self) -> list[int]:
        return ranks_of(self.pid)

    def kill(self, victim: str, stopped: int | None) -> str:
        """Kill ``victim`` and continue the process ``stopped`` if it is alive. Return the actual victim.

        If the rank is not running, the launcher is killed instead. ``all`` means the launcher and its ranks;
        multiprocessing's resource tracker is spared, to clean up after them.
        """
        alive = [process.pid for process in session(self.pid)]
        self._ports |= listening_ports(alive)
        self._shared |= shared_memory(alive)
        ranks = self.ranks()
        number = int(victim.split()[1]) if victim.startswith("rank") else None
        if victim == "all":
            for pid in (self.pid, *ranks):
                with contextlib.suppress(ProcessLookupError):  # ranks end with their launcher
                    os.kill(pid, signal.SIGKILL)
        elif number is not None and number < len(ranks):
            os.kill(ranks[number], signal.SIGKILL)
        else:
            victim = "launcher"
            os.kill(self.pid, signal.SIGKILL)
        if stopped is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(stopped, signal.SIGCONT)
        return victim

    def end(self) -> list[str]:
        """Wait at most ``END_S`` until all processes have ended. Return what is wrong."""
        start = time.monotonic()
        while session(self.pid) and time.monotonic() - start < END_S:
            self.has_ended()
            time.sleep(0.01)
        wrong = []
        if alive := session(self.pid):
            wrong.append(f"{len(alive)} processes are left after {END_S:g} s")
            self._kill_all()
        self.process.wait()
        if entries := [path for path in sorted(self._shared) if Path(path).exists()]:
            wrong.append(f"left in shared memory: {', '.join(entries)}")
        if files := [path.name for path in self._temporary.rglob("*") if not path.is_dir()]:
            wrong.append(f"left in the temporary folder: {', '.join(sorted(files))}")
        deadline = time.monotonic() + _CONNECTIONS_S
        while (ports := still_listening(self._ports)) and time.monotonic() < deadline:
            time.sleep(0.05)
        if ports:
            wrong.append(f"ports still open: {', '.join(map(str, sorted(ports)))}")
        return wrong

    def _kill_all(self) -> None:
        for process in session(self.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)


def _environment(temporary: Path, control: Control, cache: Path) -> Mapping[str, str]:
    return {
        **os.environ,
        # The entry of the drill imports this package.
        "PYTHONPATH": os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH")))),
        CONTROL: str(control.folder),
        "TMPDIR": str(temporary),
        "XDG_CACHE_HOME": str(cache),
        "MPLCONFIGDIR": str(cache),
        "TORCHINDUCTOR_CACHE_DIR": str(cache),
    }

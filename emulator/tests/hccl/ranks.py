"""Several ranks, each a process of its own, told what to do all at once."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("worker.py")
Answer = dict[str, Any]

# HcclResult's numbers.
PARAMETER = 1
NOT_SUPPORTED = 5
NOT_FOUND = 6
TIMEOUT = 9
RUNTIME = 15
REMOTE = 21
SUSPENDING = 22

# A death is noticed within 0.1 s; the rest is for a machine that does other things as well.
SOON_S = 10.0


class Ranks:
    """``size`` running processes. ``None`` is the answer of one that ended instead."""

    def __init__(
        self, library: Path, size: int, environ: Mapping[str, str], before: Sequence[str] = ()
    ) -> None:
        self.size = size
        self.processes = [
            subprocess.Popen(
                [*before, sys.executable, str(WORKER), str(library), str(rank), str(size)],
                env={**os.environ, **environ},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
            for rank in range(size)
        ]

    def tell(self, rank: int, do: str, /, **settings: Any) -> None:
        """Ask without waiting for the answer."""
        stdin = self.processes[rank].stdin
        assert stdin is not None
        stdin.write(json.dumps({"do": do, **settings}) + "\n")
        stdin.flush()

    def answer(self, rank: int, within: float = 20.0) -> Answer | None:
        stdout = self.processes[rank].stdout
        assert stdout is not None
        ready, _, _ = select.select([stdout], [], [], within)
        assert ready, f"rank {rank} did not answer within {within} s"
        line = stdout.readline()
        return json.loads(line) if line else None

    def ask(self, rank: int, do: str, /, **settings: Any) -> Answer:
        self.tell(rank, do, **settings)
        answer = self.answer(rank)
        assert answer is not None, f"rank {rank} ended"
        return answer

    def all(self, do: str, /, *, of: list[int] | None = None, **settings: Any) -> list[Answer | None]:
        """Ask all ranks, or some, the same; their answers."""
        asked = list(range(self.size)) if of is None else of
        for rank in asked:
            self.tell(rank, do, **settings)
        return [self.answer(rank) for rank in asked]

    def join(self, **settings: Any) -> None:
        """Make a communicator of all."""
        root = self.ask(0, "root")["root"]
        answers = self.all("create", root=root, **settings)
        assert answers == [{"code": 0, "text": ""}] * self.size

    def begin(self, ranks: list[int], do: str, /, **settings: Any) -> None:
        """Ask, and give them the time to get as far as where they wait for others."""
        self.all("counted", of=ranks, name="nothing")  # answered once they have started
        for rank in ranks:
            self.tell(rank, do, **settings)
        time.sleep(0.5)

    def kill(self, rank: int) -> None:
        """As the kernel does when memory runs out; returns when it is dead."""
        self.processes[rank].send_signal(signal.SIGKILL)
        self.processes[rank].wait()

    def close(self) -> None:
        for process in self.processes:
            process.kill()
        for process in self.processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    # What was written to one that had ended cannot be flushed.
                    with contextlib.suppress(OSError):
                        pipe.close()


@contextlib.contextmanager
def ranks(library: Path, size: int, before: Sequence[str] = (), **environ: str) -> Iterator[Ranks]:
    """Started, with a command before theirs, and ended with the block whatever happens in it."""
    started = Ranks(library, size, environ, before)
    try:
        yield started
    finally:
        started.close()


@contextlib.contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """The block must take less."""
    start = time.monotonic()
    yield
    took = time.monotonic() - start
    assert took < seconds, f"took {took:.1f} s, more than {seconds} s"

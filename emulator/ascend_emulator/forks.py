"""Processes forked from one that has imported torch and torch_npu, because importing them takes seconds."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple


class Ended(NamedTuple):
    """How a forked process ended, and the seconds from its request to its end."""

    code: int
    pid: int
    took: float
    out: str
    err: str


class Forks(contextlib.AbstractContextManager["Forks"]):
    """The process that forks. Its environment is that of its creation."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "ascend_emulator.forks"]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __exit__(self, *_: object) -> None:
        self._server.communicate(timeout=20)

    def run(
        self,
        script: str,
        arguments: Sequence[str],
        environs: Sequence[Mapping[str, str]],
        *,
        cwd: Path,
        within: float,
    ) -> list[Ended]:
        """Run ``script`` in folder ``cwd``, in one process for each environment, all at once.

        A process that takes longer than ``within`` seconds is killed.
        """
        assert self._server.stdin is not None and self._server.stdout is not None
        request = {"script": script, "arguments": arguments, "cwd": str(cwd)}
        processes = {"environs": [dict(environ) for environ in environs], "within": within}
        self._server.stdin.write(json.dumps({**request, **processes}) + "\n")
        self._server.stdin.flush()
        ready, _, _ = select.select([self._server.stdout], [], [], within + 60)
        assert ready, "the forked processes did not end"
        return [Ended(*ended) for ended in json.loads(self._server.stdout.readline())]


def _serve() -> None:
    import torch
    import torch_npu  # noqa: F401

    assert not torch.npu.is_initialized()  # type: ignore[attr-defined]
    gc.freeze()  # A collection in a child would copy the memory of all that was imported.
    for line in sys.stdin:
        print(json.dumps(_fork(**json.loads(line))), flush=True)


def _fork(environs: list[dict[str, str]], within: float, **request: Any) -> list[Ended]:
    # Not a context manager: a child would leave it as well, and remove the folder.
    scratch = Path(tempfile.mkdtemp())
    start = time.monotonic()
    files = [scratch / str(number) for number in range(len(environs))]
    pids = []
    for file, environ in zip(files, environs, strict=True):
        pids.append(os.fork())
        if pids[-1] == 0:
            _run(file, environ, **request)
    ended: dict[int, tuple[int, float]] = {}
    while len(ended) < len(pids):
        for pid in set(pids) - set(ended):
            gone, status = os.waitpid(pid, os.WNOHANG)
            if gone:
                ended[pid] = os.waitstatus_to_exitcode(status), time.monotonic() - start
            elif time.monotonic() - start > within:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    texts = [
        [file.with_suffix(kind).read_text(errors="replace") for kind in (".out", ".err")] for file in files
    ]
    shutil.rmtree(scratch)
    return [Ended(ended[pid][0], pid, ended[pid][1], *text) for pid, text in zip(pids, texts, strict=True)]


def _run(file: Path, environ: dict[str, str], script: str, arguments: list[str], cwd: str) -> None:
    """Run the script and end the process as the interpreter would, with what is registered for its end."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for descriptor, kind in ((1, ".out"), (2, ".err")):
        os.dup2(os.open(file.with_suffix(kind), os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(cwd)
    sys.path[0] = ""
    sys.argv = ["-c", *arguments]
    sys.modules["__main__"] = main = ModuleType("__main__")
    try:
        exec(script, main.__dict__)
    except Exception:
        traceback.print_exc()
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    _serve()

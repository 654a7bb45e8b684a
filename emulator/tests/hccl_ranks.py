"""Ranks for tests of the emulated HCCL: a process that imports torch_npu once and forks them.

Reads lines of JSON, ``{"do": function, "size": ranks, "environ": {...}, "within": seconds}``, and answers
each with a line when all ranks have ended or were killed for taking too long: for each rank its exit code,
its process id, what it printed on standard error, what it returned, and the seconds that it took.
Importing torch and torch_npu takes some seconds of a core; forking takes none.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any


def serve() -> None:
    import torch
    import torch_npu  # noqa: F401

    assert not torch.npu.is_initialized()  # type: ignore[attr-defined]
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(run(**request)), flush=True)


def run(do: str, size: int, within: float, environ: dict[str, str]) -> list[dict[str, Any]]:
    # Not a context manager: a forked rank would leave it as well, and remove the folder.
    folder = Path(tempfile.mkdtemp())
    start = time.monotonic()
    pids = []
    for rank in range(size):
        pid = os.fork()
        if pid == 0:
            rank_main(do, rank, size, environ, folder)
        pids.append(pid)
    codes: dict[int, int] = {}
    took: dict[int, float] = {}
    while len(codes) < size:
        for pid in set(pids) - set(codes):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(status)
                took[pid] = time.monotonic() - start
            elif time.monotonic() - start > within:
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)
    answers = [
        {
            "code": codes[pid],
            "pid": pid,
            "took": took[pid],
            "err": read(folder / f"{rank}.err"),
            "value": json.loads(read(folder / f"{rank}.json") or "null"),
        }
        for rank, pid in enumerate(pids)
    ]
    shutil.rmtree(folder)
    return answers


def read(file: Path) -> str:
    return file.read_text(errors="replace") if file.exists() else ""


def rank_main(do: str, rank: int, size: int, environ: dict[str, str], folder: Path) -> None:
    """Ends the process as the interpreter would end it: with what is registered for its end."""
    error = os.open(folder / f"{rank}.err", os.O_WRONLY | os.O_CREAT)
    os.dup2(error, 2)
    os.dup2(error, 1)
    os.environ.update(environ, RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=str(rank))
    try:
        import hccl_scenarios

        value = getattr(hccl_scenarios, do)(rank, size, f"file://{folder}/store")
        (folder / f"{rank}.json").write_text(json.dumps(value))
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    sys.exit(0)


if __name__ == "__main__":
    serve()

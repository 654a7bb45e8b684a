"""Counts of a case, with one process per card, on an emulated machine with as many cards."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from ascend_emulator.environment import Machine, variables
from benchmarks.launch_counts.worker import Case

_ROOT: Final = Path(__file__).resolve().parents[2]


def count_case(
    libraries: Path, case: Case, cards: int = 1, *, timeout_s: float | None = None
) -> dict[str, Any]:
    """Return the ``StepCounts`` of rank 0 as a dict.

    Raises:
        RuntimeError: a rank failed; the message has its output.
        subprocess.TimeoutExpired: a rank took longer than ``timeout_s``.
    """
    port = _free_port()
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.launch_counts.worker", json.dumps(case._asdict())],
            env={
                **os.environ,
                **variables(libraries, Machine(devices=cards)),
                **(_world(rank, cards, port) if cards > 1 else {}),
            },
            cwd=_ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(cards)
    ]
    outputs = [rank.communicate(timeout=timeout_s) for rank in ranks]
    for rank, (_, errors) in zip(ranks, outputs, strict=True):
        if rank.returncode:
            raise RuntimeError(f"{case} failed:\n{errors}")
    counts: dict[str, Any] = json.loads(outputs[0][0].splitlines()[-1])
    return counts


def _world(rank: int, cards: int, port: str) -> dict[str, str]:
    return {
        **dict.fromkeys(("RANK", "LOCAL_RANK"), str(rank)),
        **dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(cards)),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }


def _free_port() -> str:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])

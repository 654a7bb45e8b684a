"""The files that a run writes as it goes: ``log.txt`` and ``metrics.jsonl``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from shufflenet_fn.run.events import (
    CheckpointSaved,
    EpochTrained,
    Evaluated,
    Event,
    RunFinished,
    RunStarted,
    StepDone,
)
from shufflenet_fn.run.json_text import to_json
from shufflenet_fn.run.lines import event_lines

LOG = "log.txt"
METRICS = "metrics.jsonl"


class RunFiles:
    """Appends every event to ``log.txt`` (for people) and ``metrics.jsonl`` (for programs).

    One JSON object per line; ``kind`` is ``start``, ``train``, ``epoch``, ``eval``, ``checkpoint`` or
    ``end``, and ``time`` seconds since the epoch. Lines are flushed as they are written.
    """

    def __init__(self, run_dir: Path) -> None:
        self._log = open(run_dir / LOG, "a", buffering=1)  # noqa: SIM115  closed by close()
        self._metrics = open(run_dir / METRICS, "a", buffering=1)  # noqa: SIM115
        self._device, self._steps_per_epoch = "cpu", 1

    def event(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._device, self._steps_per_epoch = event.device, event.steps_per_epoch
        for line in event_lines(event, device=self._device, steps_per_epoch=self._steps_per_epoch):
            print(line, file=self._log)
        record = {"kind": _KINDS[type(event)], "time": time.time(), **_plain(event)}
        print(to_json(record), file=self._metrics)

    def note(self, text: str) -> None:
        print(text, file=self._log)

    def warning(self, text: str) -> None:
        print(f"warning: {text}", file=self._log)

    def close(self) -> None:
        try:
            self._log.close()
        finally:  # on a full disk closing the first one fails
            self._metrics.close()


class RankLog:
    """``log.rankN.txt`` of a rank other than 0: what it ran on and how it ended."""

    def __init__(self, run_dir: Path, rank: int) -> None:
        self._log = open(run_dir / f"log.rank{rank}.txt", "a", buffering=1)  # noqa: SIM115

    def event(self, event: Event) -> None:
        """Rank 0 writes the events down."""

    def note(self, text: str) -> None:
        print(text, file=self._log)

    def warning(self, text: str) -> None:
        print(f"warning: {text}", file=self._log)

    def close(self) -> None:
        self._log.close()


_KINDS: dict[type, str] = {
    RunStarted: "start",
    StepDone: "train",
    EpochTrained: "epoch",
    Evaluated: "eval",
    CheckpointSaved: "checkpoint",
    RunFinished: "end",
}


def _plain(event: Any) -> dict[str, Any]:
    return {
        name: _plain(value) if hasattr(value, "_asdict") else value
        for name, value in event._asdict().items()
    }

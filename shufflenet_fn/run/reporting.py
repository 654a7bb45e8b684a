"""What a run writes for people and programs: facts at its start, its logs, and results at its end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, TextIO

from shufflenet_fn.config.derived import microbatches_of, precision_name
from shufflenet_fn.config.options import declared
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.data.paths import printable
from shufflenet_fn.io import to_json
from shufflenet_fn.model.config import ShuffleNetConfig
from shufflenet_fn.model.count import count_macs, count_params
from shufflenet_fn.run.directory import LOG, METRICS
from shufflenet_fn.run.events import (
    CheckpointSaved,
    EpochTrained,
    Evaluated,
    Event,
    RunFinished,
    RunStarted,
    StepDone,
    event_lines,
)
from shufflenet_fn.run.plan import RunPlan
from shufflenet_fn.streams import escaping


def run_facts(
    plan: RunPlan, config: ShuffleNetConfig, global_batch: int, threads: int, train_images: int
) -> list[tuple[str, str]]:
    """Return the labels and values that a user wants to check before a long run."""
    settings = plan.settings
    microbatches = microbatches_of(settings, plan.world_size)
    macs = count_macs(config, height=settings.image_size, width=settings.image_size)
    return [
        ("run directory", printable(plan.run_dir)),
        (
            "model",
            f"{settings.arch}, {config.num_classes} classes, {count_params(config):,} parameters, "
            f"{macs / 1e6:.1f} M multiply-accumulates at {settings.image_size}²",
        ),
        ("data", f"{printable(str(settings.data))}, {train_images:,} training images"),
        ("devices", f"{plan.world_size} × {plan.device}, {threads} loader threads each"),
        (
            "batch",
            f"{global_batch} images per update in {microbatches} microbatches of "
            f"{global_batch // microbatches}, {microbatches // plan.world_size} per device",
        ),
        ("precision", precision_name(settings)),
        *_settings_by_origin(plan),
    ]


def _settings_by_origin(plan: RunPlan) -> list[tuple[str, str]]:
    groups: dict[str, list[str]] = {}
    for item in declared(TrainSettings):
        origin = plan.resolved.origin.get(item.name, "default")
        groups.setdefault(origin, []).append(f"{item.name}={getattr(plan.settings, item.name)}")
    return [
        (f"from {origin}", " ".join(values)) for origin, values in groups.items() if origin != "default"
    ] + [("defaults", " ".join(groups.get("default", [])))]


class RankLog:
    """The log of a rank: what it ran on, what was said, and how it ended."""

    def __init__(self, path: Path) -> None:
        self._log = _appended(path)

    def event(self, event: Event) -> None:
        """Do nothing: rank 0 writes the events down."""

    def note(self, text: str) -> None:
        print(text, file=self._log)

    def warning(self, text: str) -> None:
        print(f"warning: {text}", file=self._log)

    def close(self) -> None:
        self._log.close()


class RunFiles(RankLog):
    """Appends every event to ``log.txt`` (for people) and ``metrics.jsonl`` (for programs).

    One JSON object per line; ``kind`` is ``start``, ``train``, ``epoch``, ``eval``, ``checkpoint`` or
    ``end``, and ``time`` seconds since the epoch.
    """

    def __init__(self, run_dir: Path) -> None:
        super().__init__(run_dir / LOG)
        self._metrics = _appended(run_dir / METRICS)
        self._device, self._steps_per_epoch = "cpu", 1

    def event(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._device, self._steps_per_epoch = event.device, event.steps_per_epoch
        for line in event_lines(event, device=self._device, steps_per_epoch=self._steps_per_epoch):
            self.note(line)
        record = {"kind": _KINDS[type(event)], "time": time.time(), **_plain(event)}
        print(to_json(record), file=self._metrics)

    def close(self) -> None:
        try:
            super().close()
        finally:  # on a full disk closing the first one fails
            self._metrics.close()


def _appended(path: Path) -> TextIO:
    return open(path, "a", buffering=1, encoding="utf-8", errors=escaping())


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
        name: _plain(value) if hasattr(value, "_asdict") else value for name, value in event._asdict().items()
    }

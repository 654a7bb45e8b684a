"""Train for many tiny steps and check that memory, threads and file descriptors do not grow.

    python -m drills.soak [--steps 20000] [--ranks 1] [--json]

Evaluates once per epoch and saves every 250 steps. Each process of the run is observed through /proc. Memory
is flat if a line fitted to it rises by at most 1 % of its median over the steps after the first fifth.
Numbers of threads and file descriptors are flat if the line rises by less than 0.5. The exit code is 1 if
anything grows. The allocator's caches still fill up during the first thousands of steps, so a much shorter
run may report growth.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from drills.kills.flatness import WARM_UP, Growth, growths
from drills.kills.images import make_images
from drills.kills.launch import Launch, end_in_order_at_sigterm
from drills.kills.points import Control
from drills.kills.processes import Use, use_of
from shufflenet_fn.run.directory import METRICS, environment

STEPS_PER_EPOCH = 600
BATCH = 2
EVERY_S = 0.25


def command(images: Path, run: Path, steps: int, ranks: int) -> list[str]:
    epochs = -(-steps // STEPS_PER_EPOCH)
    return [
        *("-m", "shufflenet_fn_cli.main", "train", "--data", str(images), "--run-dir", str(run)),
        *("--arch", "x0_5", "--image-size", "16", "--batch-size", str(BATCH * ranks)),
        *("--epochs", str(epochs), "--max-steps", str(steps), "--learning-rate", "0.001"),
        *("--schedule", "constant", "--device", "cpu", "--devices", str(ranks)),
        *("--threads", "1", "--workers", str(ranks), "--print-freq", "25"),
        *("--checkpoint-freq", "250"),
    ]


class Steps:
    """The progress of the run, read from its growing log."""

    def __init__(self, log: Path) -> None:
        self._log, self._at, self.last = log, 0, 0

    def look(self) -> int:
        if self._log.exists():
            with self._log.open("rb") as file:
                file.seek(self._at)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._at += len(line)
                    record = json.loads(line)
                    if record["kind"] == "train":
                        self.last = record["step"]
        return self.last


def watched(launch: Launch, run: Path) -> dict[str, list[tuple[int, Use]]]:
    """Return samples of each process, by its name, until the run ends."""
    steps, found = Steps(run / METRICS), defaultdict[str, list[tuple[int, Use]]](list)
    shown = 0
    while not launch.has_ended():
        step = steps.look()
        ranks = launch.ranks()
        names = {pid: f"rank {number}" for number, pid in enumerate(ranks)}
        names[launch.pid] = "launcher" if ranks else "rank 0"
        for pid, name in names.items():
            if step and (use := use_of(pid)) is not None:
                found[name].append((step, use))
        if step >= shown + 1000:
            shown = step
            print(f"step {step}", file=sys.stderr, flush=True)
        time.sleep(EVERY_S)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    end_in_order_at_sigterm()
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        place = Path(name)
        per_class = STEPS_PER_EPOCH * BATCH * options.ranks // 3
        images = make_images(place / "images", per_class=per_class, side=20)
        line = command(images, place / "run", options.steps, options.ranks)
        with Launch(line, place, Control(place)) as launch:
            found = watched(launch, place / "run")
            left, output = launch.end(), launch.output()
        if launch.process.returncode:
            print(output[-2000:], file=sys.stderr)
            return 1
    table = {process: growths(_while_training(samples)) for process, samples in found.items()}
    flat = all(growth.flat for rows in table.values() for growth in rows) and not left
    if options.json:
        print(json.dumps(_as_json(options, table, found, left, flat)))
    else:
        Console().print(_table(table))
        print(f"{'flat' if flat else 'NOT flat'}, after the first {WARM_UP:.0%} of {options.steps} steps")
        print("\n".join(left))
    return 0 if flat else 1


def _while_training(samples: list[tuple[int, Use]]) -> list[tuple[int, Use]]:
    """Return the samples before the last logged step. The end of a run draws plots, which takes memory."""
    last = samples[-1][0]
    return [(step, use) for step, use in samples if step < last]


def _table(table: dict[str, list[Growth]]) -> Table:
    shown = Table("process", "quantity", "median", "growth", "per 1,000 steps", "bound", "flat")
    for process, rows in table.items():
        for row in rows:
            memory = row.quantity in ("resident", "anonymous")
            unit, divisor = (" MB", 1e6) if memory else ("", 1.0)
            cells = (row.median, row.growth, row.per_1000_steps, row.bound)
            numbers = [f"{cell / divisor:.3f}{unit}" for cell in cells]
            shown.add_row(process, row.quantity, *numbers, "yes" if row.flat else "NO")
    return shown


def _as_json(
    options: argparse.Namespace,
    table: dict[str, list[Growth]],
    found: dict[str, list[tuple[int, Use]]],
    left: list[str],
    flat: bool,
) -> dict[str, Any]:
    return {
        "command": ["python", *sys.argv],
        "environment": environment(),
        "steps": options.steps,
        "flat": flat,
        "left_behind": left,
        "processes": {
            name: [{**row._asdict(), "flat": row.flat} for row in rows] for name, rows in table.items()
        },
        "samples": {name: [(step, *use) for step, use in samples] for name, samples in found.items()},
    }


if __name__ == "__main__":
    sys.exit(main())

"""Kill runs at random moments and check that each ends with the same bytes as an uninterrupted run.

    python -m drills.kill_drill --kills 200 --seed 0 [--ranks 1,2] [--precision fp32,bf16] [--json]

The drill sends SIGKILL to a rank, to the launcher or to all, at random times and at named operations on
checkpoints. Afterwards no process, port, shared memory or temporary file may be left, and saved checkpoints
must still exist. The same command then resumes the run; with ``--max-restarts``, some launches restart their
ranks themselves. ``--replay`` also simulates a power cut after every operation of a save
(``crash_prefixes.py``). The exit code is 1 if any check fails. A seed makes the kills reproducible, as far as
timing allows.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from drills.kills.drill import Drill, Drilled, as_json
from drills.kills.images import make_images
from drills.kills.launch import end_in_order_at_sigterm
from drills.kills.plan import Setting
from drills.kills.run_dir import Ending
from shufflenet_fn.run.directory import environment

HERE = Path(__file__).resolve().parent


def recipe(images: Path, epochs: int) -> list[str]:
    """Return ``train`` options: six steps per epoch, a checkpoint every four steps and after each epoch."""
    return [
        *("--data", str(images), "--arch", "x0_5", "--image-size", "32", "--batch-size", "4"),
        *("--epochs", str(epochs), "--learning-rate", "0.01", "--ema-decay", "0.9"),
        *("--device", "cpu", "--threads", "1", "--workers", "2"),
        *("--checkpoint-freq", "4", "--print-freq", "2", "--eval-freq", "2"),
    ]


def drilled(options: argparse.Namespace, place: Path) -> list[Drilled]:
    images = make_images(place / "images")
    settings = [
        Setting(ranks, precision, launched)
        for ranks, precision in itertools.product(options.ranks, options.precision)
        # A single rank runs without a launcher, unless it may be restarted.
        for launched in ((False, True) if ranks == 1 else (True,))
    ]
    found = []
    references: dict[tuple[int, str], Ending | None] = {}
    for number, setting in enumerate(settings):
        share = options.kills // len(settings) + (number < options.kills % len(settings))
        if share:
            drill = Drill(
                setting,
                HERE / "kill_drill_entry.py",
                recipe(images, options.epochs),
                place / f"setting-{number}",
                random.Random(f"{options.seed} {number}"),
                lambda text: print(text, file=sys.stderr, flush=True),
            )
            # One rank must end with the same bytes with and without a launcher.
            kind = (setting.ranks, setting.precision)
            if references.get(kind) is None:
                references[kind] = drill.uninterrupted()
            found.append(drill.run(share, references[kind]))
    return found


def replayed(seed: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "drills.crash_prefixes", "--json", "--seed", str(seed)]
    done = subprocess.run(command, cwd=HERE.parent, stdout=subprocess.PIPE, text=True, check=False)
    return {"wrong": done.returncode, **json.loads(done.stdout)}


def tables(found: Sequence[Drilled], replay: dict[str, Any] | None) -> list[Table]:
    kills = Table("run of", "no.", "killed", "where", "good step", "had gone on from", "outcome")
    for one in found:
        for kill in one.kills:
            begun = "" if kill.resumed_from is None else str(kill.resumed_from)
            outcome = "; ".join(kill.wrong) or "ok"
            kills.add_row(
                *(one.title, str(kill.run), kill.victim, kill.where, str(kill.good_step)), *(begun, outcome)
            )
    sums = Table("run of", "kills", "runs", "seconds", "outcome")
    for one in found:
        outcome = "; ".join(one.wrong) or "all byte-identical, nothing left behind"
        sums.add_row(one.title, str(len(one.kills)), str(one.runs), f"{one.seconds:.0f}", outcome)
    if replay is None:
        return [kills, sums]
    power = Table("loss of power while saving", "operations", "states", "wrong")
    for row in replay["stories"]:
        power.add_row(*map(str, row.values()))
    return [kills, sums, power]


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ranks", type=_numbers, default=[1, 2], help="with commas between")
    parser.add_argument("--precision", type=lambda text: text.split(","), default=["fp32"], help="as train's")
    parser.add_argument("--epochs", type=int, default=20, help="of six steps")
    parser.add_argument("--replay", action="store_true", help="losses of power too")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    options = parser.parse_args()
    end_in_order_at_sigterm()
    place = Path(tempfile.mkdtemp(prefix="kill-drill-"))
    found = drilled(options, place)
    replay = replayed(options.seed) if options.replay else None
    failed = any(one.wrong for one in found) or (replay is not None and replay["wrong"] != 0)
    if failed:
        print(f"what went wrong is kept in {place}", file=sys.stderr)
    else:
        shutil.rmtree(place)
    if options.json:
        about = {"command": ["python", *sys.argv], "environment": environment()}
        result = {**about, "settings": [as_json(one) for one in found], "replay": replay}
        print(json.dumps(result))
    else:
        for table in tables(found, replay):
            Console().print(table)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

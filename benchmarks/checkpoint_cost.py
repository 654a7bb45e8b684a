"""Cost of a checkpoint every 200 steps: its share of the wall time of 200 steps, and its longest pause.

    python -m benchmarks.checkpoint_cost [--pairs 40] [--arch x1_0] [--image-size 64]

One run of ``shufflenet-fn train`` saves in every second stretch of 25 steps, so stretches with and without a
checkpoint alternate in the same process. The cost of a save is the additional time of its stretch, compared
with the mean of the two neighbours, and its share is relative to 200 steps. A stretch is only slightly longer
than writing a checkpoint, because each further step adds noise. With smaller images and batches, steps are
shorter and a checkpoint costs relatively more, so they are the harder test. The exit code is 1 if saving
costs more than 1 %, or if a save blocks the training loop for more than 20 ms.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from drills.kills.images import make_images
from drills.kills.launch import Launch, end_in_order_at_sigterm
from drills.kills.points import Control
from shufflenet_fn.bench.data import make_tree
from shufflenet_fn.bench.rounds import interval
from shufflenet_fn.run.directory import METRICS, environment

EPOCH = 200
STRETCH = 25
MOST_SHARE = 0.01
MOST_BLOCKED_S = 0.020
# The line of a step is written in the second step after it, before that step saves.
LATE = 3


def command(options: argparse.Namespace, data: Path, run: Path) -> list[str]:
    return [
        *("-m", "shufflenet_fn_cli.main", "train", "--data", str(data), "--run-dir", str(run)),
        *("--arch", options.arch, "--image-size", str(options.image_size)),
        *("--batch-size", str(options.batch_size), "--learning-rate", "0.001"),
        *("--device", options.device, "--epochs", "1", "--print-freq", "1"),
        *("--checkpoint-freq", str(2 * STRETCH)),
    ]


def measured(records: list[dict[str, Any]], pairs: int) -> dict[str, Any]:
    """Return the time share of each save, and how long it blocked, from a run's ``metrics.jsonl``."""
    times = {record["step"]: record["time"] for record in records if record["kind"] == "train"}
    ends = [times[STRETCH * number - LATE] for number in range(1, 2 * pairs + 3)]
    # The first stretch warms up and is dropped. The rest alternate: without a save, with a save, without…
    seconds = [after - before for before, after in itertools.pairwise(ends)]
    without, during = seconds[0::2], seconds[1::2]
    neighbours = [statistics.mean(two) for two in itertools.pairwise(without)]
    shares = [
        (took - beside) / (beside * EPOCH / STRETCH) for took, beside in zip(during, neighbours, strict=True)
    ]
    low, high = interval(shares)
    saves = [record for record in records if record["kind"] == "checkpoint"][:pairs]
    slowest = max(save["writing_s"] for save in saves)
    if slowest > min(during) / 2:
        sys.exit(
            f"a save was written in {slowest:.2f} s, more than half of the {min(during):.2f} s of {STRETCH} "
            "steps, and so may cost those after them too. Make a step longer (--image-size, --batch-size)."
        )
    return {
        "seconds_with": during,
        "seconds_without": without,
        "share": statistics.median(shares),
        "interval": [low, high],
        "blocked_ms": [1000 * save["blocked_s"] for save in saves],
        "blocked_max_ms": 1000 * max(save["blocked_s"] for save in saves),
        "writing_ms": 1000 * statistics.median(save["writing_s"] for save in saves),
        "megabytes": saves[0]["bytes"] / 1e6,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=40, help="stretches with a save")
    parser.add_argument("--arch", default="x1_0")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    options = parser.parse_args()
    end_in_order_at_sigterm()
    steps = STRETCH * (2 * options.pairs + 2)
    with tempfile.TemporaryDirectory(prefix="checkpoint-cost-") as name:
        place = Path(name)
        source = make_images(place / "source", per_class=64, side=options.image_size * 5 // 4)
        data = make_tree(source, place / "images", steps * options.batch_size)
        line = command(options, data, place / "run")
        with Launch(line, place, Control(place)) as launch:
            code = launch.process.wait()
            output = launch.output()
        if code:
            print(output[-2000:], file=sys.stderr)
            return 1
        lines = (place / "run" / METRICS).read_text().splitlines()
    found = measured([json.loads(text) for text in lines], options.pairs)
    met = found["share"] <= MOST_SHARE and found["blocked_max_ms"] <= 1000 * MOST_BLOCKED_S
    conclusive = not found["interval"][0] <= MOST_SHARE <= found["interval"][1]
    found |= {"met": met, "conclusive": conclusive}
    if options.json:
        about = {"command": ["python", *sys.argv], "environment": environment()}
        print(json.dumps({**about, **found}))
    else:
        Console().print(_table(found))
        if not conclusive:
            print(f"the interval holds the bar of {MOST_SHARE:.0%}: run longer (--pairs)")
    return 0 if met else 1


def _table(found: dict[str, Any]) -> Table:
    table = Table("", "measured", "bar")
    low, high = found["interval"]
    table.add_row(
        f"saving, of {EPOCH} steps", f"{found['share']:.2%} ({low:.2%} to {high:.2%})", f"{MOST_SHARE:.0%}"
    )
    without = statistics.median(found["seconds_without"])
    table.add_row(f"{STRETCH} steps without", f"{without:.2f} s", "")
    blocked = f"{statistics.median(found['blocked_ms']):.2f} ms, {found['blocked_max_ms']:.2f} at most"
    table.add_row("a save blocks", blocked, f"{1000 * MOST_BLOCKED_S:.0f} ms")
    writing = f"{found['writing_ms']:.0f} ms for {found['megabytes']:.1f} MB"
    table.add_row("and is written beside training in", writing, "")
    return table


if __name__ == "__main__":
    sys.exit(main())

"""Cut one of two machines off, again and again, and see that each run comes to the very same bytes.

    python -m drills.node_drill --cuts 10 --seed 0 [--json]

The machines are network namespaces of this one, with addresses of their own; this needs root, or a user who
may make namespaces. In turn: the cable is pulled for a moment, which nobody may notice; for longer than
``--hang-timeout``, after which all ranks start again by themselves; for longer without restarts, where both
commands must end in time with the other machine named, and the same commands go on; and either machine goes
down, and its command is given again. No process, namespace or file may be left. The exit code is 1 if
anything is not as it should be, and 2 where there can be no namespaces. A seed makes the plan repeatable.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

from drills.kills.cuts import CutDrill, Tried, draw
from drills.kills.images import make_images
from drills.kills.launch import end_in_order_at_sigterm
from drills.kills.network import NoNamespaces, two_machines
from shufflenet_fn.run.directory import environment

_STEPS = 6


def recipe(images: Path, epochs: int) -> list[str]:
    """Six steps an epoch on two ranks; a checkpoint every fourth step and at the end of each epoch."""
    return [
        *("--data", str(images), "--arch", "x0_5", "--image-size", "32", "--batch-size", "4"),
        *("--epochs", str(epochs), "--learning-rate", "0.01", "--ema-decay", "0.9"),
        *("--device", "cpu", "--threads", "1", "--workers", "2"),
        *("--checkpoint-freq", "4", "--print-freq", "2", "--eval-freq", str(epochs)),
    ]


def line_of(number: int, tried: Tried) -> str:
    trial = tried.trial
    noticed = "" if tried.noticed_s is None else f", both ended after {tried.noticed_s:.1f} s"
    outcome = "; ".join(tried.wrong) or "byte-identical"
    return (
        f"cut {number}: {trial.kind}, at step {trial.after}, for {trial.cut_s:.1f} s{noticed}: "
        f"{outcome} ({tried.seconds:.0f} s)"
    )


def drilled(options: argparse.Namespace, place: Path) -> list[Tried]:
    rng = random.Random(options.seed)
    found: list[Tried] = []
    images = make_images(place / "images")
    with two_machines() as machines:
        drill = CutDrill(machines, recipe(images, options.epochs), place)
        reference = drill.uninterrupted()
        for number in range(options.cuts):
            trial = draw(rng, number, _STEPS * options.epochs)
            found.append(drill.run(trial, f"run-{number + 1}", reference))
            print(line_of(number + 1, found[-1]), file=sys.stderr, flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cuts", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=20, help="of six steps, in each run")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a line")
    options = parser.parse_args()
    end_in_order_at_sigterm()
    place = Path(tempfile.mkdtemp(prefix="node-drill-"))
    try:
        found = drilled(options, place)
    except NoNamespaces as error:
        shutil.rmtree(place)
        print(f"error: {error}", file=sys.stderr)
        return 2
    failed = sum(bool(tried.wrong) for tried in found)
    if failed:
        print(f"what went wrong is kept in {place}", file=sys.stderr)
    else:
        shutil.rmtree(place)
    if options.json:
        about = {"command": ["python", *sys.argv], "environment": environment()}
        cuts = [{**tried._asdict(), "trial": tried.trial._asdict()} for tried in found]
        print(json.dumps({**about, "cuts": cuts, "failed": failed}))
    else:
        print(f"{len(found) - failed} of {len(found)} cuts survived")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""Read damaged files with the input pipeline: nothing may crash, hang, or return wrong pixels.

    python -m drills.fuzz_input --files 10000 --seed 0

Damages image files (generated JPEGs of every encoding, or those below ``--data``) and files of a packed data
set, each in one of nine ways drawn from the seed and the file's number. A damaged image must give an error
that names it, or exactly the pixels that libjpeg-turbo decodes without a warning. ``data verify`` must find
damage to packed data, and no sample may be read as another. Prints a table of outcomes; the exit code is 1 if
any other outcome occurred. ``--only N`` repeats one trial.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter

from drills.fuzz.supervised import supervised
from drills.fuzz.trials import Trial, make_trials

LIMIT_S = 20.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=10_000, help="how many files to damage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", help="damage image files below this folder instead of made ones")
    parser.add_argument("--only", type=int, help="repeat the trial of this number")
    given = parser.parse_args()
    numbers = range(given.files) if given.only is None else range(given.only, given.only + 1)
    counts: Counter[tuple[str, str, str]] = Counter()
    violations: list[str] = []
    with tempfile.TemporaryDirectory(prefix="shufflenet-fn-fuzz-") as folder:
        arguments = (given.seed, given.data, folder)
        for number, result, reason in supervised(make_trials, arguments, numbers, limit_s=LIMIT_S):
            trial = result or Trial("?", "?", "violation", reason)
            counts[trial.target, trial.mutation, trial.outcome] += 1
            if trial.violation:
                violations.append(f"{number} ({trial.target}, {trial.mutation}): {trial.violation}")
            if sys.stderr.isatty():
                print(f"\r{number + 1} of {numbers.stop}", end="", file=sys.stderr, flush=True)
    print_table(counts)
    for violation in violations:
        print(f"violation: {violation}")
    print(f"{len(numbers)} damaged files, seed {given.seed}: {len(violations)} violations")
    return 1 if violations else 0


def print_table(counts: Counter[tuple[str, str, str]]) -> None:
    outcomes = sorted({outcome for _, _, outcome in counts})
    rows = sorted({(target, mutation) for target, mutation, _ in counts})
    print(f"{'damaged':24}{'how':20}" + "".join(f"{outcome:>22}" for outcome in outcomes))
    for target, mutation in rows:
        cells = "".join(f"{counts[target, mutation, outcome]:22}" for outcome in outcomes)
        print(f"{target:24}{mutation:20}{cells}")
    totals = (sum(n for (_, _, o), n in counts.items() if o == outcome) for outcome in outcomes)
    print(f"{'all':44}" + "".join(f"{total:22}" for total in totals))


if __name__ == "__main__":
    sys.exit(main())

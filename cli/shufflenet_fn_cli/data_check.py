"""``shufflenet-fn data check``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shufflenet_fn_cli.data_progress import open_progress

if TYPE_CHECKING:
    from shufflenet_fn.data.check import Checked, Finding

SHOWN_REMARKS = 3


def check(
    folder: Annotated[str, typer.Argument(help="Image folder, packed data, or 'demo'.", show_default=False)],
    workers: Annotated[
        int | None,
        typer.Option(help="Threads that read and decode. (default: one per core)", show_default=False),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Read and decode every image, and list all problems that would stop a training run.

    Remarks on unusual images that would not stop it follow: at most a few of each kind; --json
    lists all.

    Exit codes: 0 no problem would stop training, 1 some would, 2 wrong usage.
    """
    from shufflenet_fn.data.check import check as check_folder
    from shufflenet_fn.data.demo import ensure_demo
    from shufflenet_fn.io import to_json
    from shufflenet_fn_backends.runtimes.cpu import usable_cores

    with open_progress() as advance:
        result = check_folder(
            ensure_demo() if folder == "demo" else Path(folder),
            workers=usable_cores() if workers is None else workers,
            report=lambda split, done, total: advance(f"checking {split}", done, total),
        )
    if as_json:
        print(to_json(_plain(result)))
    else:
        _print(result)
    if result.problems:
        raise typer.Exit(1)


def _plain(result: Checked) -> dict[str, object]:
    return {
        "ok": not result.problems,
        "images": result.images,
        "problems": [finding._asdict() for finding in result.problems],
        "remarks": [finding._asdict() for finding in result.remarks],
    }


def _print(result: Checked) -> None:
    _print_kinds(result.problems, shown=len(result.problems))
    if result.remarks:
        print("remarks")
        _print_kinds(result.remarks, shown=SHOWN_REMARKS, indent="  ")
    counts = ", ".join(f"{split} {count:,}" for split, count in result.images.items())
    problems = f"{len(result.problems)} problem{'' if len(result.problems) == 1 else 's'}"
    verdict = "a training run would stop" if result.problems else "a training run would not stop"
    print(f"images: {counts}; {problems}: {verdict}")


def _print_kinds(findings: Sequence[Finding], *, shown: int, indent: str = "") -> None:
    from shufflenet_fn.data.folder import by_extension
    from shufflenet_fn.data.listing import extension_of

    ordered = sorted(findings, key=lambda finding: finding.kind)
    for kind, members in groupby(ordered, key=lambda finding: finding.kind):
        group = list(members)
        counts = Counter(extension_of(finding.name) for finding in group)
        extensions = f": {by_extension(counts)}" if kind == "other file" else ""
        print(f"{indent}{kind} ({len(group):,}{extensions})")
        for finding in group[:shown]:
            print(f"{indent}  {finding.name}: {finding.text}")
        if len(group) > shown:
            print(f"{indent}  and {len(group) - shown:,} more")

"""``shufflenet-fn data``: pack, check and measure training data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shufflenet_fn.bench.settings import DataBenchSettings
from shufflenet_fn_cli.bench import AsJson, progress, show
from shufflenet_fn_cli.console import open_progress, size_text, table_console
from shufflenet_fn_cli.data_pack import Workers, pack, verify
from shufflenet_fn_cli.options import with_settings

if TYPE_CHECKING:
    from shufflenet_fn.data.check import Checked, Finding
    from shufflenet_fn.data.opening import Description

SHOWN_REMARKS = 3

Folder = Annotated[str, typer.Argument(help="Image folder, packed data, or 'demo'.", show_default=False)]

data_app = typer.Typer(help="Pack, check and measure training data.", no_args_is_help=True)


@data_app.command()
def check(folder: Folder, workers: Workers, as_json: AsJson = False) -> None:
    """Read and decode every image, and list all problems that would stop a training run.

    Remarks on unusual images that would not stop it follow: at most a few of each kind; --json
    lists all.

    Exit codes: 0 no problem would stop training, 1 some would, 2 wrong usage.
    """
    from shufflenet_fn.data.check import check as check_folder
    from shufflenet_fn.data.demo import ensure_demo
    from shufflenet_fn.io import to_json

    with open_progress() as advance:
        result = check_folder(
            ensure_demo() if folder == "demo" else Path(folder),
            workers=workers,
            report=lambda split, done, total: advance(f"checking {split}", done, total),
        )
    if as_json:
        plain = {
            "images": result.images,
            "problems": [finding._asdict() for finding in result.problems],
            "remarks": [finding._asdict() for finding in result.remarks],
        }
        print(to_json({"ok": not result.problems, **plain}))
    else:
        _print_findings(result)
    if result.problems:
        raise typer.Exit(1)


def _print_findings(result: Checked) -> None:
    from shufflenet_fn.data.folder import counted

    _print_kinds(result.problems, shown=len(result.problems))
    if result.remarks:
        print("remarks")
        _print_kinds(result.remarks, shown=SHOWN_REMARKS, indent="  ")
    counts = ", ".join(f"{split} {count:,}" for split, count in result.images.items())
    verdict = "would stop" if result.problems else "would not stop"
    print(f"images: {counts}; {counted(len(result.problems), 'problem')}: a training run {verdict}")


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


data_app.command()(pack)
data_app.command()(verify)


@data_app.command()
def info(folder: Folder, as_json: AsJson = False) -> None:
    """Describe a data set: images, classes, sizes, and how it was packed."""
    from shufflenet_fn.data.demo import ensure_demo
    from shufflenet_fn.data.opening import describe
    from shufflenet_fn.io import to_json

    description = describe(ensure_demo() if folder == "demo" else folder)
    if as_json:
        settings = description.settings and vars(description.settings)
        splits = {name: facts._asdict() for name, facts in description.splits.items()}
        print(to_json({**description._asdict(), "splits": splits, "settings": settings}))
    else:
        _print_description(description)


def _print_description(description: Description) -> None:
    from rich.table import Table
    from rich.text import Text

    from shufflenet_fn.data.paths import printable

    console = table_console()
    kind = "packed" if description.packed else "an image folder"
    folder = printable(description.folder)
    console.print(Text(f"{folder}: {kind}, {len(description.classes)} classes"), soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("split", no_wrap=True)
    for heading in ("images", "classes", "images/class", "size", "short side", "shards", "kept"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, facts in description.splits.items():
        sides, packed = facts.short_sides, facts.shards is not None
        table.add_row(
            name,
            str(facts.images),
            str(facts.classes),
            f"{facts.fewest}-{facts.most}",
            size_text(facts.bytes),
            f"{sides['median']} ({sides['smallest']}-{sides['largest']})" if sides else "-",
            *((str(facts.shards), str(facts.kept)) if packed else ("-", "-")),
        )
    console.print(table)
    settings = description.settings
    if settings is not None:
        side = f"short side at most {settings.short_side}" if settings.short_side else "any size"
        quality = f", quality {settings.quality}" if settings.quality else ""
        shards = size_text(settings.shard_bytes)
        records = f"records: {settings.format}, {side}{quality}, shards of {shards}"
        console.print(Text(records), soft_wrap=True)
    for label, value in description.provenance.items():
        console.print(Text(f"{label}: {value}"), soft_wrap=True)
    for name, facts in description.splits.items():
        for image in facts.left_out:
            console.print(Text(f"left out of {name}: {image}"), soft_wrap=True)


@data_app.command()
@with_settings(DataBenchSettings)
def bench(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Image folder.")],
    as_json: AsJson = False,
    **given: Any,
) -> None:
    """Compare loaders: files, packed data and torchvision's DataLoader, up to normalised batches.

    Every loader runs in its own process, and the loaders take turns. The report has medians over
    rounds, CPU seconds including child processes, ratios to torchvision at its best number of workers
    with their intervals, and the cost of each stage of our loader on one thread.
    """
    from shufflenet_fn.bench.data import run_data_bench
    from shufflenet_fn_cli.bench_table import print_data_table

    show(run_data_bench(source, DataBenchSettings(**given), progress=progress), as_json, print_data_table)

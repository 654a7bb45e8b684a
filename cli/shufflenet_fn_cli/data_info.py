"""``shufflenet-fn data info``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from shufflenet_fn_cli.data_progress import size_text

if TYPE_CHECKING:
    from shufflenet_fn.data.describe import Description, SplitFacts


def info(
    folder: Annotated[str, typer.Argument(help="Image folder, packed data, or 'demo'.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Describe a data set: images, classes, sizes, and how it was packed."""
    from shufflenet_fn.data.demo import ensure_demo
    from shufflenet_fn.data.describe import describe
    from shufflenet_fn.io import to_json

    description = describe(ensure_demo() if folder == "demo" else folder)
    if as_json:
        print(to_json(_plain(description)))
    else:
        _print(description)


def _plain(description: Description) -> dict[str, object]:
    return {
        **description._asdict(),
        "splits": {
            name: {**facts._asdict(), "short_sides": facts.short_sides and facts.short_sides._asdict()}
            for name, facts in description.splits.items()
        },
        "settings": description.settings and vars(description.settings),
    }


def _print(description: Description) -> None:
    from rich.table import Table
    from rich.text import Text

    from shufflenet_fn.data.paths import printable
    from shufflenet_fn_cli.options import table_console

    console = table_console()
    kind = "packed" if description.packed else "an image folder"
    folder = printable(description.folder)
    console.print(Text(f"{folder}: {kind}, {len(description.classes)} classes"), soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("split", no_wrap=True)
    for heading in ("images", "classes", "images/class", "size", "short side", "shards", "kept"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, facts in description.splits.items():
        table.add_row(name, *_cells(facts))
    console.print(table)
    for label, value in _facts(description):
        console.print(Text(f"{label}: {value}"), soft_wrap=True)


def _cells(facts: SplitFacts) -> tuple[str, ...]:
    sides = facts.short_sides
    return (
        str(facts.images),
        str(facts.classes),
        f"{facts.fewest}-{facts.most}",
        size_text(facts.bytes),
        f"{sides.median} ({sides.smallest}-{sides.largest})" if sides else "-",
        "-" if facts.shards is None else str(facts.shards),
        "-" if facts.kept is None else str(facts.kept),
    )


def _facts(description: Description) -> list[tuple[str, str]]:
    facts: list[tuple[str, str]] = []
    settings = description.settings
    if settings is not None:
        side = f"short side at most {settings.short_side}" if settings.short_side else "any size"
        quality = f", quality {settings.quality}" if settings.quality else ""
        shards = size_text(settings.shard_bytes)
        facts.append(("records", f"{settings.format}, {side}{quality}, shards of {shards}"))
    facts += description.provenance.items()
    for name, split in description.splits.items():
        facts += [(f"left out of {name}", image) for image in split.left_out]
    return facts

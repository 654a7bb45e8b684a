"""How checkpoints look on a terminal."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from shufflenet_fn.checkpoint.describe import Comparison, Listed, TensorFacts
from shufflenet_fn.data.paths import printable

SHOWN = 40
"""Differences that are printed one by one; the others are counted."""


def print_list(listed: list[Listed]) -> None:
    """A row for each checkpoint, the problem of a bad one below the table."""
    table = _table("checkpoint", "", right=("step", "epoch", "saved", "Acc@1", "size"))
    for item in listed:
        marks = [name for name, is_it in (("latest", item.latest), ("best", item.best)) if is_it]
        if item.problem:
            marks.append("damaged")
        table.add_row(
            item.name,
            Text(" ".join(marks), style="red" if item.problem else "green"),
            "-" if item.step is None else str(item.step),
            "-" if item.epoch is None else f"{item.epoch:.2f}",
            "-" if item.saved_at is None else f"{datetime.fromtimestamp(item.saved_at):%F %T}",
            "-" if item.accuracy1 is None else f"{item.accuracy1:.3f}",
            f"{item.bytes / 1e6:.1f} MB",
        )
    console = Console()
    console.print(table)
    for item in listed:
        if item.problem:
            console.print(Text(f"{item.name}: {item.problem}", style="red"), soft_wrap=True)


def print_checkpoint(path: Path, manifest: dict[str, Any], tensors: list[TensorFacts]) -> None:
    """The manifest line by line, then the tensors."""
    console = Console()
    console.print(Text(printable(path), style="bold"), soft_wrap=True)
    for name, value in manifest.items():
        if name == "origin" or name.startswith("sha256"):
            continue
        if isinstance(value, dict) and name != "files":
            value = " ".join(f"{key}={item}" for key, item in value.items())
        if name == "files":
            value = ", ".join(f"{file} ({entry['bytes']:,} bytes)" for file, entry in value.items())
        if name == "classes":
            value = f"{len(value)}: {', '.join(value[:5])}{', …' if len(value) > 5 else ''}"
        console.print(Text(printable(f"{name}: {value}")), soft_wrap=True)
    table = _table("file", "tensor", "dtype", "shape")
    for tensor in tensors:
        table.add_row(*(Text(printable(str(part))) for part in tensor))
    console.print(table)


def print_comparison(first: Path, second: Path, comparison: Comparison) -> None:
    """Which two were compared, what differs, and whether the tensors are the same."""
    console = Console()
    console.print(Text(printable(f"{first} | {second}"), style="bold"), soft_wrap=True)
    for item in comparison.values:
        line = printable(f"{item.name}: {item.first} | {item.second}")
        console.print(Text(line), soft_wrap=True)
    if comparison.different:
        table = _table("file", "tensor", "", right=("elements", "largest difference"))
        for tensor in comparison.different[:SHOWN]:
            table.add_row(
                Text(tensor.file),
                Text(printable(tensor.name)),
                Text(tensor.how),
                "-" if tensor.elements is None else f"{tensor.elements:,}",
                "-" if tensor.largest is None else f"{tensor.largest:.3g}",
            )
        console.print(table)
        if len(comparison.different) > SHOWN:
            console.print(f"and {len(comparison.different) - SHOWN} more")
        console.print(f"{len(comparison.different)} of {comparison.tensors} tensors differ")
    else:
        console.print(f"all {comparison.tensors} tensors are byte-identical")


def _table(*headings: str, right: tuple[str, ...] = ()) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for heading in right:
        table.add_column(heading, justify="right", no_wrap=True)
    return table

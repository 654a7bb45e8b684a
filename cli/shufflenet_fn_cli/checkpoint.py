"""``shufflenet-fn checkpoint``: inspect checkpoints without training."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from shufflenet_fn.io import to_json
from shufflenet_fn_backends.support.errors import UsageError, UserError
from shufflenet_fn_cli.console import table_console

if TYPE_CHECKING:  # they import torch, which --help does without
    from shufflenet_fn.checkpoint.describe import Comparison, Listed, TensorFacts
    from shufflenet_fn.checkpoint.read import Content

checkpoint_app = typer.Typer(help="List, verify, show and compare checkpoints.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Run = Annotated[Path, typer.Argument(help="Run directory.", show_default=False)]
One = Annotated[
    Path, typer.Argument(help="A checkpoint, or a run directory (its newest).", show_default=False)
]


@checkpoint_app.command("list")
def list_(run: Run, as_json: AsJson = False) -> None:
    """List and verify every checkpoint of a run. The exit code is 0 even if some are damaged."""
    from shufflenet_fn.checkpoint.describe import list_checkpoints

    listed = list_checkpoints(run)
    if as_json:
        print(to_json({"checkpoints": [item._asdict() for item in listed]}))
        return
    print_list(listed)


@checkpoint_app.command()
def verify(path: One, as_json: AsJson = False) -> None:
    """Verify every byte of a checkpoint, or of all of a run. Exit codes: 0 undamaged, 1 damaged."""
    from shufflenet_fn.checkpoint.describe import list_checkpoints
    from shufflenet_fn.checkpoint.format import MANIFEST, step_of
    from shufflenet_fn.checkpoint.inventory import CHECKPOINTS
    from shufflenet_fn.checkpoint.read import verify as verify_one

    problems: dict[str, str | None] = {}
    if (path / CHECKPOINTS).exists():
        problems = {item.name: item.problem for item in list_checkpoints(path)}
    elif (path / MANIFEST).exists() or (path.is_dir() and step_of(path.name) is not None):
        try:
            verify_one(path)
            problems[path.name] = None
        except UserError as error:
            problems[path.name] = str(error)
    if not problems:
        raise UsageError(f"no checkpoint at {path}. Give a folder that holds {MANIFEST}, or a run directory.")
    if as_json:
        print(to_json({"checkpoints": problems, "good": not any(problems.values())}))
    else:
        for name, problem in problems.items():
            print(f"{name}: {problem or 'good'}")
    if any(problems.values()):
        raise typer.Exit(1)


@checkpoint_app.command()
def show(path: One, as_json: AsJson = False) -> None:
    """Show the manifest of a checkpoint and every tensor in it."""
    from shufflenet_fn.checkpoint.describe import tensors_in

    checkpoint, manifest, _ = content = _find(path)
    tensors = tensors_in(content)
    if as_json:
        print(to_json({"path": str(checkpoint), **manifest, "tensors": [t._asdict() for t in tensors]}))
        return
    print_checkpoint(checkpoint, manifest, tensors)


@checkpoint_app.command()
def diff(first: One, second: One, as_json: AsJson = False) -> None:
    """Show settings and tensors that differ. Exit codes: 0 the tensors are byte-identical, 1 they are not."""
    from shufflenet_fn.checkpoint.describe import compare

    left, right = _find(first), _find(second)
    comparison = compare(left, right)
    if as_json:
        told = {
            "first": str(left.path),
            "second": str(right.path),
            "identical": comparison.identical,
            "tensors": comparison.tensors,
            "different": [item._asdict() for item in comparison.different],
            "values": [item._asdict() for item in comparison.values],
        }
        print(to_json(told))
    else:
        print_comparison(left.path, right.path, comparison)
    if not comparison.identical:
        raise typer.Exit(1)


def _find(path: Path) -> Content:
    """Read the checkpoint at ``path``, and name skipped ones on standard error."""
    from shufflenet_fn.checkpoint.describe import find_one

    found, notes = find_one(path)
    for note in notes:
        print(note, file=sys.stderr)
    return found


SHOWN = 40
"""Differences that are printed one by one; the others are counted."""


def print_list(listed: list[Listed]) -> None:
    """Print a row for each checkpoint, and the problems of damaged ones below the table."""
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
    console = table_console()
    console.print(table)
    for item in listed:
        if item.problem:
            console.print(Text(f"{item.name}: {item.problem}", style="red"), soft_wrap=True)


def print_checkpoint(path: Path, manifest: dict[str, Any], tensors: list[TensorFacts]) -> None:
    """Print the manifest line by line, then the tensors."""
    from shufflenet_fn.data.paths import printable

    console = table_console()
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
    """Print which two were compared, what differs, and whether the tensors are the same."""
    from shufflenet_fn.data.paths import printable

    console = table_console()
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

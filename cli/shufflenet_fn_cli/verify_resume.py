"""``shufflenet-fn verify-resume``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from shufflenet_fn_backends.names import BACKEND_NAMES
from shufflenet_fn_cli.console import table_console
from shufflenet_fn_cli.options import KNOWN, Device, choice, completing, importing

if TYPE_CHECKING:
    from shufflenet_fn.run.verify_resume import Verification

_SHOWN = 10


def verify_resume(
    device: Device = "auto",
    devices: Annotated[int, typer.Option(min=1, help="Processes, one for each device.")] = 1,
    precision: Annotated[
        str, typer.Option(help="As for train.", autocompletion=completing(KNOWN["precision"]))
    ] = "fp32",
    backend: Annotated[
        str, choice("--backend", "Primitives to compute with.", "auto", *BACKEND_NAMES)
    ] = "auto",
    steps: Annotated[int, typer.Option(help="Number of updates of the run.")] = 40,
    deterministic: Annotated[
        bool, typer.Option(help="Use deterministic operators; needed on accelerators.")
    ] = True,
    timeout: Annotated[float, typer.Option(help="Seconds for each of the three starts.")] = 120.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Kill a short run, resume it, and compare it byte by byte with an uninterrupted run.

    It uses demo images and a temporary folder. Exit codes: 0 the same bytes, 1 different bytes or a
    failure, 2 wrong usage, 3 device not available.
    """
    with importing():
        from shufflenet_fn.io import to_json
        from shufflenet_fn.run.verify_resume import verify_resume as drill

    chosen = ("--device", device, "--precision", precision, "--backend", backend)
    found = drill(
        (sys.executable, "-m", "shufflenet_fn_cli.main"),
        (*chosen, "--deterministic" if deterministic else "--no-deterministic"),
        devices=devices,
        steps=steps,
        timeout_s=timeout,
        say=lambda text: print(text, file=sys.stderr),
    )
    if as_json:
        comparison = found.comparison
        print(
            to_json(
                {
                    "identical": found.identical,
                    "saved": found.saved,
                    "steps": found.steps,
                    "seconds": found.seconds,
                    "tensors": comparison.tensors,
                    "different": [item._asdict() for item in comparison.different],
                }
            )
        )
    else:
        _print(found)
    if not found.identical:
        raise typer.Exit(1)


def _print(found: Verification) -> None:
    from rich.table import Table

    comparison, console = found.comparison, table_console()
    table = Table("tensor", "file", "difference", "elements")
    for item in comparison.different[:_SHOWN]:
        largest = item.how if item.largest is None else f"up to {item.largest:.3g}"
        table.add_row(item.name, item.file, largest, str(item.elements or ""))
    if comparison.different:
        console.print(table)
    cut = (
        f"after {found.steps} updates, killed and resumed from step {found.saved}: "
        f"{comparison.tensors} tensors"
    )
    if found.identical:
        console.print(
            f"the same bytes {cut} compared in {found.seconds:.0f} s. A resume is exact here.", soft_wrap=True
        )
        return
    first = comparison.different[0]
    by = "" if first.largest is None else f" by up to {first.largest:.3g}"
    console.print(
        f"NOT the same {cut} compared, {len(comparison.different)} differ, the first {first.name} in "
        f"{first.file}{by}. A resume goes on here, but not exactly.",
        soft_wrap=True,
    )

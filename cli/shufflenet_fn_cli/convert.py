"""``shufflenet-fn convert``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from shufflenet_fn_cli.options import Arch, ModelName, Names, importing


def convert(
    model: ModelName,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="The file to write. Its ending says what: .safetensors or .pth (torchvision's state_dict), "
            "or .pth.tar (what the original saves).",
            show_default=False,
        ),
    ],
    arch: Arch = None,
    names: Names = None,
) -> None:
    """Write a model's weights, with its class names, in a form that other tools read."""
    with importing():
        from shufflenet_fn.data.paths import printable
        from shufflenet_fn.use.convert import convert as write

    opened = write(model, output, arch=arch, names=names)
    for note in opened.notes:
        print(note, file=sys.stderr)
    named = "no class names" if opened.classes is None else "with their names"
    print(
        f"wrote {printable(output)} ({output.stat().st_size:,} bytes): {opened.arch}, "
        f"{opened.config.num_classes} classes, {named}"
    )

"""``shufflenet-fn data verify``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shufflenet_fn_cli.data_progress import open_progress, size_text

if TYPE_CHECKING:
    from shufflenet_fn.data.packed.verify import Damage, Verified

SHOWN = 50


def verify(
    folder: Annotated[Path, typer.Argument(help="Folder that `data pack` wrote.", show_default=False)],
    workers: Annotated[
        int | None, typer.Option(help="Threads that read. (default: one per core)", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Read all of the packed data and report every byte that differs from what was packed.

    Exit codes: 0 undamaged, 1 damaged, 2 wrong usage.
    """
    from shufflenet_fn.data.packed.verify import verify as verify_folder
    from shufflenet_fn.data.paths import printable
    from shufflenet_fn.io import to_json
    from shufflenet_fn_backends.runtimes.cpu import usable_cores

    with open_progress(binary=True) as advance:
        result = verify_folder(
            folder,
            workers=usable_cores() if workers is None else workers,
            report=lambda done, total: advance("verifying", done, total),
        )
    if as_json:
        print(to_json(_plain(result)))
    else:
        _print(result, printable(folder))
    if result.damage:
        raise typer.Exit(1)


def _plain(result: Verified) -> dict[str, object]:
    return {
        "ok": not result.damage,
        "damage": [damage._asdict() for damage in result.damage],
        "files": result.files,
        "images": result.images,
        "bytes": result.bytes,
    }


def _print(result: Verified, folder: str) -> None:
    from shufflenet_fn.data.folder import counted

    for damage in result.damage[:SHOWN]:
        print(_line(damage))
    if len(result.damage) > SHOWN:
        print(f"and {len(result.damage) - SHOWN} more; --json lists all")
    checked = f"{result.images} images, {result.files} files, {size_text(result.bytes)}"
    if not result.damage:
        print(f"{folder} is as it was packed: {checked}")
        return
    strays = sum(damage.stray for damage in result.damage)
    if strays == len(result.damage):
        print(
            f"{folder} is as it was packed ({checked}), but for what else lies there: delete "
            f"{counted(strays, 'file')}, named above."
        )
        return
    files = len({damage.file for damage in result.damage if not damage.stray})
    print(
        f"{folder} is damaged: {files} of {result.files} files ({checked}). Copy them again from a "
        "good copy, or pack again with --overwrite."
    )


def _line(damage: Damage) -> str:
    if damage.record is None:
        return f"{damage.file}: {damage.reason}"
    return f"{damage.file} record {damage.record} ({damage.original}): {damage.reason}"

"""``shufflenet-fn data pack`` and ``data verify``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shufflenet_fn_backends.support.errors import UsageError
from shufflenet_fn_backends.support.limits import usable_cores
from shufflenet_fn_cli.bench import AsJson
from shufflenet_fn_cli.console import advice_when_interrupted, open_progress, size_text
from shufflenet_fn_cli.options import choice

if TYPE_CHECKING:
    from shufflenet_fn.data.packed.verify import Verified
    from shufflenet_fn.data.packed.write import Packed


SHOWN_DAMAGE = 50

Workers = Annotated[
    int,
    typer.Option(
        min=1, default_factory=usable_cores, show_default="one per core", help="Threads that do the work."
    ),
]


def pack(
    source: Annotated[
        str, typer.Argument(help="Folder with train/CLASS/* and val/CLASS/*, or 'demo'.", show_default=False)
    ],
    destination: Annotated[
        Path, typer.Argument(help="Folder for the packed data; must be new or empty.", show_default=False)
    ],
    workers: Workers,
    record_format: Annotated[
        str, choice("--format", "raw stores pixels: large, with nothing to decode.", "jpeg", "raw")
    ] = "jpeg",
    short_side: Annotated[
        int, typer.Option(help="Shrink larger images to this short side in pixels; 0 keeps every size.")
    ] = 256,
    quality: Annotated[
        int | None,
        typer.Option(help="Quality of re-encoded JPEGs, 1 to 100. (default: 90)", show_default=False),
    ] = None,
    shard_size: Annotated[
        float, typer.Option(help="Close a shard when its images reach this many MiB.")
    ] = 256.0,
    on_bad_image: Annotated[
        str,
        choice("--on-bad-image", "skip leaves out and lists images that cannot be decoded.", "stop", "skip"),
    ] = "stop",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing packed data.")] = False,
) -> None:
    """Pack an image folder into tar shards, which load faster than files.

    After an interruption, run it again with the same arguments: it continues after
    the last finished shard. JPEGs that need no change are kept byte for byte.
    """
    import torch

    from shufflenet_fn.data.demo import ensure_demo
    from shufflenet_fn.data.packed.index import DEFAULT_QUALITY, PackSettings
    from shufflenet_fn.data.packed.write import pack as pack_folder
    from shufflenet_fn.data.paths import printable

    if quality is None and record_format != "raw":
        quality = DEFAULT_QUALITY
    settings = PackSettings(record_format, short_side, quality, _shard_bytes(shard_size))
    torch.set_num_threads(1)  # the workers already use every core, each on an image of its own
    with advice_when_interrupted("run the same command again to go on"), open_progress() as advance:
        packed = pack_folder(
            ensure_demo() if source == "demo" else source,
            destination,
            settings,
            workers=workers,
            skip_bad_images=on_bad_image == "skip",
            overwrite=overwrite,
            report=lambda split, done, total: advance(f"packing {split}", done, total),
            note=lambda text: print(text, file=sys.stderr),
        )
    _print_packed(packed, printable(destination))


def _shard_bytes(mib: float) -> int:
    if not 0 < mib < 1 << 30:
        raise UsageError(f"--shard-size must be above 0 MiB and finite, got {mib}.")
    return max(1, int(mib * (1 << 20)))


def _print_packed(packed: Packed, shown: str) -> None:
    from shufflenet_fn.data.folder import counted

    if packed.was_complete:
        print(f"{shown} is packed already, as asked for")
    elif packed.images_resumed:
        print(f"went on after {packed.images_resumed} images of an interrupted run")
    for split, files in packed.index.splits.items():
        size = size_text(sum(shard.bytes for shard in files.shards))
        kept = f", {files.kept} of them kept byte for byte" if files.kept else ""
        shards = counted(len(files.shards), "shard")
        print(f"{split}: {files.entries.images} images in {shards}, {size}{kept}")
        if files.left_out:
            print(f"{split}: left out {len(files.left_out)} bad images; `data info` lists them")
    print(f"train on it with --data {shown}")


def verify(
    folder: Annotated[Path, typer.Argument(help="Folder that `data pack` wrote.", show_default=False)],
    workers: Workers,
    as_json: AsJson = False,
) -> None:
    """Read all of the packed data and report every byte that differs from what was packed.

    Exit codes: 0 undamaged, 1 damaged, 2 wrong usage.
    """
    from shufflenet_fn.data.packed.verify import verify as verify_folder
    from shufflenet_fn.data.paths import printable
    from shufflenet_fn.io import to_json

    with open_progress() as advance:
        result = verify_folder(
            folder, workers=workers, report=lambda done, total: advance("verifying", done, total)
        )
    if as_json:
        damage = [damage._asdict() for damage in result.damage]
        print(to_json({"ok": not damage, **result._asdict(), "damage": damage}))
    else:
        _print_verified(result, printable(folder))
    if result.damage:
        raise typer.Exit(1)


def _print_verified(result: Verified, folder: str) -> None:
    from shufflenet_fn.data.folder import counted

    for damage in result.damage[:SHOWN_DAMAGE]:
        record = "" if damage.record is None else f" record {damage.record} ({damage.original})"
        print(f"{damage.file}{record}: {damage.reason}")
    if len(result.damage) > SHOWN_DAMAGE:
        print(f"and {len(result.damage) - SHOWN_DAMAGE} more; --json lists all")
    checked = f"{result.images} images, {result.files} files, {size_text(result.bytes)}"
    strays = sum(damage.stray for damage in result.damage)
    if not result.damage:
        print(f"{folder} is as it was packed: {checked}")
    elif strays == len(result.damage):
        print(
            f"{folder} is as it was packed ({checked}), but for what else lies there: delete "
            f"{counted(strays, 'file')}, named above."
        )
    else:
        files = len({damage.file for damage in result.damage if not damage.stray})
        print(
            f"{folder} is damaged: {files} of {result.files} files ({checked}). Copy them again from a good "
            "copy, or pack again with --overwrite."
        )

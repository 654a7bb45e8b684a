"""``shufflenet-fn embed``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from shufflenet_fn.model.config import FEATURES
from shufflenet_fn_cli.console import open_progress
from shufflenet_fn_cli.images import BatchSize, OnBadImage, Sources, Workers, report, standard_input
from shufflenet_fn_cli.options import Arch, Device, ModelName, Split, choice, importing


def embed(
    model: ModelName,
    sources: Sources,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file to write: .npz or .parquet.", show_default=False)
    ],
    at: Annotated[
        str, choice("--at", "The layer; pooled is the input of the classifier.", *FEATURES)
    ] = "pooled",
    device: Device = "auto",
    batch_size: BatchSize = 64,
    workers: Workers = None,
    on_bad_image: OnBadImage = "skip",
    split: Split = "val",
    arch: Arch = None,
) -> None:
    """Write the feature vectors of images, with their paths and the names of their folders as classes."""
    with importing():
        from shufflenet_fn.data.bad_images import BadImages
        from shufflenet_fn.data.paths import printable
        from shufflenet_fn.use.embed import check_embeddings_file, write_embeddings
        from shufflenet_fn.use.embed import embed as features_of
        from shufflenet_fn.use.model import open_model
        from shufflenet_fn.use.sources import open_sources

    check_embeddings_file(output)
    opened = open_model(model, arch=arch)
    for note in opened.notes:
        print(note, file=sys.stderr)
    images = open_sources(sources, None, split=split, lines=standard_input())
    bad = BadImages(images, None) if on_bad_image == "skip" else None
    start = time.perf_counter()
    with open_progress() as advance:
        found = features_of(
            opened,
            images,
            at=at,
            device=device,
            batch_size=batch_size,
            workers=workers,
            bad_images=bad,
            advance=lambda done: advance("embedding", done + len(bad.met if bad else ()), len(images)),
        )
    report(len(found.paths), start, bad)
    write_embeddings(found, output)
    shape = ", ".join(map(str, found.features.shape))
    print(f"wrote {printable(output)}: {at} ({shape}), {len(found.classes)} classes")

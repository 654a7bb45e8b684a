"""``shufflenet-fn predict``."""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from shufflenet_fn_backends.names import ENGINE_NAMES
from shufflenet_fn_cli.console import advice_when_interrupted, open_progress
from shufflenet_fn_cli.images import BatchSize, OnBadImage, Sources, Workers, report, standard_input
from shufflenet_fn_cli.options import Arch, Device, Names, Split, choice, importing

FORMATS = ("table", "csv", "jsonl")


def predict(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A run, a checkpoint, a weights file, a name such as torchvision:IMAGENET1K_V1, or an "
            "exported file.",
            show_default=False,
        ),
    ],
    sources: Sources,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Classes per image.")] = 1,
    format: Annotated[
        str | None, choice("--format", "Default: by the name of -o, or table.", *FORMATS)
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write rows to this file.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the file of -o: leave out images that it has.")
    ] = False,
    engine: Annotated[str, choice("--engine", "What computes.", *ENGINE_NAMES)] = "auto",
    device: Device = "auto",
    batch_size: BatchSize = 64,
    workers: Workers = None,
    on_bad_image: OnBadImage = "skip",
    split: Split = "val",
    arch: Arch = None,
    names: Names = None,
) -> None:
    """Predict the classes of images. Folders named like classes give the accuracy as well."""
    with importing():
        import numpy as np

        from shufflenet_fn.data.bad_images import BadImages
        from shufflenet_fn.data.paths import printable
        from shufflenet_fn.use.predict import Predictor
        from shufflenet_fn.use.rows import Rows
        from shufflenet_fn.use.sources import open_sources

    kind = format or (output.suffix[1:] if output and output.suffix[1:] in FORMATS else "table")
    rows = Rows(output, kind, top_k, resume=resume)
    predictor = Predictor.open(model, engine=engine, device=device, arch=arch, names=names)
    for note in predictor.notes:
        print(note, file=sys.stderr)
    images = open_sources(sources, predictor.classes, split=split, lines=standard_input())
    predicted = partial(predictor.predict_dataset, top=top_k, batch_size=batch_size, workers=workers)
    if rows.done:
        names_of = [images.name(index) for index in range(len(images))]
        sample = images.where(np.array([name in rows.sample for name in names_of], bool))
        for batch in predicted(sample, bad_images=BadImages(sample, None)):
            rows.check(batch)
        images = images.where(np.array([name not in rows.done for name in names_of], bool))
        if not len(images):
            print(f"nothing to do: {printable(output or '')} has all {len(names_of)} images", file=sys.stderr)
            return
    bad = BadImages(images, None) if on_bad_image == "skip" else None
    start, count, right, judged = time.perf_counter(), 0, 0, 0
    again = "go on with the same command and --resume" if rows.resumable else "the rows so far are written"
    with advice_when_interrupted(again), rows, open_progress() as advance:
        for batch in predicted(images, bad_images=bad):
            rows.write(batch)
            count += len(batch)
            judged += sum(each.correct is not None for each in batch)
            right += sum(each.correct is True for each in batch)
            advance("predicting", count + len(bad.met if bad else ()), len(images))
    accuracy = [f"Acc@1 {100 * right / judged:.3f} over {judged}"] if judged else []
    report(count, start, bad, [*accuracy, *([f"{len(rows.done)} were there already"] if rows.done else [])])

"""``shufflenet-fn predict`` and ``shufflenet-fn embed``, which go over images."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shufflenet_fn.model.config import FEATURES
from shufflenet_fn_backends.names import ENGINE_NAMES
from shufflenet_fn_backends.support.errors import UserError
from shufflenet_fn_cli.console import advice_when_interrupted, open_progress
from shufflenet_fn_cli.options import Arch, Device, ModelName, Names, Split, choice, importing

if TYPE_CHECKING:
    from shufflenet_fn.data.bad_images import BadImages

FORMATS = ("table", "csv", "jsonl")
Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        help="Image files, folders, patterns, packed data, @FILE with a path on each line, or - for "
        "standard input.",
        show_default=False,
    ),
]
BatchSize = Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Images at a time.")]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", "-j", min=0, help="Threads that read and, on a CPU, compute. Default: the cores."
    ),
]
OnBadImage = Annotated[
    str, choice("--on-bad-image", "Count images that cannot be read, or stop at one.", "skip", "stop")
]
_SHOWN = 5


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
    opened = open_model(model, arch=arch, headless=True)
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


def standard_input() -> Iterable[str]:
    """Return the lines of standard input; a closed one has none. Bytes that are not UTF-8 are kept."""
    if sys.stdin is None:
        return ()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    return sys.stdin


def report(count: int, start: float, bad: BadImages | None, more: Sequence[str] = ()) -> None:
    """Print how many images were read since ``start``, how fast, ``more``, and which could not be read.

    Raises:
        UserError: none could be read, and there is nothing ``more``.
    """
    met = sorted(bad.met, key=lambda sample: sample.index) if bad else []
    shown = "; ".join(f"{sample.name} ({sample.reason})" for sample in met[:_SHOWN])
    rest = f"; and {len(met) - _SHOWN} more" if len(met) > _SHOWN else ""
    if not count and not more:
        raise UserError(f"none of the {len(met)} images can be read: {shown}{rest}.")
    rate = count / (time.perf_counter() - start)
    print("; ".join([f"{count} images, {rate:.0f} images/s", *more]), file=sys.stderr)
    if met:
        print(f"{len(met)} unreadable: {shown}{rest}", file=sys.stderr)

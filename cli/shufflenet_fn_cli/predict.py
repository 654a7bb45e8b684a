"""``shufflenet-fn predict``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from shufflenet_fn_backends.support.errors import UsageError
from shufflenet_fn_cli.data_progress import open_progress
from shufflenet_fn_cli.importing import importing
from shufflenet_fn_cli.options import Arch, Names

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
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="Image files, folders, patterns, packed data, @FILE with a path on each line, or - for "
            "standard input.",
            show_default=False,
        ),
    ],
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Classes per image.")] = 1,
    format: Annotated[
        str, typer.Option("--format", help="table, csv or jsonl. Default: by the name of -o, or table.")
    ] = "",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write rows to this file.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the file of -o: leave out images that it has.")
    ] = False,
    engine: Annotated[str, typer.Option("--engine", help="auto, torch, onnxruntime or openvino.")] = "auto",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or npu.")] = "auto",
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Images at a time.")] = 64,
    workers: Annotated[
        int | None, typer.Option("--workers", "-j", min=0, help="Loader threads. Default: the cores.")
    ] = None,
    on_bad_image: Annotated[
        str, typer.Option("--on-bad-image", help="skip an unreadable image and count it, or stop.")
    ] = "skip",
    split: Annotated[str, typer.Option("--split", help="Of packed data: val or train.")] = "val",
    arch: Arch = None,
    names: Names = None,
) -> None:
    """Predict the classes of images. Folders named like classes give the accuracy as well."""
    with importing():
        from shufflenet_fn.data.bad_images import BadImages
        from shufflenet_fn.data.bad_limit import parse_bad_limit
        from shufflenet_fn.data.paths import printable
        from shufflenet_fn.use.predict import Predictor
        from shufflenet_fn.use.rows import Rows
        from shufflenet_fn.use.sources import open_sources

    kind = format or (output.suffix[1:] if output and output.suffix[1:] in FORMATS else "table")
    if kind not in FORMATS:
        raise UsageError(f"--format {kind!r} is not valid. Choose one of: {', '.join(FORMATS)}.")
    if on_bad_image not in ("skip", "stop"):
        raise UsageError(f"--on-bad-image {on_bad_image!r} is not valid. Choose one of: skip, stop.")
    rows = Rows(output, kind, top_k, resume=resume)
    predictor = Predictor.open(model, engine=engine, device=device, arch=arch, names=names)
    for note in predictor.notes:
        print(note, file=sys.stderr)
    images = open_sources(sources, predictor.classes, split=split, lines=sys.stdin, done=rows.done)
    if not len(images):
        print(f"nothing to do: {printable(output or '')} has all {len(rows.done)} images", file=sys.stderr)
        return
    bad = None
    if on_bad_image == "skip":
        bad = BadImages(images, parse_bad_limit(str(len(images))))
    start, count, right, judged = time.perf_counter(), 0, 0, 0
    with rows, open_progress() as advance:
        for batch in predictor.predict_dataset(
            images, top=top_k, batch_size=batch_size, workers=workers, bad_images=bad
        ):
            rows.write(batch)
            count += len(batch)
            judged += sum(each.correct is not None for each in batch)
            right += sum(each.correct is True for each in batch)
            advance("predicting", count + len(bad.met if bad else ()), len(images))
    seconds = time.perf_counter() - start
    met = bad.met if bad else ()
    text = f"{count} images, {count / seconds:.0f} images/s"
    if judged:
        text += f", Acc@1 {100 * right / judged:.3f} over {judged}"
    if rows.done:
        text += f"; {len(rows.done)} were there already"
    if met:
        shown = "; ".join(f"{sample.name} ({sample.reason})" for sample in met[:5])
        more = f"; and {len(met) - 5} more" if len(met) > 5 else ""
        text += f"\n{len(met)} unreadable: {shown}{more}"
    print(text, file=sys.stderr)

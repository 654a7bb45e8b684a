"""``shufflenet-fn export``, ``shufflenet-fn export verify`` and ``shufflenet-fn convert``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from shufflenet_fn_backends.support.errors import UsageError
from shufflenet_fn_cli.bench import AsJson
from shufflenet_fn_cli.options import Arch, ModelName, Names, choice, importing


class _ExportGroup(TyperGroup):
    """``export MODEL …`` is ``export model MODEL …``, so that the common case is short."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "-h", "--help"):
            args = ["model", *args]
        return super().parse_args(ctx, args)


export_app = typer.Typer(
    name="export",
    cls=_ExportGroup,
    help="Write a trained model to a file for deployment: `shufflenet-fn export MODEL -o FILE`.",
    no_args_is_help=True,
)


@export_app.command("model")
def export(
    model: ModelName,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The file to write: .onnx, .pt2 or .om.", show_default=False),
    ],
    format: Annotated[
        str,
        choice(
            "--format",
            "onnx is of opset 13, torch is of torch.export, om is for Ascend (by atc).",
            *("onnx", "torch", "om"),
        ),
    ] = "onnx",
    input_kind: Annotated[
        str | None,
        choice(
            "--input",
            "image: uint8 (N, H, W, 3) RGB of any size, resized, cropped and normalised in the file. "
            "For om: uint8 (N, size, size, 3), cropped by the caller, normalised by AIPP. "
            "tensor: float32 (N, 3, size, size), normalised by the caller. Default: image for onnx and om, "
            "tensor for torch.",
            *("image", "tensor"),
        ),
    ] = None,
    batch: Annotated[
        str, typer.Option("--batch", help="N, a fixed number, or dynamic. om needs a number.")
    ] = "dynamic",
    soc: Annotated[
        str | None,
        typer.Option("--soc", help="The chip that runs an OM, such as Ascend310P3. Default: this machine's."),
    ] = None,
    opset: Annotated[int | None, typer.Option("--opset", help="Of ONNX, for om: 13 (default) or 11.")] = None,
    arch: Arch = None,
    image_size: Annotated[
        int | None, typer.Option("--image-size", min=8, max=4096, help="Side of the centre crop.")
    ] = None,
    eval_resize: Annotated[
        int | None, typer.Option("--eval-resize", min=8, help="Short side before the crop.")
    ] = None,
    names: Names = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Quantise to int8. Needs --data and the package onnxruntime.")
    ] = False,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", help="With --int8: data that calibrates (train/) and measures the accuracy lost (val/)."
        ),
    ] = None,
    calibration: Annotated[
        int | None,
        typer.Option("--calibration", min=1, help="With --int8: number of training images. Default: 128."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            help="With --int8: refuse if more points of Acc@1 may be lost (upper end of the 95 % interval). "
            "Default: 0.2.",
        ),
    ] = None,
    keep_float: Annotated[
        str,
        typer.Option("--keep-float", help="With --int8: layers to leave in float32, such as conv1,stage2.0."),
    ] = "",
) -> None:
    """Write a model with its preprocessing and class names."""
    with importing():
        from shufflenet_fn.data.paths import printable
        from shufflenet_fn.use.export import MOST_BATCH, check_export
        from shufflenet_fn.use.export import export as write
        from shufflenet_fn.use.model import open_model
        from shufflenet_fn.use.om import ais_bench, export_om, plan_om
        from shufflenet_fn.use.quantize import FEW_IMAGES, Drop, Int8

    kind = input_kind or ("tensor" if format == "torch" else "image")
    if batch != "dynamic" and not (batch.isdecimal() and len(batch) < 10):
        raise UsageError(f"--batch {batch!r} is not valid: give a number from 1 to {MOST_BATCH}, or dynamic.")
    size = None if batch == "dynamic" else int(batch)
    if int8 and not data:
        raise UsageError("--int8 needs --data DIR, a folder with train/ and val/, or --data demo.")
    if not int8 and (data is not None or calibration or max_drop is not None or keep_float):
        raise UsageError(
            "--data, --calibration, --max-drop and --keep-float are for --int8 only: add --int8, or leave "
            "them out."
        )
    if max_drop is not None and not 0 <= max_drop <= 100:
        raise UsageError(f"--max-drop {max_drop:g} is not valid: give points of accuracy, from 0 to 100.")
    request = None
    if data:
        parts = tuple(part.strip() for part in keep_float.split(",") if part.strip())
        numbers: dict[str, Any] = {"calibration": calibration, "max_drop": max_drop}
        given = {name: value for name, value in numbers.items() if value is not None}
        request = Int8(data, keep_float=parts, **given)
    check_export(output, format=format, input_kind=kind, batch=size, int8=int8)
    plan = None
    if format == "om":
        plan = plan_om(output, input_kind=kind, batch=size, soc=soc, opset=opset)
    elif soc is not None or opset is not None:
        raise UsageError("--soc and --opset are for --format om only.")
    opened = open_model(model, arch=arch, image_size=image_size, resize=eval_resize, names=names)
    for note in opened.notes:
        print(note, file=sys.stderr)
    if opened.classes is None:
        print("warning: the weights name no classes; give --names FILE to include them", file=sys.stderr)
    if plan:
        if plan.atc:
            print(f"converting with {printable(plan.atc)}, which can take minutes", file=sys.stderr)
        done = export_om(opened, plan)
    else:
        done = write(
            opened,
            output,
            format=format,  # type: ignore[arg-type]
            input_kind=kind,  # type: ignore[arg-type]
            batch=size,
            int8=request,
        )
    shape = ", ".join(map(str, done.description["input"]["shape"]))
    classes = opened.config.num_classes
    print(
        f"wrote {printable(done.file)} ({done.file.stat().st_size:,} bytes) and "
        f"{printable(done.description_file)}: "
        f"{opened.arch}, {classes} classes, input {done.description['input']['dtype']} ({shape})"
    )
    if plan:
        print(f"check it on the device: {ais_bench(output, plan.batch)}")
    if quantization := done.description.get("quantization"):
        drop = Drop(**quantization["drop"])
        print(f"int8: {drop}; --max-drop allows {quantization['max_drop']:g}")
        if drop.images < FEW_IMAGES:
            print(
                f"warning: {drop.images:,} images tell little about the accuracy that is lost; validate on "
                f"at least {FEW_IMAGES:,}",
                file=sys.stderr,
            )


@export_app.command()
def verify(
    file: Annotated[Path, typer.Argument(help="An exported file, .onnx or .pt2.", show_default=False)],
    data: Annotated[
        str, typer.Option("--data", help="Image folder, packed data, or 'demo'.", show_default=False)
    ],
    against: Annotated[
        str | None,
        typer.Option("--against", help="The model to compare with. Default: the exported weights."),
    ] = None,
    split: Annotated[str, choice("--split", "Split of the data.", "val", "train")] = "val",
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Compare at most this many images.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare an exported file with its model on real images, from the file to the logits.

    Every installed engine runs it: ONNX Runtime and OpenVINO, or torch for .pt2. Ends with exit code 1 if an
    engine agrees on less than 99.9 % of the images, or for an int8 file if the accuracy may fall by more than
    the --max-drop of its export.
    """
    with importing():
        from shufflenet_fn.io import to_json
        from shufflenet_fn.use.verify_export import verify_export

    found = verify_export(file, data, against=against, split=split, limit=limit)
    if as_json:
        more = [{"drop": each.drop._asdict(), "passed": not each.failure} for each in found]
        print(to_json([each._asdict() | rest for each, rest in zip(found, more, strict=True)]))
    for each in () if as_json else found:
        print(
            f"{each.engine}: {100 * each.agreement:.2f} % same top-1, logits differ by at most "
            f"{each.largest:.1e} (of {each.largest_logit:.3g}), {each.milliseconds:.1f} ms per image"
        )
        for who, (share, low, high) in ((each.engine, each.accuracy), ("model", each.model_accuracy)):
            print(f"  Acc@1 of {who}: {share:.3f} (95 % interval {low:.2f} to {high:.2f})")
        if each.max_drop is not None:
            print(f"  int8 is judged by the --max-drop of its export, {each.max_drop:g}: {each.drop}")
        for name in each.differ[:10]:
            print(f"  another top-1: {name}")
    for each in found:
        if each.failure:
            print(f"error: {each.engine}: {each.failure}", file=sys.stderr)
    if any(each.failure for each in found):
        raise typer.Exit(1)


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
        from shufflenet_fn.use.export import convert as write

    opened = write(model, output, arch=arch, names=names)
    for note in opened.notes:
        print(note, file=sys.stderr)
    named = "no class names" if opened.classes is None else "with their names"
    outputs = "no classifier" if opened.classes == () else f"{opened.config.num_classes} classes, {named}"
    print(f"wrote {printable(output)} ({output.stat().st_size:,} bytes): {opened.arch}, {outputs}")

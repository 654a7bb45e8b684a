"""Export of a model to a file for deployment: ONNX, or torch's exported program."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from shufflenet_fn.data.paths import printable
from shufflenet_fn.io import replace_file, to_json
from shufflenet_fn.model.inference import fold, infer
from shufflenet_fn.use.description import describe
from shufflenet_fn.use.model import MEAN, STD, Model
from shufflenet_fn.use.onnx_graph import IMAGES, LOGITS, Graph, add_network, import_onnx
from shufflenet_fn.use.onnx_image import add_transform
from shufflenet_fn.use.quantize import Int8, quantize
from shufflenet_fn_backends.support.errors import UsageError, UserError

Format = Literal["onnx", "torch"]
InputKind = Literal["image", "tensor"]
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}


class Exported(NamedTuple):
    """The file, its description beside it, and the content of that."""

    file: Path
    description_file: Path
    description: dict[str, Any]


def export(
    model: Model,
    out: Path,
    *,
    format: Format,
    input_kind: InputKind,
    batch: int | None,
    int8: Int8 | None = None,
) -> Exported:
    """Write ``model`` to ``out``, and its description to ``out`` with ``.json`` added.

    Batch norms are folded. Each file is written whole or not at all.

    Args:
        model: from ``open_model``.
        out: the file to write; an existing one is replaced.
        format: ``"onnx"`` (opset 13, ONNX IR 8) or ``"torch"`` (``torch.export``).
        input_kind: ``"image"``: uint8 (N, H, W, 3), RGB, any H and W. The graph resizes, crops and
            normalises as evaluation does. ``"tensor"``: float32 (N, 3, size, size), normalised.
        batch: N, or ``None`` for any.
        int8: quantise an ONNX file to int8.

    Raises:
        UsageError: the suffix or the combination is not allowed, or a package is missing.
        UserError: the file cannot be written, or int8 costs too much accuracy.
    """
    check_export(out, format=format, input_kind=input_kind, batch=batch)
    if int8 and format != "onnx":
        raise UsageError(f"--int8 needs --format onnx, not {format}.")
    described = describe(model, format=format, input_kind=input_kind, batch=batch)
    if format == "onnx":
        content = onnx_bytes(model, input_kind=input_kind, batch=batch)
        if int8:
            content, described["quantization"] = quantize(model, content, int8)
    else:
        content = _torch(model, described, batch)
    beside = out.with_name(out.name + ".json")
    try:
        replace_file(out, content)
        replace_file(beside, (to_json(described, indent=2) + "\n").encode())
    except OSError as error:
        raise UserError(f"cannot write {printable(out)}: {error.strerror or error}.") from error
    return Exported(out, beside, described)


def check_export(out: Path, *, format: str, input_kind: str, batch: int | None) -> None:
    """Raise ``UsageError`` for a combination that is not allowed, before anything is read."""
    if format not in SUFFIXES:
        raise UsageError(f"--format {format!r} is not valid. Choose one of: {', '.join(SUFFIXES)}.")
    if input_kind not in ("image", "tensor"):
        raise UsageError(f"--input {input_kind!r} is not valid. Choose one of: image, tensor.")
    if format == "torch" and input_kind == "image":
        raise UsageError("--format torch takes --input tensor only. Use --format onnx for images.")
    if batch is not None and batch < 1:
        raise UsageError(f"--batch {batch} is not valid: give a number of at least 1, or dynamic.")
    if out.suffix != SUFFIXES[format]:
        raise UsageError(
            f"{printable(out)} must end in {SUFFIXES[format]} for --format {format}: "
            f"-o {printable(out.with_suffix(SUFFIXES[format]))}."
        )
    if out.is_dir() or not out.parent.is_dir():
        wrong = "is a folder" if out.is_dir() else f"lies in no folder: {out.parent} does not exist"
        raise UsageError(f"{printable(out)} {wrong}. Give -o the path of a file.")


def onnx_bytes(model: Model, *, input_kind: InputKind, batch: int | None) -> bytes:
    """Return the ONNX file of a model. Arguments as ``export``."""
    onnx = import_onnx()
    graph, floats, rows = Graph(onnx), onnx.TensorProto.FLOAT, batch or "N"
    params = fold(model.config, model.variables)
    value = onnx.helper.make_tensor_value_info
    if input_kind == "image":
        source = value("image", onnx.TensorProto.UINT8, [rows, "H", "W", 3])
        images = add_transform(graph, "image", resize=model.resize, size=model.size, mean=MEAN)
        add_network(graph, params, images, [1 / deviation for deviation in STD])
    else:
        source = value(IMAGES, floats, [rows, 3, model.size, model.size])
        add_network(graph, params, IMAGES, [1.0, 1.0, 1.0])
    logits = value(LOGITS, floats, [rows, model.config.num_classes])
    described = describe(model, format="onnx", input_kind=input_kind, batch=batch)
    metadata = {key: text if isinstance(text, str) else to_json(text) for key, text in described.items()}
    content: bytes = graph.model([source], [logits], metadata).SerializeToString()
    return content


class _Folded(torch.nn.Module):
    def __init__(self, model: Model) -> None:
        super().__init__()
        self._config, self._params = model.config, fold(model.config, model.variables)

    def forward(self, images: Tensor) -> Tensor:
        return infer(self._config, self._params, images)


def _torch(model: Model, described: dict[str, Any], batch: int | None) -> bytes:
    example = torch.zeros(batch or 2, 3, model.size, model.size)
    shapes = None if batch else {"images": {0: torch.export.Dim("N", min=1)}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        program = torch.export.export(_Folded(model), (example,), dynamic_shapes=shapes)
        content = io.BytesIO()
        torch.export.save(program, content, extra_files={"description.json": to_json(described)})
    return content.getvalue()

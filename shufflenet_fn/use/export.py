"""A model as a file for others: ONNX, torch's exported program, or weights. For OM see ``om``."""

from __future__ import annotations

import io
import os
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from shufflenet_fn.checkpoint.torchvision import HEAD, to_torchvision
from shufflenet_fn.checkpoint.weights_file import CLASSES
from shufflenet_fn.data.paths import printable
from shufflenet_fn.io import check_output, parse_json, to_json, write_output
from shufflenet_fn.model.inference import fold, infer
from shufflenet_fn.use.model import MEAN, STD, Model, open_model
from shufflenet_fn.use.onnx_graph import IMAGES, LOGITS, Graph, add_network, import_onnx
from shufflenet_fn.use.onnx_image import add_transform
from shufflenet_fn.use.quantize import Int8, quantize
from shufflenet_fn_backends.support.errors import UsageError

Format = Literal["onnx", "torch"]
InputKind = Literal["image", "tensor"]
MOST_BATCH = 65535
_READ = ("input", "preprocessing", "weights", "arch", "classes", "num_classes")
ENDINGS = (".safetensors", ".pth.tar", ".pth", ".pt")
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2", "om": ".om"}


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
    if format not in ("onnx", "torch"):
        raise UsageError(f"export does not write {format}; for an OM call export_om of shufflenet_fn.use.om.")
    check_export(out, format=format, input_kind=input_kind, batch=batch, int8=int8 is not None)
    described = describe(model, format=format, input_kind=input_kind, batch=batch)
    if format == "onnx":
        content = onnx_bytes(model, input_kind=input_kind, batch=batch, metadata=described)
        if int8:
            content, described["quantization"] = quantize(model, content, int8)
    else:
        content = _torch(model, described, batch)
    return write_export(out, {out: content}, described)


def write_export(out: Path, files: Mapping[Path, bytes], described: dict[str, Any]) -> Exported:
    """Write ``files`` and the description of ``out``, each whole or not at all. Raises ``UserError``."""
    beside = out.with_name(out.name + ".json")
    for file, content in {**files, beside: (to_json(described, indent=2) + "\n").encode()}.items():
        write_output(file, content)
    return Exported(out, beside, described)


def check_export(out: Path, *, format: str, input_kind: str, batch: int | None, int8: bool = False) -> None:
    """Raise ``UsageError`` for a combination that is not allowed, before anything is read."""
    if int8 and format != "onnx":
        raise UsageError(f"--int8 needs --format onnx, not {format}.")
    if format == "torch" and input_kind == "image":
        raise UsageError("--format torch takes --input tensor only. Use --format onnx for images.")
    if batch is not None and not 1 <= batch <= MOST_BATCH:
        raise UsageError(f"--batch {batch} is not valid: give a number from 1 to {MOST_BATCH}, or dynamic.")
    if out.suffix != SUFFIXES[format]:
        raise UsageError(
            f"{printable(out)} must end in {SUFFIXES[format]} for --format {format}: "
            f"-o {printable(out.with_suffix(SUFFIXES[format]))}."
        )
    check_output(out)


def onnx_bytes(
    model: Model,
    *,
    input_kind: InputKind,
    batch: int | None,
    metadata: dict[str, Any] | None = None,
    **form: Any,
) -> bytes:
    """Return the ONNX file of a model. Arguments as ``export``; ``metadata`` is from ``describe``.

    ``form``: fields of ``Graph``.
    """
    onnx = import_onnx()
    graph, floats, rows = Graph(onnx, **form), onnx.TensorProto.FLOAT, batch or "N"
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
    texts = {key: item if isinstance(item, str) else to_json(item) for key, item in (metadata or {}).items()}
    content: bytes = graph.model([source], [logits], texts).SerializeToString()
    return content


def describe(model: Model, *, format: str, input_kind: str, batch: int | None) -> dict[str, Any]:
    """Return what a user of the file needs to know, as JSON values."""
    sides = ("H", "W", 3) if input_kind == "image" else (3, model.size, model.size)
    return {
        "format": format,
        "arch": model.arch,
        "classes": None if model.classes is None else list(model.classes),
        "num_classes": model.config.num_classes,
        "input": {
            "kind": input_kind,
            "dtype": "uint8" if input_kind == "image" else "float32",
            "shape": [batch or "N", *sides],
            "channels": "RGB",
        },
        "preprocessing": {
            "in_the_graph": input_kind == "image",
            "resize_short_side": model.resize,
            "interpolation": "bilinear, antialiased",
            "center_crop": model.size,
            "mean": list(MEAN),
            "std": list(STD),
        },
        "weights": {"path": printable(model.source), "sha256": model.sha256},
        "versions": {"shufflenet-fn": version("shufflenet-fn"), "torch": torch.__version__},
    }


def read_description(out: Path) -> dict[str, Any]:
    """Return the description beside an exported file. Raises ``UsageError`` if there is none."""
    file = out.with_name(out.name + ".json")
    try:
        if not out.is_file():
            raise UsageError(f"no exported file at {printable(out)}.")
        described = parse_json(file.read_bytes())
        quantization = described.get("quantization")
        _ = described["input"]["kind"], described["input"]["shape"][0]
        _ = described["preprocessing"]["center_crop"], described["preprocessing"]["resize_short_side"]
        if len(described["classes"] or range(described["num_classes"])) != described["num_classes"]:
            raise ValueError("classes and num_classes differ")
        return {"quantization": quantization, **{key: described[key] for key in _READ}}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{printable(file)} does not describe an export ({error}). It is written beside the file by "
            "`shufflenet-fn export`; keep the two together."
        ) from error


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


def convert(
    name: str | os.PathLike[str], out: Path, *, arch: str | None = None, names: Path | None = None
) -> Model:
    """Write the weights of a model to ``out``, whole or not at all, and return the model.

    Class names are written too, and ``read_weights`` reads them back.

    Args:
        name: the model, with ``arch`` and ``names`` as for ``open_model``.
        out: ``.safetensors``, ``.pth`` and ``.pt`` hold torchvision's ``state_dict``, ``.pth.tar`` what the
            original saves. An existing file is replaced.

    Raises:
        UsageError: the ending is another, the folder does not exist, or the model cannot be opened.
        UserError: the file cannot be written.
    """
    ending = next((ending for ending in ENDINGS if out.name.endswith(ending)), None)
    if ending is None:
        raise UsageError(
            f"{printable(out)} must end in .safetensors, .pth or .pt (torchvision's state_dict), or .pth.tar "
            "(the original's checkpoint). `shufflenet-fn export` writes .onnx and .pt2."
        )
    check_output(out)
    model = open_model(name, arch=arch, names=names, headless=True)
    classes = list(model.classes or ())
    tensors = to_torchvision(model.variables, model.config)
    if model.classes == ():
        tensors = {key: value for key, value in tensors.items() if key not in HEAD}
    if ending == ".safetensors":
        about = {"format": "pt", "arch": model.arch}
        about |= {CLASSES: to_json(classes)} if classes else {}
        write_output(out, safetensors.torch.save(tensors, metadata=about))
        return model
    state_dict = OrderedDict(tensors)
    content = _original(model.arch, tensors, classes) if ending == ".pth.tar" else state_dict
    if classes:
        # An attribute, as the `_metadata` of torch, so that `load_state_dict(…, strict=True)` takes the file.
        vars(state_dict)[CLASSES] = classes
    holder = io.BytesIO()
    torch.save(content, holder)
    write_output(out, holder.getvalue())
    return model


def _original(arch: str, tensors: dict[str, Tensor], classes: list[str]) -> dict[str, Any]:
    """What the original saves after training on several devices, with an optimizer that has made no step."""
    parameters = [torch.nn.Parameter(t) for key, t in tensors.items() if key.endswith((".weight", ".bias"))]
    return {
        "epoch": 0,
        "arch": arch,
        "state_dict": OrderedDict((f"module.{key}", value) for key, value in tensors.items()),
        "best_acc1": torch.tensor(0.0),
        "optimizer": torch.optim.SGD(parameters, lr=0.1).state_dict(),
        **({CLASSES: classes} if classes else {}),
    }

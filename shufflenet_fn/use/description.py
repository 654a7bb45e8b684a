"""The description of an exported file: what its user needs to know, as JSON beside it and inside it."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from shufflenet_fn.data.paths import printable
from shufflenet_fn.io import parse_json
from shufflenet_fn.use.model import MEAN, STD, Model
from shufflenet_fn_backends.support.errors import UsageError

_READ = ("input", "preprocessing", "weights", "arch", "classes", "num_classes")


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

"""Compare an exported file with its model, on real images and from the file's bytes to the logits."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from shufflenet_fn.data.decode import open_image
from shufflenet_fn.data.device_ops import normalizer
from shufflenet_fn.data.paths import printable
from shufflenet_fn.data.transforms import EvalTransform
from shufflenet_fn.model.inference import make_predictor
from shufflenet_fn.use.engines import ONNX_ENGINES, Engine, in_batches, open_engine, open_program
from shufflenet_fn.use.export import read_description
from shufflenet_fn.use.model import Model, open_labelled, open_model
from shufflenet_fn.use.om import ais_bench
from shufflenet_fn.use.quantize import Drop, Z, paired_drop
from shufflenet_fn_backends.registry import select_backend
from shufflenet_fn_backends.runtimes.cpu import usable_cores
from shufflenet_fn_backends.support.errors import UsageError

MIN_AGREEMENT: Final = 0.999
"""Below this share of equal top-1 predictions, an export is not the same model."""


class Comparison(NamedTuple):
    """An engine against the model.

    ``largest``: the largest difference of a logit; ``largest_logit``: the largest absolute logit.
    ``differ``: names of images with another top-1 prediction. ``accuracy`` and ``model_accuracy``:
    (value, low, high) in percent. ``drop``: between the two. ``max_drop``: the most that an int8 file may
    lose, ``None`` for others. ``milliseconds``: median time per image, without decoding.
    """

    engine: str
    largest: float
    largest_logit: float
    agreement: float
    differ: list[str]
    accuracy: tuple[float, float, float]
    model_accuracy: tuple[float, float, float]
    drop: Drop
    max_drop: float | None
    milliseconds: float

    @property
    def failure(self) -> str:
        """Return why this is not the same model; empty if it is."""
        if self.max_drop is not None:
            return self.drop.refusal(self.max_drop)
        least = 100 * MIN_AGREEMENT
        return "" if self.agreement >= MIN_AGREEMENT else f"less than {least:.1f} % agreement"


def verify_export(
    out: Path, data: str, *, against: str | None, split: str = "val", limit: int | None = None
) -> list[Comparison]:
    """Return a comparison for each installed engine that runs ``out``.

    The model predicts as ``evaluate`` does on a CPU in float32. For an export that takes images, the engine
    gets each whole decoded image.

    Args:
        out: a file from ``export``, with its ``.json`` beside it.
        data: an image folder, packed data, or ``"demo"``.
        against: the run, checkpoint, weights or name to compare with; by default those that were exported.
        split: the split of the data.
        limit: compare no more than this many images, evenly spaced.

    Raises:
        UsageError, UserError: with the one thing that is wrong.
    """
    described = read_description(out)
    if out.suffix == ".om":
        raise UsageError(
            f"{printable(out)} runs on an Ascend device only: "
            f"{ais_bench(out, described['input']['shape'][0])}. "
            f"Here verify the ONNX file it is made from: shufflenet-fn export verify "
            f"{printable(out.with_suffix('.onnx'))} --data {data}"
        )
    model = _model_of(out, described, against)
    dataset = open_labelled(model, data, split)
    indices = range(len(dataset))
    if limit is not None and limit < len(dataset):
        indices = range(0, len(dataset), math.ceil(len(dataset) / limit))
    engines = _engines(out, described)
    torch.set_num_threads(usable_cores())
    predict = make_predictor(model.config, model.variables, backend=select_backend("auto", "cpu").backend)
    transform, normalised = EvalTransform(model.resize, model.size), normalizer()
    takes_images = described["input"]["kind"] == "image"
    logits: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in ("model", *engines)}
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for index in indices:
        encoded, name = dataset.read(index), dataset.name(index)
        pixels = transform(open_image(encoded, name=name))
        images = normalised(torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0))
        logits["model"].append(predict(images)[0].numpy())
        x = open_image(encoded, name=name).decode(1)[None] if takes_images else images.numpy()
        for name, engine in engines.items():
            start = time.perf_counter()
            logits[name].append(engine(x)[0].copy())
            seconds[name].append(time.perf_counter() - start)
    wanted, names = np.stack(logits["model"]), [dataset.name(index) for index in indices]
    labels, expected = dataset.labels[list(indices)], wanted.argmax(1)
    found = []
    for engine_name in engines:
        ours = np.stack(logits[engine_name])
        top1 = ours.argmax(1)
        differ = [names[i] for i in np.flatnonzero(top1 != expected)]
        found.append(
            Comparison(
                engine=engine_name,
                largest=float(np.abs(ours - wanted).max()),
                largest_logit=float(np.abs(wanted).max()),
                agreement=1 - len(differ) / len(names),
                differ=differ,
                accuracy=wilson(int((top1 == labels).sum()), len(labels)),
                model_accuracy=wilson(int((expected == labels).sum()), len(labels)),
                drop=paired_drop(top1 == labels, expected == labels),
                max_drop=(described["quantization"] or {}).get("max_drop"),
                milliseconds=1000 * float(np.median(seconds[engine_name])),
            )
        )
    return found


def _engines(out: Path, described: dict[str, Any]) -> dict[str, Engine]:
    """Return the installed engines that run ``out``, by name."""
    found: dict[str, Engine]
    if out.suffix == ".pt2":
        found = {"torch": open_program(out)}
    else:
        names = [name for name in ONNX_ENGINES if find_spec(name)] or ONNX_ENGINES[:1]
        content, threads = out.read_bytes(), usable_cores()
        found = {name: open_engine(name, content, threads=threads) for name in names}
    rows = described["input"]["shape"][0]
    return {name: in_batches(engine, rows) for name, engine in found.items()}


def _model_of(out: Path, described: dict[str, Any], against: str | None) -> Model:
    path = against or described["weights"]["path"]
    preprocessing = described["preprocessing"]
    model = open_model(
        path,
        arch=None if Path(path).is_dir() else described["arch"],
        image_size=preprocessing["center_crop"],
        resize=preprocessing["resize_short_side"],
    )
    if against is None and model.sha256 != described["weights"]["sha256"]:
        raise UsageError(
            f"the weights at {printable(path)} are not those that were exported to {printable(out)}. Export "
            "again, or name the model to compare with: --against MODEL."
        )
    width, classes = described["num_classes"], described["classes"]
    if model.config.num_classes != width:
        raise UsageError(
            f"{printable(path)} has {model.config.num_classes} classes, but {printable(out)} has {width}. "
            "Name the model that was exported: --against MODEL."
        )
    return replace(model, classes=tuple(classes)) if classes and model.classes is None else model


def wilson(hits: int, count: int) -> tuple[float, float, float]:
    """Return a share in percent with its 95 % interval (Wilson, 1927)."""
    share, z2 = hits / count, Z * Z
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z / (1 + z2 / count) * math.sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return 100 * share, max(0.0, 100 * (centre - half)), min(100.0, 100 * (centre + half))

"""Static quantisation of an exported ONNX file to int8, which is refused if it costs too much accuracy.

ONNX Runtime's quantiser writes pairs of QuantizeLinear and DequantizeLinear: activations are uint8, weights
int8 with a scale for each output channel. Weights use 7 bits, because processors with AVX2 but without VNNI
add two products of uint8 and int8 in 16 bits: with 8 bits such sums saturate, and the measured drop of
accuracy would not hold there. Before, channels between convolutions are scaled to similar ranges, which the
network's function does not depend on and which makes up for the eighth bit.
"""

from __future__ import annotations

import hashlib
import importlib
import math
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shufflenet_fn.data.dataset import Dataset
from shufflenet_fn.data.decode import open_image
from shufflenet_fn.data.device_ops import normalizer
from shufflenet_fn.data.loader import eval_loader
from shufflenet_fn.data.native.reader import choose_image_reader
from shufflenet_fn.data.paths import printable
from shufflenet_fn.data.transforms import EvalTransform
from shufflenet_fn.io import to_json
from shufflenet_fn.run.training import loader_threads
from shufflenet_fn.use.engines import open_engine, required
from shufflenet_fn.use.model import MEAN, Model, open_labelled
from shufflenet_fn.use.onnx_graph import IMAGES, Array, import_onnx
from shufflenet_fn_backends.runtimes.cpu import usable_cores
from shufflenet_fn_backends.support.errors import UsageError, UserError

FEW_IMAGES = 2000
"""With fewer validation images the drop of accuracy is hardly known."""

Z = 1.96
"""Standard deviations of a 95 % interval."""
_BATCH, _NAMED, _SMALLEST, _TINY = 32, 5, 1e-3, 1e-30


Correct = npt.NDArray[np.bool_]
"""For each image, whether the prediction is right."""


class Int8(NamedTuple):
    """What to quantise with.

    ``data``: an image folder, packed data, or ``"demo"``; its training split calibrates and its validation
    split judges. ``calibration``: the number of training images, evenly spaced. ``max_drop``: the most points
    of accuracy that may be lost, compared with the upper end of the 95 % interval. ``keep_float``: names of
    layers, or of units or stages, to leave in float32.
    """

    data: str
    calibration: int = 128
    max_drop: float = 0.2
    keep_float: tuple[str, ...] = ()


def quantize(model: Model, content: bytes, wanted: Int8) -> tuple[bytes, dict[str, Any]]:
    """Return an exported ONNX file in int8, and its description.

    Args:
        model: the model that was exported.
        content: the file in float32, for images or tensors. The transform of images stays as it is.
        wanted: with what.

    Raises:
        UsageError: a layer or the data do not fit the model, or a package is missing.
        UserError: accuracy may fall by more than ``max_drop``.
    """
    onnx = import_onnx()
    required("onnxruntime.quantization", "--int8", "'shufflenet-fn[export]'")
    whole = onnx.load_from_string(content)
    network = _network(onnx, whole, model.size)
    for part in wanted.keep_float:
        if not _nodes(network, [part]):
            raise UsageError(
                f"--keep-float {part!r} is no layer. Give layers, units or stages, such as conv1, stage2.0, "
                "stage4.3.branch2.dw, conv5 or fc, with commas between them."
            )
    train, val = (open_labelled(model, wanted.data, split) for split in ("train", "val"))
    prepare = normalizer() if whole.graph.input[0].name == IMAGES else _centred
    images, digest = _calibration(train, model, prepare, wanted.calibration)
    original = network.SerializeToString()
    _equalise(onnx, network, images)
    quantised = _quantised(network, images, wanted.keep_float)
    exact, ours = _correct([original, quantised.SerializeToString()], val, model, prepare)
    drop = paired_drop(ours, exact)
    if refusal := drop.refusal(wanted.max_drop):
        gains = _gains(network, images[0], wanted.keep_float)
        costly = ", ".join(f"{part} {100 * gain:.0f} %" for part, gain in gains[:_NAMED])
        raise UserError(
            f"{refusal}. Nothing was written. Parts that cost most, by the share of the logits' error that "
            f"goes if they stay in float32: {costly or 'none'}. Leave some in float32 (--keep-float NAMES), "
            "validate on more images, or allow more (--max-drop)."
        )
    count = sum(map(len, images))
    described = {
        "format": "QDQ: activations uint8, weights int8 of 7 bits per output channel",
        "calibration": {"method": "minmax", "images": count, "split": "train", "sha256": digest},
        "data": printable(wanted.data),
        "kept_float": list(wanted.keep_float),
        "max_drop": wanted.max_drop,
        "accuracy": {"float32": 100 * float(exact.mean()), "int8": 100 * float(ours.mean())},
        "drop": drop._asdict(),
        "onnxruntime": importlib.import_module("onnxruntime").__version__,
    }
    return _joined(whole, network, quantised, described), described


def _network(onnx: Any, whole: Any, size: int) -> Any:
    """Return the part of ``whole`` that computes logits from the images of the transform, for any batch."""
    network = onnx.load_from_string(whole.SerializeToString())
    graph = network.graph
    transform = 1 + max((i for i, node in enumerate(graph.node) if IMAGES in node.output), default=-1)
    read = {name for node in graph.node[transform:] for name in node.input}
    source = onnx.helper.make_tensor_value_info(IMAGES, onnx.TensorProto.FLOAT, ["N", 3, size, size])
    _replace(graph.input, [source])
    _replace(graph.initializer, [constant for constant in graph.initializer if constant.name in read])
    _replace(graph.node, graph.node[transform:])
    graph.output[0].type.tensor_type.shape.dim[0].dim_param = "N"
    # The quantiser advises to fold and optimise a network without this entry.
    network.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    return network


def _replace(field: Any, values: Sequence[Any]) -> None:
    copies = list(values)
    del field[:]
    field.extend(copies)


def _nodes(network: Any, parts: Sequence[str]) -> list[str]:
    """Return the nodes of layers, units or stages."""
    names = [node.name for node in network.graph.node]
    return [name for name in names if any(f"{name}.".startswith(f"{part}.") for part in parts)]


def _centred(images: Tensor) -> Tensor:
    """Return the network's input in an export for images: its first convolution divides by the deviation."""
    return images.float() - torch.tensor(MEAN).view(3, 1, 1)


def _calibration(
    dataset: Dataset, model: Model, prepare: Callable[[Tensor], Tensor], count: int
) -> tuple[list[Array], str]:
    """Return the network's input for evenly spaced images, in batches, and a hash of their files."""
    transform = EvalTransform(model.resize, model.size)
    digest, count = hashlib.sha256(), min(count, len(dataset))
    pixels = np.empty((count, model.size, model.size, 3), np.uint8)
    for number in range(count):
        index = number * len(dataset) // count
        encoded = dataset.read(index)
        digest.update(encoded.data)
        transform(open_image(encoded, name=dataset.name(index)), out=pixels[number])
    batches = torch.from_numpy(pixels).permute(0, 3, 1, 2).chunk(-(-count // _BATCH))
    return [prepare(batch).contiguous().numpy() for batch in batches], digest.hexdigest()


def _equalise(onnx: Any, network: Any, images: list[Array]) -> None:
    """Scale the channels between convolutions and pointwise ones to similar ranges, in place.

    Each scale is the geometric mean of what suits the activations and what suits the weights that read them
    (after Nagel et al., 2019, "Data-free quantization through weight equalization and bias correction").
    """
    graph, numpy_helper = network.graph, onnx.numpy_helper
    stored = {constant.name: constant for constant in graph.initializer}
    weights = {name: numpy_helper.to_array(constant).copy() for name, constant in stored.items()}
    found = {}
    for node in (node for node in graph.node if node.op_type == "Conv"):
        value, readers = node.output[0], _readers(graph, node.output[0])
        while [reader.op_type for reader in readers] in (["Relu"], ["MaxPool"]):
            value = readers[0].output[0]
            readers = _readers(graph, value)
        if all(reader.op_type == "Conv" for reader in readers):
            pointwise = [w for w in (weights[reader.input[1]] for reader in readers) if w.shape[1] > 1]
            if pointwise:
                found[value] = node, readers, pointwise
    ranges = _ranges(onnx, network, list(found), images)
    for (node, readers, pointwise), largest in zip(found.values(), ranges, strict=True):
        sizes = [abs(w[:, :, 0, 0]) for w in pointwise]
        read = np.max([(w / w.max(1, keepdims=True).clip(_TINY)).max(0) for w in sizes], 0)
        both = (largest > 0) & (read > 0)
        scale = np.ones_like(largest)
        scale[both] = np.sqrt(largest[both] / largest.max() / read[both]).clip(_SMALLEST)
        weights[node.input[1]] /= scale[:, None, None, None]
        weights[node.input[2]] /= scale
        for reader in readers:
            depthwise = weights[reader.input[1]].shape[1] == 1
            weights[reader.input[1]] *= scale.reshape((-1, 1, 1, 1) if depthwise else (1, -1, 1, 1))
    for name, constant in stored.items():
        constant.CopyFrom(numpy_helper.from_array(weights[name], name))


def _readers(graph: Any, value: str) -> list[Any]:
    return [node for node in graph.node if value in node.input]


def _ranges(onnx: Any, network: Any, values: list[str], images: list[Array]) -> list[Array]:
    """Return the largest absolute value of each channel of each feature map."""
    shown = onnx.load_from_string(network.SerializeToString())
    shown.graph.output.extend(onnx.ValueInfoProto(name=value) for value in values)
    session = importlib.import_module("onnxruntime").InferenceSession(
        shown.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found = [[abs(y).max((0, 2, 3)) for y in session.run(values, {IMAGES: batch})] for batch in images]
    return [np.max(maps, 0) for maps in zip(*found, strict=True)]


def _quantised(network: Any, images: list[Array], kept: Sequence[str]) -> Any:
    """Return ``network`` in int8 with parts of it kept in float32."""
    tools: Any = importlib.import_module("onnxruntime.quantization")
    batches = iter([{IMAGES: batch} for batch in images])
    with tempfile.TemporaryDirectory() as folder:
        source, file = Path(folder, "float32.onnx"), Path(folder, "int8.onnx")
        source.write_bytes(network.SerializeToString())
        tools.quantize_static(
            source,
            file,
            SimpleNamespace(get_next=lambda: next(batches, None)),
            quant_format=tools.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=tools.QuantType.QUInt8,
            weight_type=tools.QuantType.QInt8,
            calibrate_method=tools.CalibrationMethod.MinMax,
            nodes_to_exclude=_nodes(network, kept),
        )
        return import_onnx().load(file)


def _correct(
    networks: Sequence[bytes], dataset: Dataset, model: Model, prepare: Callable[[Tensor], Tensor]
) -> list[npt.NDArray[np.bool_]]:
    """Return for each network which images it predicts correctly."""
    engines = [open_engine("onnxruntime", network, threads=usable_cores()) for network in networks]
    right: list[list[npt.NDArray[np.bool_]]] = [[] for _ in engines]
    with eval_loader(
        dataset,
        EvalTransform(model.resize, model.size),
        batch_size=_BATCH,
        threads=loader_threads(None, 1),
        native=choose_image_reader("auto").reader,
    ) as batches:
        for batch in batches:
            x = prepare(batch.images).contiguous().numpy()
            for found, engine in zip(right, engines, strict=True):
                found.append(engine(x).argmax(1) == batch.labels.numpy())
    return [np.concatenate(found) for found in right]


def _gains(network: Any, images: Array, kept: Sequence[str]) -> list[tuple[str, float]]:
    """Return by which share the logits' error falls if a unit is in float32 as well, the largest first."""

    def logits(model: Any) -> Array:
        return open_engine("onnxruntime", model.SerializeToString(), threads=usable_cores())(images)

    def error(*more: str) -> float:
        return float(np.square(logits(_quantised(network, [images], [*kept, *more])) - exact).sum())

    done = _nodes(network, kept)
    layers = (node.name for node in network.graph.node if node.op_type in ("Conv", "Gemm"))
    units = dict.fromkeys(".".join(layer.split(".")[:2]) for layer in layers if layer not in done)
    exact = logits(network)
    whole = max(error(), _TINY)
    gains = [(unit, 1 - error(unit) / whole) for unit in units]
    return sorted((each for each in gains if each[1] > 0), key=lambda each: -each[1])


def _joined(whole: Any, network: Any, quantised: Any, described: dict[str, Any]) -> bytes:
    """Return ``whole`` with ``quantised`` in place of ``network``, which is the part of it that computes."""
    made = {name for node in network.graph.node for name in node.output}
    held = {constant.name for constant in network.graph.initializer}
    before = [node for node in whole.graph.node if node.output[0] not in made]
    _replace(whole.graph.node, [*before, *quantised.graph.node])
    others = [constant for constant in whole.graph.initializer if constant.name not in held]
    _replace(whole.graph.initializer, [*others, *quantised.graph.initializer])
    whole.metadata_props.add(key="quantization", value=to_json(described))
    import_onnx().checker.check_model(whole, full_check=True)
    content: bytes = whole.SerializeToString()
    return content


class Drop(NamedTuple):
    """How many points of accuracy are lost, with the 95 % interval, on ``images`` images."""

    points: float
    low: float
    high: float
    images: int

    def __str__(self) -> str:
        return (
            f"the drop of Acc@1 is {self.points:.2f} points on {self.images:,} images "
            f"(95 % interval {self.low:.2f} to {self.high:.2f})"
        )

    def refusal(self, most: float) -> str:
        """Return why a drop of at most ``most`` points is not certain, and what helps; empty if it is."""
        if self.high <= most:
            return ""
        if self.points >= most:
            return f"{self}, but at most {most:g} is allowed"
        enough = self.images * ((self.high - self.points) / (most - self.points)) ** 2
        return (
            f"{self}, so it may be up to {self.high:.2f}, but at most {most:g} is allowed. If it stays the "
            f"same, about {math.ceil(enough / 100) * 100:,} images make the interval narrow enough"
        )


def paired_drop(correct: Correct, wanted: Correct) -> Drop:
    """Return the drop from ``wanted`` to ``correct``. Its interval is that of Bonett and Price, 2012."""
    count, lost, won = len(wanted), int((wanted & ~correct).sum()), int((correct & ~wanted).sum())
    less, more = (lost + 1) / (count + 2), (won + 1) / (count + 2)
    half = Z * math.sqrt((less + more - (less - more) ** 2) / (count + 2))
    low, high = less - more - half, less - more + half
    return Drop(100 * (lost - won) / count, 100 * low, 100 * high, count)

"""The folded network as an ONNX model. Channels are routed at export, so the graph has no shuffle.

(With ``Graph.gathers`` it has: one Gather for each half.)

The network's own definition (``model.network.body``) runs once over a backend whose feature maps are names
of ONNX values. Split and shuffle only update the order of channels (``routing``), and weights are permuted to
that order, so that each convolution reads channels as they are stored. Convolutions are named as layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, NoReturn

import numpy as np
import numpy.typing as npt
from torch import Tensor

from shufflenet_fn.model.inference import InferenceParams, folded_body
from shufflenet_fn.tree import tree_paths
from shufflenet_fn.use.engines import required
from shufflenet_fn_backends import routing
from shufflenet_fn_backends.primitives import Backend
from shufflenet_fn_backends.routed_map import DEPTH
from shufflenet_fn_backends.routing import Layout

OPSET, IR_VERSION = 13, 8
"""CANN's ATC reads opsets 9 to 18 of ONNX 1.12, which is IR version 8."""

IMAGES, LOGITS = "images", "logits"
"""Names of the network's input and output."""

Array = npt.NDArray[Any]


def import_onnx() -> Any:
    """Return the package ``onnx``. Raises ``UsageError`` if it cannot be imported."""
    return required("onnx", "exporting", "'shufflenet-fn[export]'")


@dataclass
class Graph:
    """Nodes and constants of an ONNX graph under construction. ``layers``: names, by ``id`` of the weight.

    ``gathers``: shuffle with Gather instead of routing, which splits off parts as small as one channel.
    """

    onnx: Any
    opset: int = OPSET
    gathers: bool = False
    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)
    layers: dict[int, str] = field(default_factory=dict)

    def add(self, operator: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """Append a node and return the name of its result."""
        return self.add_many(operator, inputs, [out or self._name(operator)], **attributes)[0]

    def split(self, value: str, sizes: Sequence[int], *, axis: int = 1) -> list[str]:
        """Split ``value`` along an axis, by default its channels."""
        names = [self._name(f"split{i}") for i in range(len(sizes))]
        return self.add_many("Split", (value, self.integers(*sizes)), names, axis=axis)

    def add_many(
        self, operator: str, inputs: Sequence[str], outputs: list[str], **attributes: Any
    ) -> list[str]:
        attributes = {"name": f"n{len(self.nodes)}", **attributes}
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, outputs, **attributes))
        return outputs

    def constant(self, value: Array) -> str:
        """Add a constant and return its name."""
        name = f"c{len(self.constants)}"
        tensor = self.onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
        self.constants.append(tensor)
        return name

    def integers(self, *values: int) -> str:
        """Add an int64 constant of one dimension."""
        return self.constant(np.array(values, np.int64))

    def model(self, inputs: Sequence[Any], outputs: Sequence[Any], metadata: Mapping[str, str]) -> Any:
        """Return the model, checked by onnx with its shapes."""
        helper = self.onnx.helper
        graph = helper.make_graph(self.nodes, "shufflenet_v2", list(inputs), list(outputs), self.constants)
        opset = helper.make_opsetid("", self.opset)
        model = helper.make_model(
            graph, producer_name="shufflenet-fn", opset_imports=[opset], ir_version=IR_VERSION
        )
        helper.set_model_props(model, dict(metadata))
        self.onnx.checker.check_model(model, full_check=True)
        return model

    def _name(self, operator: str) -> str:
        return f"{operator.lower()}_{len(self.nodes)}"


class Map(NamedTuple):
    """A feature map: ``parts`` name values (N, C_i, H, W), in the order of ``layout``."""

    parts: tuple[str, ...]
    layout: Layout


def add_network(graph: Graph, params: InferenceParams, images: str, scale: Sequence[float]) -> None:
    """Append the network from ``images`` (N, 3, H, W) to ``logits`` (N, num_classes).

    Args:
        graph: receives the nodes.
        params: from ``fold`` for backend ``reference``, float32.
        images: the value to read, in channel order RGB.
        scale: a factor for each channel of ``images``, which is folded into the first convolution.
    """
    tree = params.params
    first = tree["conv1"]["weight"] * tree["conv1"]["weight"].new_tensor(scale).view(1, 3, 1, 1)
    tree = {**tree, "conv1": {**tree["conv1"], "weight": first}}
    graph.layers.update({id(leaf): path.removesuffix(".weight") for path, leaf in tree_paths(tree)})
    y = folded_body(tree, _backend(graph), Map((images,), routing.natural(3)))
    pooled = graph.add("Flatten", graph.add("GlobalAveragePool", _joined(graph, y)), axis=1)
    weight = _numpy(tree["fc"]["weight"])[:, list(y.layout.order)]
    operands = (graph.constant(weight), graph.constant(_numpy(tree["fc"]["bias"])))
    graph.add("Gemm", pooled, *operands, out=LOGITS, name="fc", transB=1)


def _backend(graph: Graph) -> Backend[Any]:
    return Backend(
        name="onnx",
        conv2d=_unused,
        conv2d_bias=partial(_conv2d_bias, graph),
        batch_norm_train=_unused,
        batch_norm_eval=_unused,
        max_pool2d=partial(_max_pool2d, graph),
        channel_split=partial(_gathered_halves if graph.gathers else _channel_split, graph),
        channel_shuffle=_channel_shuffle,
        to_tensor=_unused,
        shared=partial(_shared, graph),
    )


def _conv2d_bias(
    graph: Graph, x: Any, weight: Tensor, bias: Tensor, *, stride: int, padding: int, groups: int, relu: bool
) -> Map:
    order = list(x.layout.order)
    if groups == 1:
        kernel, added, layout = _numpy(weight)[:, order], _numpy(bias), routing.natural(len(weight))
    else:  # depthwise: the output is in the order of the input
        kernel, added = _numpy(weight)[order], _numpy(bias)[order]
        layout = routing.join(x.layout)
    operands = (_joined(graph, x), graph.constant(kernel), graph.constant(added))
    side = kernel.shape[2]
    attributes: dict[str, Any] = {"kernel_shape": [side] * 2, "strides": [stride] * 2, "pads": [padding] * 4}
    layer = graph.layers[id(weight)]
    y = graph.add("Conv", *operands, name=layer, group=groups, **attributes)
    return Map((graph.add("Relu", y, name=f"{layer}.relu") if relu else y,), layout)


def _max_pool2d(graph: Graph, x: Map, *, kernel: int, stride: int, padding: int) -> Map:
    attributes: dict[str, Any] = {
        "kernel_shape": [kernel] * 2,
        "strides": [stride] * 2,
        "pads": [padding] * 4,
    }
    return Map(tuple(graph.add("MaxPool", part, **attributes) for part in x.parts), x.layout)


def _channel_split(graph: Graph, x: Map) -> tuple[Map, Map]:
    halves = routing.split(x.layout, depth=DEPTH)
    ranges = sorted(r for half in halves for r in half.ranges)
    pieces: dict[routing.Range, str] = {}
    for part, value in enumerate(x.parts):
        mine = [r for r in ranges if r.part == part]
        names = [value] if len(mine) == 1 else graph.split(value, [r.stop - r.start for r in mine])
        pieces.update(zip(mine, names, strict=True))
    first, second = (Map(tuple(pieces[r] for r in half.ranges), half.layout) for half in halves)
    return first, second


def _gathered_halves(graph: Graph, x: Map) -> tuple[Map, Map]:
    whole, places = _joined(graph, x), routing.inverse(x.layout.order)
    half = len(places) // 2
    first, second = (
        graph.add("Gather", whole, graph.integers(*taken), axis=1) for taken in (places[:half], places[half:])
    )
    return Map((first,), routing.natural(half)), Map((second,), routing.natural(half))


def _channel_shuffle(x1: Map, x2: Map) -> Map:
    return Map(x1.parts + x2.parts, routing.interleave(x1.layout, x2.layout))


def _shared(graph: Graph, x: Map) -> Map:
    return Map((_joined(graph, x),), routing.join(x.layout))


def _joined(graph: Graph, x: Map) -> str:
    return x.parts[0] if len(x.parts) == 1 else graph.add("Concat", *x.parts, axis=1)


def _numpy(x: Tensor) -> Array:
    return x.detach().cpu().float().numpy()


def _unused(*args: Any, **kwargs: Any) -> NoReturn:
    raise NotImplementedError("an exported network is folded")

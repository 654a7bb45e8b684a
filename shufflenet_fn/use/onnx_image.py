"""The evaluation transform as ONNX nodes: from RGB images of any size to the network's input.

The nodes compute the bytes of ``EvalTransform``, whatever a runtime knows of antialiasing: torch's filter for
bytes, first along rows and then along columns, is a product with a matrix of filter weights each time. The
graph computes the matrices from the size of the image. Weights are integers, as torch's are, and integer
products are exact in any order.

Source of the filter: torch, aten/src/ATen/native/cpu/UpSampleKernel.cpp
(``_compute_indices_min_size_weights_aa`` and ``_compute_index_ranges_int16_weights``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from shufflenet_fn.data.geometry import LONGEST
from shufflenet_fn.use.onnx_graph import Graph

_MOST_BITS, _INT16 = 22, 2**15
_ROWS, _COLUMNS = 2, 3


def add_transform(graph: Graph, image: str, *, resize: int, size: int, mean: Sequence[float]) -> str:
    """Append the evaluation transform and return its result, float32 (N, 3, size, size).

    Args:
        graph: receives the nodes.
        image: the value to read, uint8 (N, H, W, 3), RGB.
        resize: length of the short side after resizing.
        size: side of the central crop, at most ``resize``.
        mean: for each channel, in units of 0 to 255. It is subtracted before the network pads with zeros.
    """
    nodes = _Nodes(graph)
    pixels = graph.add("Transpose", image, perm=[0, 3, 1, 2])
    pixels, height, width = nodes.middle(pixels)
    short = nodes.do("Min", height, width)
    for axis, length in ((_COLUMNS, width), (_ROWS, height)):
        resized = nodes.do("Div", nodes.do("Mul", length, resize), short)
        weights, one, first, stop = nodes.filter(length, resized, size)
        pixels = nodes.do("Slice", pixels, first, stop, axis)
        # Both bytes of the weights, because the operator takes bytes.
        high = nodes.do("Floor", nodes.do("Div", weights, 256.0))
        low = nodes.do("Sub", weights, nodes.do("Mul", high, 256.0))
        sums = [nodes.product(pixels, nodes.cast(part, "UINT8"), axis) for part in (high, low)]
        total = nodes.do("Add", nodes.do("Mul", sums[0], nodes.int32(256)), sums[1])
        half = nodes.do("Div", one, nodes.int32(2))
        rounded = nodes.do("Div", nodes.do("Add", total, half), one)
        pixels = nodes.cast(nodes.do("Min", rounded, nodes.int32(255)), "UINT8")
    pixels = graph.add("Cast", pixels, to=graph.onnx.TensorProto.FLOAT)
    return graph.add("Sub", pixels, graph.constant(np.array(mean, np.float32).reshape(1, 3, 1, 1)))


@dataclass(frozen=True)
class _Nodes:
    graph: Graph

    def do(self, operator: str, *inputs: str | int | float) -> str:
        """Append an operator. A number becomes a constant, int64 (1,) or float64 (1,)."""
        names = (x if isinstance(x, str) else self.graph.constant(np.array([x])) for x in inputs)
        return self.graph.add(operator, *names)

    def cast(self, value: str, kind: str) -> str:
        return self.graph.add("Cast", value, to=getattr(self.graph.onnx.TensorProto, kind))

    def middle(self, pixels: str) -> tuple[str, str, str]:
        """Cut an image that is more than LONGEST times as long as wide, as ``geometry.middle``."""
        shape = self.graph.add("Shape", pixels)
        height, width = (self.do("Gather", shape, axis) for axis in (_ROWS, _COLUMNS))
        for axis, length, other in ((_ROWS, height, width), (_COLUMNS, width, height)):
            part = self.do("Min", length, self.do("Mul", other, LONGEST))
            start = self.do("Div", self.do("Sub", length, part), 2)
            stop = self.do("Add", start, part)
            pixels = self.do("Slice", pixels, start, stop, axis)
            height, width = (part, width) if axis == _ROWS else (height, part)
        return pixels, height, width

    def filter(self, length: str, resized: str, size: int) -> tuple[str, str, str, str]:
        """Return the filter of the central ``size`` pixels of an axis.

        The results are: weights (size, stop - start), integers in float64; the int32 sum that stands for 1;
        and the range of source pixels, start and stop, in reach of the crop.
        """
        source = self.cast(length, "DOUBLE")
        scale = self.do("Div", source, self.cast(resized, "DOUBLE"))
        support = self.do("Max", scale, 1.0)
        centre = self.do("Mul", self.do("Add", self.range(resized), 0.5), scale)
        column = self.do("Unsqueeze", centre, 1)
        distance = self.do("Abs", self.do("Sub", self.do("Add", self.range(length), 0.5), column))
        weights = self.do("Relu", self.do("Sub", 1.0, self.do("Div", distance, support)))
        weights = self.do("Div", weights, self.do("ReduceSum", weights, 1))
        # The most bits with which all weights fit in 16.
        largest = self.graph.add("ReduceMax", weights, keepdims=0)
        powers = self.graph.constant(2.0 ** np.arange(1, _MOST_BITS + 1))
        scaled = self.do("Floor", self.do("Add", self.do("Mul", powers, largest), 0.5))
        fits = self.cast(self.do("Less", scaled, float(_INT16)), "DOUBLE")
        bits = self.do("Pow", 2.0, self.do("ReduceSum", fits, 0))
        weights = self.do("Floor", self.do("Add", self.do("Mul", weights, bits), 0.5))
        half = self.do("Mul", self.cast(self.do("Sub", resized, size), "DOUBLE"), 0.5)
        start = self.cast(self.do("Round", half), "INT64")
        end = self.do("Add", start, size)
        weights = self.do("Slice", weights, start, end, 0)
        first, stop = (
            self.cast(self.do(operator, self.do("Mul", self.cast(x, "DOUBLE"), scale), support), "INT64")
            for operator, x in (("Sub", start), ("Add", end))
        )
        first, stop = self.do("Max", first, 0), self.do("Min", self.do("Add", stop, 1), length)
        weights = self.do("Slice", weights, first, stop, 1)
        return weights, self.cast(bits, "INT32"), first, stop

    def product(self, pixels: str, weights: str, axis: int) -> str:
        """Return the int32 sums of bytes times weights, (size, length), along an axis of ``pixels``."""
        if axis == _ROWS:
            return self.do("MatMulInteger", weights, pixels)
        return self.do("MatMulInteger", pixels, self.graph.add("Transpose", weights, perm=[1, 0]))

    def int32(self, value: int) -> str:
        return self.graph.constant(np.array([value], np.int32))

    def range(self, length: str) -> str:
        """Return 0 to ``length``, float64."""
        scalar = self.graph.add("Squeeze", length)
        zero, one = (self.graph.constant(np.array(n)) for n in (0, 1))
        return self.cast(self.graph.add("Range", zero, scalar, one), "DOUBLE")

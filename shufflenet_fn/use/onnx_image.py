"""The evaluation transform as ONNX nodes: from RGB images of any size to the network's input.

The nodes compute the bytes of ``EvalTransform``, whatever a runtime knows of antialiasing: torch's filter for
bytes, first along rows and then along columns, is a product with a matrix of filter weights each time. The
graph computes the matrices from the size of the image. Weights are integers, as torch's are, and integer
products are exact in any order. Most weights of such a matrix are zero, because a pixel depends on few source
pixels. So the result is computed in blocks, each from the source pixels in its reach.

Source of the filter: torch, aten/src/ATen/native/cpu/UpSampleKernel.cpp
(``_compute_indices_min_size_weights_aa`` and ``_compute_index_ranges_int16_weights``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from shufflenet_fn.data.geometry import LONGEST
from shufflenet_fn.use.onnx_graph import IMAGES, Graph

_MOST_BITS, _INT16 = 22, 2**15
_LEAST_BLOCK = 16
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
    shape = graph.add("Shape", image)
    height, width = (nodes.do("Gather", shape, axis) for axis in (1, 2))
    top, height = nodes.middle(height, width)
    left, width = nodes.middle(width, height)
    short = nodes.do("Min", height, width)
    rows, columns = (
        nodes.filter(length, nodes.do("Div", nodes.do("Mul", length, resize), short), size)
        for length in (height, width)
    )
    # Runtimes copy rows of bytes faster than pixels of three.
    pixels = graph.add("Reshape", image, graph.integers(0, 0, -1))
    (first, last), (left_most, right_most) = rows.window(nodes, top), columns.window(nodes, left)
    begin = graph.add("Concat", first, nodes.do("Mul", left_most, 3), axis=0)
    end = graph.add("Concat", last, nodes.do("Mul", right_most, 3), axis=0)
    pixels = graph.add("Slice", pixels, begin, end, graph.integers(1, 2))
    pixels = graph.add("Reshape", pixels, graph.integers(0, 0, -1, 3))
    pixels = graph.add("Transpose", pixels, perm=[0, 3, 1, 2])
    # Not to bytes at the end: OpenVINO would take the subtraction for one of a dequantisation.
    for axis, wanted, kind in ((_COLUMNS, columns, "UINT8"), (_ROWS, rows, "FLOAT")):
        pixels = nodes.cast(nodes.filtered(pixels, wanted, axis), kind)
    means = graph.constant(np.array(mean, np.float32).reshape(1, 3, 1, 1))
    return graph.add("Sub", pixels, means, out=IMAGES)


class _Filter(NamedTuple):
    """The weights of an axis: one matrix for each of ``blocks`` equal blocks of the result.

    ``starts``: the first source pixel of each block, int64 (blocks,). ``reach``: how many source pixels each
    reads. ``weights``: (blocks, pixels of a block, reach), integers in float64. ``one``: the int32 sum that
    stands for 1.
    """

    blocks: int
    starts: str
    reach: str
    weights: str
    one: str

    def window(self, nodes: _Nodes, offset: str) -> tuple[str, str]:
        """Return start and stop of all source pixels that are read, ``offset`` added."""
        first, last = (nodes.do("Gather", self.starts, block) for block in (0, self.blocks - 1))
        return nodes.do("Add", first, offset), nodes.do("Add", nodes.do("Add", last, self.reach), offset)


@dataclass(frozen=True)
class _Nodes:
    graph: Graph

    def do(self, operator: str, *inputs: str | int | float) -> str:
        """Append an operator. A number becomes a constant, int64 (1,) or float64 (1,)."""
        names = (x if isinstance(x, str) else self.graph.constant(np.array([x])) for x in inputs)
        return self.graph.add(operator, *names)

    def cast(self, value: str, kind: str) -> str:
        return self.graph.add("Cast", value, to=getattr(self.graph.onnx.TensorProto, kind))

    def middle(self, length: str, other: str) -> tuple[str, str]:
        """Return start and length of what ``geometry.middle`` keeps of a side, given the other side."""
        part = self.do("Min", length, self.do("Mul", other, LONGEST))
        return self.do("Div", self.do("Sub", length, part), 2), part

    def filter(self, length: str, resized: str, size: int) -> _Filter:
        """Return the filter of the central ``size`` pixels of an axis."""
        blocks = max(n for n in range(1, max(size // _LEAST_BLOCK, 1) + 1) if size % n == 0)
        source = self.cast(length, "DOUBLE")
        scale = self.do("Div", source, self.cast(resized, "DOUBLE"))
        support = self.do("Max", scale, 1.0)
        centres = self.do("Mul", self.do("Add", self.range(resized), 0.5), scale)
        centres = self.do("Unsqueeze", centres, 1)
        # All weights, because the largest decides on the precision of each.
        taps = self.range(self.ceiling(self.do("Mul", support, 2.0)))
        pixels = self.do("Add", self.do("Floor", self.do("Sub", centres, support)), taps)
        inside = self.do("Min", self.do("Max", pixels, 0.0), self.do("Sub", source, 1.0))
        weights = self.tent(pixels, centres, support)
        weights = self.do("Mul", weights, self.cast(self.do("Equal", pixels, inside), "DOUBLE"))
        sums = self.do("ReduceSum", weights, 1)
        largest = self.graph.add("ReduceMax", self.do("Div", weights, sums), keepdims=0)
        # The most bits with which all weights fit in 16.
        powers = self.graph.constant(2.0 ** np.arange(1, _MOST_BITS + 1))
        scaled = self.do("Floor", self.do("Add", self.do("Mul", powers, largest), 0.5))
        fits = self.cast(self.do("Less", scaled, float(_INT16)), "DOUBLE")
        bits = self.do("Pow", 2.0, self.do("ReduceSum", fits, 0))

        half = self.do("Mul", self.cast(self.do("Sub", resized, size), "DOUBLE"), 0.5)
        start = self.cast(self.do("Round", half), "INT64")
        end = self.do("Add", start, size)
        in_blocks = self.graph.integers(blocks, size // blocks, 1)
        centres, sums = (
            self.do("Reshape", self.do("Slice", values, start, end, 0), in_blocks)
            for values in (centres, sums)
        )
        between = self.do("Mul", scale, float(size // blocks - 1))
        reach = self.ceiling(self.do("Add", between, self.do("Mul", support, 2.0)))
        reach = self.do("Min", reach, length)
        starts = self.do("Floor", self.do("Sub", self.do("Slice", centres, 0, 1, 1), support))
        most = self.cast(self.do("Sub", length, reach), "DOUBLE")
        starts = self.do("Min", self.do("Max", starts, 0.0), most)
        weights = self.tent(self.do("Add", starts, self.range(reach)), centres, support)
        weights = self.do("Mul", self.do("Div", weights, sums), bits)
        weights = self.do("Floor", self.do("Add", weights, 0.5))
        starts = self.do("Reshape", self.cast(starts, "INT64"), -1)
        return _Filter(blocks, starts, reach, weights, self.cast(bits, "INT32"))

    def tent(self, pixels: str, centres: str, support: str) -> str:
        """Return the weights of source pixels before they are scaled to a sum of 1."""
        distance = self.do("Abs", self.do("Sub", self.do("Add", pixels, 0.5), centres))
        return self.do("Relu", self.do("Sub", 1.0, self.do("Div", distance, support)))

    def filtered(self, pixels: str, wanted: _Filter, axis: int) -> str:
        """Return ``pixels``, cut to the window of the filter, filtered along an axis, int32."""
        weights = wanted.weights
        if axis == _COLUMNS:
            weights = self.graph.add("Transpose", weights, perm=[0, 2, 1])
        # Both bytes of the weights, because the operator takes bytes.
        high = self.do("Floor", self.do("Div", weights, 256.0))
        low = self.do("Sub", weights, self.do("Mul", high, 256.0))
        starts = self.do("Sub", wanted.starts, self.do("Gather", wanted.starts, 0))
        stops = self.do("Add", starts, wanted.reach)
        parts = [
            self.do("Slice", pixels, start, stop, axis)
            for start, stop in zip(self.each(starts, wanted), self.each(stops, wanted), strict=True)
        ]
        sums = []
        for factors in (high, low):
            matrices = self.each(self.cast(factors, "UINT8"), wanted)
            pairs = zip(matrices, parts, strict=True) if axis == _ROWS else zip(parts, matrices, strict=True)
            products = [self.do("MatMulInteger", *pair) for pair in pairs]
            sums.append(self.graph.add("Concat", *products, axis=axis))
        total = self.do("Add", self.do("Mul", sums[0], self.int32(256)), sums[1])
        half = self.do("Div", wanted.one, self.int32(2))
        rounded = self.do("Div", self.do("Add", total, half), wanted.one)
        return self.do("Min", rounded, self.int32(255))

    def each(self, values: str, wanted: _Filter) -> list[str]:
        """Split ``values`` into those of each block."""
        return self.graph.split(values, [1] * wanted.blocks, axis=0)

    def ceiling(self, length: str) -> str:
        """Return how many pixels an interval of this length may touch, int64."""
        return self.cast(self.do("Add", self.do("Ceil", length), 2.0), "INT64")

    def int32(self, value: int) -> str:
        return self.graph.constant(np.array([value], np.int32))

    def range(self, length: str) -> str:
        """Return 0 to ``length``, float64."""
        scalar = self.graph.add("Squeeze", length)
        zero, one = (self.graph.constant(np.array(n)) for n in (0, 1))
        return self.cast(self.graph.add("Range", zero, scalar, one), "DOUBLE")

"""Backend ``npu``: each primitive on an Ascend NPU. Channels are routed, as in ``routed``.

| primitive | operators (torch) | kernels (CANN, through torch_npu) |
| --- | --- | --- |
| ``conv2d``, ``conv2d_bias`` | ``aten::cat`` of several parts, ``aten::convolution`` | Cat, Convolution |
| backward of these | ``aten::convolution_backward``, ``aten::cat`` of cuts | ConvolutionBackward, Cat |
| ``batch_norm_*`` | ``aten::native_batch_norm``, ``aten::relu_`` | BatchNorm, BatchNormBackward, Relu |
| ``max_pool2d`` | ``aten::max_pool2d`` | MaxPool2dWithMask |
| ``channel_shuffle``, ``channel_split`` | ``aten::split_with_sizes``, a view | none |
| ``to_tensor`` behind a shuffle | ``aten::cat``, ``aten::index_select`` | Cat, IndexSelect (int32) |

Compared with the original's gathers (backend ``gather``), routing moves fewer bytes but launches more
kernels, because a part that is a view is copied before it is concatenated (``benchmarks/launches.py``;
derived from CANN's sources). It has not been measured which is faster on a chip; ``shufflenet-fn bench step
--device npu`` measures it.

The backend uses plain torch operators and does not import torch_npu, so it runs and is tested on any device.
Settings of the whole process (HF32 in convolutions, memory formats, compile mode) are in ``runtimes/npu/``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from shufflenet_fn_backends import routed
from shufflenet_fn_backends.primitives import Backend
from shufflenet_fn_backends.routed_map import Routed

_PERMUTED: Final = routed.BACKEND.permuted
assert _PERMUTED is not None

BACKEND: Final[Backend[Routed]] = replace(routed.BACKEND, name="npu", permuted=replace(_PERMUTED, name="npu"))

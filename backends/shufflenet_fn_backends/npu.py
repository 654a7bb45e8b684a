"""How each primitive runs on an Ascend NPU.

| primitive | operators (torch) | kernels (CANN, through torch_npu) |
| --- | --- | --- |
| ``conv2d``, ``conv2d_bias`` | ``aten::convolution`` | Convolution, ConvolutionBackward |
| ``batch_norm_*`` | ``aten::native_batch_norm``, ``aten::relu_`` | BatchNorm, BatchNormBackward, Relu |
| ``max_pool2d`` | ``aten::max_pool2d`` | MaxPool2dWithIndices or -WithMask |
| ``channel_shuffle``, ``channel_split`` | ``shufflenet_fn::shuffle_split`` | Cat, 2 × IndexSelect (int32) |
| ``channel_shuffle``, then anything else | ``shufflenet_fn::shuffle`` | Cat, IndexSelect (int32) |
| backward of these | ``unshuffle_split``, ``unshuffle`` | Cat, 2 × IndexSelect; 2 × IndexSelect |
| ``to_tensor``, ``shared`` | ``shufflenet_fn::shuffle`` or nothing | as above |

These are plain torch operators, so that the same backend runs, and is tested, on any device; nothing here
imports torch_npu. What is set for a whole process (HF32 in convolutions, memory formats, compile mode) is
the runtime's affair, in ``runtimes/npu/``.
"""

from __future__ import annotations

from shufflenet_fn_backends import gather
from shufflenet_fn_backends.gather import FeatureMap
from shufflenet_fn_backends.primitives import Backend

BACKEND: Backend[FeatureMap] = Backend(
    name="npu",
    conv2d=gather.conv2d,
    conv2d_bias=gather.conv2d_bias,
    batch_norm_train=gather.batch_norm_train,
    batch_norm_eval=gather.batch_norm_eval,
    max_pool2d=gather.max_pool2d,
    channel_split=gather.channel_split,
    channel_shuffle=gather.channel_shuffle,
    to_tensor=gather.to_tensor,
    shared=gather.to_tensor,
)

"""Model of the device kernels of aclnn calls on Atlas A2 and A3: derived from CANN's sources, not measured.

A call launches one to nine kernels: the operator's own, and those that prepare its arguments. The rules hold
for the settings of training: precompiled operators, NCHW formats only. Each rule names its source (CANN
9.1.0; ``ops-nn`` and ``ops-math`` are CANN's repositories of operators). If the sources leave a choice open,
a rule gives the minimum and the maximum in addition to the likely number. An operator without a rule counts
as one kernel of kind ``ASSUMED``.

``C0`` is the block of channels of the format NC1HWC0: 16 for half, 8 for float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import ceil
from typing import Final, NamedTuple

from ascend_emulator.kernel_calls import Call, Operand, parse_call

DERIVED: Final = "derived from the sources of CANN 9.1.0 for Atlas A2, not measured"

TRANSDATA: Final = "TransData"
SLICE: Final = "Slice"
FILL: Final = "Fill"
CAST: Final = "Cast"
ASSUMED: Final = "assumed"
"""Kind of the kernel of an operator without a rule."""

_CONCAT_INPUTS: Final = 32
_BN_V3_CHANNELS: Final = 64


class Kernels(NamedTuple):
    """Kernels of one kind. ``low`` and ``high``: minimum and maximum number that the sources allow."""

    kind: str
    times: int
    nbytes: int
    low: int
    high: int


class Modelled(NamedTuple):
    """Sums of kernels, by kind. ``nbytes``: bytes read plus bytes written."""

    kernels: int
    low: int
    high: int
    nbytes: int
    kinds: Mapping[str, int]
    bytes_by_kind: Mapping[str, int]
    assumed: frozenset[str]

    def share(self, kind: str) -> float:
        """Return the share of ``kind`` in all kernels."""
        return self.kinds.get(kind, 0) / self.kernels if self.kernels else 0.0


def model(signatures: Mapping[str, Mapping[str, int]]) -> Modelled:
    """Return the kernels of all calls of ``DeviceCounts.signatures``."""
    kinds: dict[str, int] = {}
    sizes: dict[str, int] = {}
    assumed = set()
    low = high = 0
    for name, calls in signatures.items():
        for signature, times in calls.items():
            for part in kernels_of(parse_call(name, signature)):
                kind = part.kind
                if kind == ASSUMED:
                    assumed.add(name)
                    kind = name.removeprefix("aclnn")
                if part.times:
                    kinds[kind] = kinds.get(kind, 0) + times * part.times
                sizes[kind] = sizes.get(kind, 0) + times * part.nbytes
                low += times * part.low
                high += times * part.high
    count, nbytes = sum(kinds.values()), sum(sizes.values())
    return Modelled(count, low, high, nbytes, kinds, sizes, frozenset(assumed))


def kernels_of(call: Call) -> list[Kernels]:
    """Return the kernels of one call."""
    rule = _RULES.get(call.name)
    own = rule(call) if rule is not None else [_kernel(ASSUMED, *call.operands)]
    return [*_made_contiguous(call), *own]


def _kernel(
    kind: str, *operands: Operand | None, count: int = 1, low: int | None = None, high: int | None = None
) -> Kernels:
    nbytes = sum(one.nbytes for one in operands if one is not None)
    return Kernels(
        kind, count, nbytes if count else 0, count if low is None else low, count if high is None else high
    )


def _made_contiguous(call: Call) -> list[Kernels]:
    # ops-nn@9.1.0 and ops-math@9.1.0, op_api/aclnn_*.cpp: l0op::Contiguous for each input and l0op::ViewCopy
    # for each result that is a view. A contiguous view with an offset needs neither of them.
    views = [one for one in call.operands if not one.contiguous and one.numel > 0]
    return [Kernels(SLICE, 1, 2 * one.nbytes, 1, 1) for one in views]


def _blocked(tensor: Operand) -> int:
    """Return the bytes of a map in NC1HWC0."""
    images, channels, *rest = tensor.shape
    block = 32 // tensor.itemsize
    elements = images * ceil(channels / block) * block
    for size in rest:
        elements *= size
    return elements * tensor.itemsize


def _trans_data(*tensors: Operand | None) -> list[Kernels]:
    return [Kernels(TRANSDATA, 1, one.nbytes + _blocked(one), 1, 1) for one in tensors if one is not None]


def _computing(kind: str, *tensors: Operand | None, high: int = 1) -> Kernels:
    return Kernels(kind, 1, sum(_blocked(one) for one in tensors if one is not None), 1, high)


def _weight(weight: Operand, groups: int) -> list[Kernels]:
    # ops-math@9.1.0 conversion/trans_data/op_api/transdata.cpp, TransDataFzWithGroup: a grouped weight is
    # first converted to FRACTAL_Z without groups.
    return _trans_data(*([weight] * (2 if groups > 1 else 1)))


def _convolution(call: Call) -> list[Kernels]:
    # ops-nn@9.1.0 conv/convolution_forward/op_host/op_api/aclnn_convolution.cpp: CommonPreProcess (input to
    # NC1HWC0, weight to FRACTAL_Z), Conv2D, CommonPostProcess (output back); in bfloat16 with at most 4
    # channels also PadV3 and Transpose (CommonPreProcessC04); a matrix product if the window is the whole map
    # (GetConvToBmmMode). Only the 950 class takes ND.
    x, weight, y = call.tensor(0), call.tensor(1), call.tensor(9)
    assert x is not None and weight is not None and y is not None
    groups = call.numbers[8][0]
    if _whole_map(x, weight, groups, call.numbers[4]):
        return [_kernel("BatchMatMul", x, weight, y), Kernels(TRANSDATA, 0, 0, 0, 1)]
    parts = [*_trans_data(x, y), *_weight(weight, groups), _computing("Conv2D", x, weight, y)]
    if groups == 1 and x.shape[1] <= 4 and x.dtype == "BFloat16":
        parts += [_kernel("PadV3", weight, weight), _kernel("Transpose", weight, weight)]
    return parts


def _convolution_backward(call: Call) -> list[Kernels]:
    # ops-nn@9.1.0 conv/convolution_backward/op_api/aclnn_convolution_backward.cpp: InputPreProcess of all
    # three, CalculateConv2DBackpropInput, BackpropFilter, OutputPostProcess. Dilation for a 1x1 window with a
    # stride (IsPostInsertDilation) and for others with a stride above 2 (IsPreInsertDilation), not in
    # bfloat16. The filter's gradient is float32 inside: a cast to half; in float32 with groups two casts
    # through float16 if its last dimension is 16 (needSpecialCast), which InferShape decides: none to two.
    # The result of a kernel that accumulates may be cleared first (opbase@9.1.0): at most one more kernel.
    dy, x, weight, dx, dw = (call.tensor(position) for position in (0, 1, 2, 12, 13))
    assert dy is not None and x is not None and weight is not None
    stride, padding, groups = call.numbers[4], call.numbers[5], call.numbers[9][0]
    if _whole_map(x, weight, groups, padding):
        return [_kernel("BatchMatMul", dy, x, weight, high=3) for one in (dx, dw) if one is not None]
    window = max(weight.shape[2:]) > 1
    parts = [*_trans_data(dy, x), *_weight(weight, groups)]
    if dx is not None:
        parts += [_computing("Conv2DBackpropInput", dy, weight, dx), *_trans_data(dx)]
        if max(stride) > (2 if window else 1) and dy.dtype != "BFloat16":
            parts.append(Kernels("Dilation", 1, _blocked(dy) + _blocked(dx), 1, 1))
    if dw is not None:
        parts += [_computing("Conv2DBackpropFilter", dy, x, dw, high=2), *_weight(dw, groups)]
        if dw.itemsize == 2:
            parts.append(_kernel(CAST, dw, dw))
        elif groups > 1:
            parts.append(_kernel(CAST, dw, count=0, high=2))
    return parts


def _whole_map(x: Operand, weight: Operand, groups: int, padding: tuple[int, ...]) -> bool:
    return groups == 1 and not any(padding) and x.shape[2:] == weight.shape[2:]


def _batch_norm(call: Call) -> list[Kernels]:
    # ops-nn@9.1.0 norm/batch_norm_v3/op_host/op_api/aclnn_batch_norm.cpp: FillScalar for each of weight,
    # bias and running statistics that is left out; BatchNormV3 from 64 channels on, else BNTrainingReduce
    # and BNTrainingUpdate. Given running statistics are written back by ViewCopy, which should be skipped if
    # source and target have the same address: at most two more kernels.
    x, y = call.tensor(0), call.tensor(8)
    assert x is not None
    channels = x.shape[1]
    training = bool(call.numbers[5][0])
    parts = _fills(call, (1, 2, 3, 4), channels)
    given = sum(call.tensor(position) is not None for position in (3, 4))
    if not training:
        return [*parts, _kernel("BNInfer", x, y)]
    if given:
        parts.append(Kernels("ViewCopy", 0, 0, 0, given))
    if channels >= _BN_V3_CHANNELS:
        return [*parts, _kernel("BatchNormV3", x, x, y)]
    return [*parts, _kernel("BNTrainingReduce", x), _kernel("BNTrainingUpdate", x, y)]


def _batch_norm_backward(call: Call) -> list[Kernels]:
    # ops-nn@9.1.0 norm/batch_norm_grad_v3/op_host/op_api/aclnn_batch_norm_backward.cpp: the same fills for
    # weight, running and saved statistics; BNTrainingUpdateGrad and BNTrainingReduceGrad.
    dy, x = call.tensor(0), call.tensor(1)
    assert x is not None
    parts = _fills(call, (2, 3, 4, 5, 6), x.shape[1])
    return [*parts, _kernel("BNTrainingUpdateGrad", dy, x), _kernel("BNTrainingReduceGrad", dy, x, x)]


def _fills(call: Call, positions: Iterable[int], channels: int) -> list[Kernels]:
    absent = sum(call.tensor(position) is None for position in positions)
    return [Kernels(FILL, absent, absent * channels * 4, absent, absent)] if absent else []


def _max_pool(call: Call) -> list[Kernels]:
    # ops-nn@9.1.0 pooling/max_pool3d_with_argmax_v2/op_api/aclnn_max_pool2d_with_indices.cpp: a window other
    # than 1x1 goes to the three-dimensional kernel, by views.
    return [_kernel("MaxPool3DWithArgmaxV2", *call.read, *call.written)]


def _max_pool_backward(call: Call) -> list[Kernels]:
    # ops-nn@9.1.0 pooling/max_pool3d_grad_with_argmax/op_api/aclnn_max_pool2d_with_indices_backward.cpp
    return [_kernel("MaxPool3DGradWithArgmax", *call.read, *call.written, high=2)]


def _cat(call: Call) -> list[Kernels]:
    # ops-math@9.1.0 conversion/concat_d/op_api/aclnn_cat.cpp, SplitToConcat: inputs that are views are made
    # contiguous on these chips (IsNonContiguousSupport is for the 950 class), others of another dtype cast;
    # then ConcatD of up to 32, or of up to 512 where ConcatDV2 fits (op_api/concat_d.cpp,
    # IsSupportConcatDV2: along dimension 0, more than 32 inputs, last dimensions of whole 32 bytes).
    inputs = [one for one in call.read if one.numel > 0]
    out = call.written[0]
    parts = [_kernel(CAST, one, count=1) for one in inputs if one.dtype != out.dtype]
    if len(inputs) == 1:
        return [*parts, _kernel("TensorMove", *inputs, out)]
    aligned = all(one.shape[-1] * out.itemsize % 32 == 0 for one in inputs)
    along_first = call.numbers[1][0] in (0, -len(out.shape))
    most = 512 if len(inputs) > _CONCAT_INPUTS and along_first and aligned else _CONCAT_INPUTS
    count, left, passes = 0, len(inputs), 0
    while left > 1:
        groups = ceil(left / most)
        count += groups - (1 if left % most == 1 else 0)
        left, passes = groups, passes + 1
    return [*parts, Kernels("ConcatD", count, 2 * passes * out.nbytes, count, count)]


def _one(kind: str) -> Callable[[Call], list[Kernels]]:
    return lambda call: [_kernel(kind, *call.read, *call.written)]


def _top_k(call: Call) -> list[Kernels]:
    # ops-nn@9.1.0 index/gather_elements/op_api/aclnn_topk.cpp: for a short last dimension twice, with a
    # gather of the indices, which are then cast to int64.
    x, indices = call.read[0], call.written[-1]
    return [_kernel("TopK", x, count=2), _kernel("GatherElements", indices), _kernel(CAST, indices)]


def _nll_loss_backward(call: Call) -> list[Kernels]:
    # ops-nn@9.1.0 loss/nll_loss_grad/op_api/aclnn_nll_loss_backward.cpp: labels are cast to int32.
    labels = [one for one in call.read if one.dtype == "Long"]
    return [*(_kernel(CAST, one, one) for one in labels), _kernel("NLLLossGrad", *call.written)]


def _index_select(call: Call) -> list[Kernels]:
    # ops-nn@9.1.0 index/gather_v2/op_api/aclnn_index_select.cpp: GatherV2, which reads as many bytes as it
    # writes.
    out = call.written[0]
    return [_kernel("GatherV2", out, out)]


_RULES: Final[Mapping[str, Callable[[Call], list[Kernels]]]] = {
    "aclnnConvolution": _convolution,
    "aclnnConvolutionBackward": _convolution_backward,
    "aclnnBatchNorm": _batch_norm,
    "aclnnBatchNormBackward": _batch_norm_backward,
    "aclnnMaxPool2dWithMask": _max_pool,
    "aclnnMaxPool2dWithMaskBackward": _max_pool_backward,
    "aclnnCat": _cat,
    "aclnnIndexSelect": _index_select,
    "aclnnTopk": _top_k,
    "aclnnTopkV2": _top_k,
    # ops-nn@9.1.0 activation/relu/op_api/aclnn_relu.cpp, activation/threshold_grad_v2_d/op_host/op_api/
    # aclnn_threshold_backward.cpp (threshold 0 is ReluGrad): one kernel each.
    "aclnnInplaceRelu": _one("Relu"),
    "aclnnThresholdBackward": _one("ReluGrad"),
    # ops-math@9.1.0 math/reduce_mean/op_api/aclnn_mean.cpp, math/lerp/op_api/aclnn_lerp_scalar.cpp;
    # ops-nn@9.1.0 loss/nll_loss/op_api/aclnn_nll_loss.cpp: one kernel each, their dtypes being equal.
    "aclnnMean": _one("ReduceMean"),
    "aclnnLerps": _one("Lerp"),
    "aclnnNLLLoss": _one("NLLLoss"),
    "aclnnNLLLossBackward": _nll_loss_backward,
    # A fill is a separate kernel.
    "aclnnInplaceFillScalar": _one(FILL),
    "aclnnInplaceZero": _one(FILL),
    "aclnnInplaceOne": _one(FILL),
    "aclnnCast": _one(CAST),
}

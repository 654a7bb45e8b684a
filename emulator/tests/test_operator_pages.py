"""What the vendor's pages say of single operators: what is refused, and what a chip computes in."""

from __future__ import annotations

import json

import pytest
import torch

from ascend_emulator.pytest_plugin import OnEmulator
from tests.device_failures import synchronize
from tests.test_aclnn_interface import CALLER

_REFUSED = """
HALF, INT8, INT32, UINT8 = 1, 2, 3, 4


def ints(*values):
    array = (ctypes.c_int64 * len(values))(*values)
    return ctypes.c_void_p(opapi.aclCreateIntArray(array, ctypes.c_uint64(len(values))))


def tensors(*members):
    array = (ctypes.c_void_p * len(members))(*members)
    return ctypes.c_void_p(opapi.aclCreateTensorList(array, ctypes.c_uint64(len(members))))


opapi.aclCreateIntArray.restype = ctypes.c_void_p
t = lambda *shape, dtype=FLOAT: tensor(memory, *shape, dtype=dtype)
number, no, yes = ctypes.c_int64, ctypes.c_bool(False), ctypes.c_bool(True)
image, kernel = t(1, 1, 4, 4), t(1, 1, 2, 2)


def conv(padding, dilation, cube=0):
    window = (ints(1, 1), ints(padding, padding), ints(dilation, dilation))
    out = t(1, 1, 3, 3)
    return (image, kernel, None, *window, no, ints(0, 0), number(1), out, ctypes.c_int8(cube))


def pool(dilation, mask):
    window = (ints(2, 2), ints(2, 2), ints(0, 0), ints(dilation, dilation))
    return (image, *window, no, t(1, 1, 2, 2), mask)


nll = (t(2, 3), t(2, dtype=INT64))
mean = (number(1), number(-100), t(1), t(1))
top = (number(2), number(0), yes, yes, number(0))
amp = (ctypes.c_double(2), ctypes.c_double(0.5), number(10))
dims, half = (ints(0), no), ctypes.c_int(HALF)
long, byte, double = t(1, dtype=INT64), t(4, dtype=INT8), t(4, dtype=DOUBLE)
lists = (tensors(byte), tensors(byte))
cases = {
    "a loss without weights": ("aclnnNLLLoss", *nll, None, *mean),
    "weights of another dtype": ("aclnnNLLLoss", *nll, t(3, dtype=HALF), *mean),
    "places of the largest in int32": ("aclnnTopkV2", t(4), *top, t(2), t(2, dtype=INT32)),
    "a sum of two dtypes": ("aclnnReduceSum", t(4), *dims, half, t()),
    "a norm of two dtypes": ("aclnnLinalgVectorNorm", t(4), scalar(2), *dims, half, t()),
    "a norm in less than its input": (
        "aclnnLinalgVectorNorm", t(4), scalar(2), *dims, half, t(dtype=HALF)
    ),
    "a list's norm of order 3": ("aclnnForeachNorm", tensors(t(4)), scalar(3), tensors(t(1))),
    "a mask in uint8": ("aclnnInplaceMaskedFillScalar", t(4), t(4, dtype=UINT8), scalar(0)),
    "padding of 256": ("aclnnConvolution", *conv(256, 1)),
    "dilation of 256": ("aclnnConvolution", *conv(0, 256)),
    "a mode of the cube": ("aclnnConvolution", *conv(0, 1, cube=5)),
    "a mode of the cube for a product": ("aclnnMm", t(2, 2), t(2, 2), t(2, 2), ctypes.c_int8(5)),
    "pooling with dilation": ("aclnnMaxPool2dWithMask", *pool(2, t(1, 1, 4, 64, dtype=INT8))),
    "a mask of the wrong shape": ("aclnnMaxPool2dWithMask", *pool(1, t(1, 1, 4, 32, dtype=INT8))),
    "a mask of the wrong dtype": ("aclnnMaxPool2dWithMask", *pool(1, t(1, 1, 4, 64, dtype=UINT8))),
    "steps counted in int64": (
        "aclnnAmpUpdateScale", t(1), long, t(1), *amp, t(1), long
    ),
    "a flag in half": (
        "aclnnForeachNonFiniteCheckAndUnscale", tensors(t(4)), t(1, dtype=HALF), t(1, dtype=HALF)
    ),
    "int64 below a threshold": ("aclnnThresholdBackward", long, long, scalar(0), long),
    "lists of int8": ("aclnnForeachAddListV2", *lists, scalar(1), tensors(byte)),
    "numbers in int8": ("aclnnArange", scalar(0), scalar(4), scalar(1), byte),
    "a mean of float64": ("aclnnLerps", double, double, scalar(0.5), double),
}
taken = {
    "convolution": ("aclnnConvolution", *conv(0, 1)),
    "pooling": ("aclnnMaxPool2dWithMask", *pool(1, t(1, 1, 4, 64, dtype=INT8))),
    "norm": ("aclnnForeachNorm", tensors(t(4)), scalar(2), tensors(t())),
    "loss": ("aclnnNLLLoss", t(2, 3), t(2, dtype=INT64), t(3), number(2), number(-100), t(), t()),
}
cann.library.aclGetRecentErrMsg.restype = ctypes.c_char_p
assert cann.copy(memory, (ctypes.c_char * 256)(), 256, 1) == 0
for name, call in {**cases, **taken}.items():
    print(name, launch(*call), (cann.message() or "").replace("\\n", " "), sep="|")
"""


def test_refusals_of_the_pages(on_emulator: OnEmulator) -> None:
    ran = on_emulator(CALLER + _REFUSED, imported=True)
    assert ran.code == 0, ran.err
    answers = dict(line.split("|", 1) for line in ran.out.splitlines())
    taken = {name for name, answer in answers.items() if answer.startswith("0|")}
    assert taken == {"convolution", "pooling", "norm", "loss"}, answers
    words = {
        "a loss without weights": "weight is a null pointer",
        "weights of another dtype": "weight is DT_FLOAT16, and must be DT_FLOAT",
        "places of the largest in int32": "must be DT_INT64",
        "a sum of two dtypes": "dtype is DT_FLOAT16, and out DT_FLOAT",
        "a norm of two dtypes": "dtype is DT_FLOAT16, and out DT_FLOAT",
        "a norm in less than its input": "must be DT_FLOAT or that of self",
        "a list's norm of order 3": "the kernel would take it for 2",
        "a mask in uint8": "mask is DT_UINT8, and must be DT_BOOL",
        "padding of 256": "padding is 256",
        "dilation of 256": "dilation is 256",
        "a mode of the cube": "cubeMathType is 5",
        "a mode of the cube for a product": "cubeMathType is 5",
        "pooling with dilation": "dilation is 2, and must be 1",
        "a mask of the wrong shape": "must be DT_INT8 of shape [1, 1, 4, 64]",
        "a mask of the wrong dtype": "the mask is DT_UINT8",
        "steps counted in int64": "must be DT_INT32",
        "a flag in half": "both must be DT_FLOAT",
        "int64 below a threshold": "not implemented for DT_INT64",
        "lists of int8": "not implemented for DT_INT8",
        "numbers in int8": "not implemented for DT_INT8",
        "a mean of float64": "not implemented for DT_DOUBLE",
    }
    for name, word in words.items():
        assert word in answers[name], answers[name]


@pytest.mark.usefixtures("npu")
def test_negative_of_uint8_is_refused() -> None:
    with pytest.raises(RuntimeError, match=r"aclnnNeg.*DT_UINT8"):
        torch.neg(torch.ones(2, dtype=torch.uint8, device="npu"))
        synchronize()


_ON_910A = """
import json, torch, torch_npu
import torch.nn.functional as F
torch.npu.set_compile_mode(jit_compile=False)
torch.npu.config.allow_internal_format = False
fine = 1 + 2.0**-12  # float16 has no such number
x = torch.full((1, 1, 2, 2), fine, device="npu", requires_grad=True)
one = torch.ones(1, 1, 1, 1, device="npu", requires_grad=True)
y = F.conv2d(x, one)
y.backward(torch.full_like(y, fine))
results = {
    "convolution": y, "gradient": x.grad, "product": torch.mm(x.detach()[0, 0], torch.eye(2, device="npu")),
    "pooling": F.max_pool2d(x.detach(), 2), "sum": x.detach() + 0,
    "overflow": F.conv2d(torch.full((1, 1, 1, 1), 60000.0, device="npu"), 2 * one.detach()),
}
print(json.dumps({name: value.flatten()[0].item() for name, value in results.items()}))
"""


def test_float32_is_computed_in_float16_on_910a(on_emulator: OnEmulator) -> None:
    """Convolutions, products and pooling; the overflow saturates. Elsewhere float32 stays what it is."""
    ran = on_emulator(_ON_910A, imported=True, soc="Ascend910A")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out) == {
        "convolution": 1.0,
        "gradient": 1.0,
        "product": 1.0,
        "pooling": 1.0,
        "sum": 1 + 2.0**-12,
        "overflow": 65504.0,
    }


_ON_950 = """
import torch, torch_npu
import torch.nn.functional as F
from tests.device_failures import synchronize
x = torch.randn(1, 1, 4, 4)
assert torch.equal(F.max_pool2d(x.npu(), 2).cpu(), F.max_pool2d(x, 2))
there = x.npu().requires_grad_()
F.threshold(there, 0.0, 0.0).sum().backward()
assert torch.equal(there.grad.cpu(), (x > 0).float())
try:
    F.threshold(there, 0.5, 0.0).sum().backward()
    synchronize()
except RuntimeError as error:
    print(error)
"""


def test_pooling_and_thresholds_on_950(on_emulator: OnEmulator) -> None:
    ran = on_emulator(_ON_950, imported=True, soc="Ascend950PR_9589")
    assert ran.code == 0, ran.err
    assert "aclnnThresholdBackward: threshold is 0.5" in ran.out + ran.err
    kernels = ran.counts[0].total.kernels
    assert "aclnnMaxPool2dWithIndices" in kernels and "aclnnMaxPool2dWithMask" not in kernels

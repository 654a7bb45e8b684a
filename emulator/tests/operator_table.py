"""The table of torch calls that the emulated operators are tested with.

A case is called once with tensors on the CPU and once with the same on the NPU. What it returns is compared,
and so are its inputs afterwards, so that calls in place need no more than being written down.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

f32, f16, bf16, f64 = torch.float32, torch.float16, torch.bfloat16, torch.float64
i8, i16, i32, i64, u8 = torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8
FLOATS = (f32, f16, bf16)
WHOLE = (i32, i64, u8)
NUMBERS = (*FLOATS, *WHOLE)


class Case(NamedTuple):
    """``call(*inputs)`` for each dtype; ``shapes`` are those of its inputs, all of that dtype."""

    name: str
    call: Callable[..., Any]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype, ...] = (f32,)
    positive: bool = False


def table(
    dtypes: tuple[torch.dtype, ...],
    shapes: tuple[tuple[int, ...], ...],
    calls: dict[str, Callable[..., Any]],
    *,
    positive: bool = False,
) -> tuple[Case, ...]:
    return tuple(Case(name, call, shapes, dtypes, positive) for name, call in calls.items())


_A, _B = (3, 4, 5), (4, 5)

TWO_TENSORS = table(
    NUMBERS,
    (_A, _B),
    {
        "add": torch.add,
        "add alpha": lambda x, y: torch.add(x, y, alpha=2),
        "add out": lambda x, y: torch.add(x, y, out=torch.empty_like(x)),
        "add_": lambda x, y: x.add_(y, alpha=3),
        "sub": torch.sub,
        "sub_": lambda x, y: x.sub_(y),
        "rsub": torch.rsub,
        "mul": torch.mul,
        "mul out": lambda x, y: torch.mul(x, y, out=torch.empty_like(x)),
        "mul_": lambda x, y: x.mul_(y),
        "eq": torch.eq,
        "ne": torch.ne,
        "lt": torch.lt,
        "le": torch.le,
        "gt": torch.gt,
        "ge": torch.ge,
        "maximum": torch.maximum,
        "minimum": torch.minimum,
        "logical_and": torch.logical_and,
        "logical_or": torch.logical_or,
        "logical_xor": torch.logical_xor,
        "where": lambda x, y: torch.where(x > 1, x, y),
        "where scalar": lambda x, y: torch.where(y > 0, x, 0),
        "0-dim": lambda x, y: x + y[0, 0],
        "equal": lambda x, y: torch.tensor([torch.equal(x, x), torch.equal(x[0], y)]),
    },
)

TWO_FLOATS = table(
    FLOATS,
    (_A, _B),
    {
        "div": torch.div,
        "div_": lambda x, y: x.div_(y.abs() + 1),
        "atan2": torch.atan2,
        "lerp": lambda x, y: torch.lerp(x, y.expand_as(x), 0.3),
        "lerp_": lambda x, y: x.lerp_(y.expand_as(x), 0.3),
        "addcmul": lambda x, y: torch.addcmul(x, x, y, value=0.5),
        "addcmul_": lambda x, y: x.addcmul_(x, y, value=0.5),
        "addcdiv": lambda x, y: torch.addcdiv(x, x, y.abs() + 1, value=0.5),
        "addcdiv_": lambda x, y: x.addcdiv_(x, y.abs() + 1, value=0.5),
        "clamp tensor": lambda x, y: torch.clamp(x, min=y - 1, max=y + 1),
        "isclose": torch.isclose,
        "mse_loss": lambda x, y: F.mse_loss(x, y.expand_as(x)),
    },
)

POWERS = table(
    FLOATS,
    (_A, _B),
    {
        "pow": torch.pow,
        "pow scalar": lambda x, y: x**3,
        "pow half": lambda x, y: x**0.5,
        "pow of scalar": lambda x, y: 2.0**y,
        "log": lambda x, y: torch.log(x),
        "log2": lambda x, y: torch.log2(x),
        "log10": lambda x, y: torch.log10(x),
        "sqrt": lambda x, y: torch.sqrt(x),
        "rsqrt": lambda x, y: torch.rsqrt(x),
        "rsqrt_": lambda x, y: x.rsqrt_(),
        "sqrt_": lambda x, y: x.sqrt_(),
        "reciprocal": lambda x, y: torch.reciprocal(x),
        "fmod": torch.fmod,
        "remainder": torch.remainder,
        "floor_divide": torch.floor_divide,
        "div trunc": lambda x, y: torch.div(x, y, rounding_mode="trunc"),
        "div floor": lambda x, y: torch.div(x, y, rounding_mode="floor"),
    },
    positive=True,
)

SCALARS = table(
    NUMBERS,
    (_A,),
    {
        "add scalar": lambda x: x + 2,
        "add scalar_": lambda x: x.add_(2),
        "sub scalar": lambda x: x - 2,
        "rsub scalar": lambda x: 7 - x,
        "mul scalar": lambda x: x * 3,
        "mul scalar_": lambda x: x.mul_(3),
        "add float": lambda x: x + 0.5,
        "mul float": lambda x: x * 0.25,
        "div scalar": lambda x: x / 255,
        "eq scalar": lambda x: x == 1,
        "ne scalar": lambda x: x != 1,
        "lt scalar": lambda x: x < 1,
        "le scalar": lambda x: x <= 1,
        "gt scalar": lambda x: x > 1,
        "ge scalar": lambda x: x >= 1,
        "number ge tensor": lambda x: torch.ge(torch.ones((), dtype=x.dtype), x),
        "clamp": lambda x: x.clamp(1, 3),
        "clamp min": lambda x: x.clamp(min=1),
        "clamp max": lambda x: x.clamp(max=1),
        "clamp_": lambda x: x.clamp_(1, 3),
        "abs": torch.abs,
        "isfinite": torch.isfinite,
        "isnan": torch.isnan,
        "isinf": torch.isinf,
        "logical_not": torch.logical_not,
        "zero_": lambda x: x.zero_(),
        "fill_": lambda x: x.fill_(3),
        "fill tensor": lambda x: x.fill_(torch.tensor(3.0).to(x)),
        "zeros_like": torch.zeros_like,
        "ones_like": torch.ones_like,
        "full_like": lambda x: torch.full_like(x, 2),
        "nan_to_num": torch.nan_to_num,
    },
)

UNARY = table(
    FLOATS,
    (_A,),
    {
        "relu": torch.relu,
        "sign": lambda x: torch.sign(x),
        "exp": torch.exp,
        "expm1": torch.expm1,
        "sin": torch.sin,
        "cos": torch.cos,
        "tanh": torch.tanh,
        "sigmoid": torch.sigmoid,
        "erf": torch.erf,
        "floor": torch.floor,
        "ceil": torch.ceil,
        "round": torch.round,
        "trunc": torch.trunc,
        "exp_": lambda x: x.exp_(),
        "neg": torch.neg,
        "neg_": lambda x: x.neg_(),
        "relu_": lambda x: x.relu_(),
        "hardtanh": F.hardtanh,
        "relu6": F.relu6,
        "leaky_relu": F.leaky_relu,
        "gelu": F.gelu,
        "silu": F.silu,
        "threshold": lambda x: F.threshold(x, 0.1, 2.0),
        "softmax": lambda x: torch.softmax(x, 1),
        "log_softmax": lambda x: torch.log_softmax(x, 1),
        "softmax to float32": lambda x: torch.softmax(x, -1, dtype=f32),
        "layer_norm": lambda x: F.layer_norm(x, (5,)),
    },
)

BITS = table(
    (i32, i64, torch.bool),
    (_A, _B),
    {
        "bitwise_and": torch.bitwise_and,
        "bitwise_or": torch.bitwise_or,
        "bitwise_xor": torch.bitwise_xor,
        "bitwise_not": lambda x, y: torch.bitwise_not(x),
        "&=": lambda x, y: x.bitwise_and_(y),
        "all": lambda x, y: x.all(),
        "all dim": lambda x, y: x.all(1),
        "any": lambda x, y: x.any(),
        "any dim": lambda x, y: x.any(2, keepdim=True),
        "sum": lambda x, y: x.sum(),
    },
)

REDUCTIONS = table(
    FLOATS,
    (_A,),
    {
        "sum": torch.sum,
        "sum dims": lambda x: x.sum((0, 2)),
        "sum keepdim": lambda x: x.sum(1, keepdim=True),
        "sum to float32": lambda x: x.sum(dtype=f32),
        "mean": torch.mean,
        "mean dims": lambda x: x.mean((1, 2)),
        "prod": lambda x: x.prod(2),
        "amax": lambda x: x.amax((0, 1)),
        "amin": lambda x: x.amin(1),
        "max": torch.max,
        "min": torch.min,
        "max dim": lambda x: x.max(1),
        "min dim": lambda x: x.min(2),
        "argmax": lambda x: x.argmax(1),
        "argmin": lambda x: x.argmin(2),
        "argmax all": torch.argmax,
        "norm": torch.linalg.vector_norm,
        "norm 1": lambda x: torch.linalg.vector_norm(x, 1, dim=1),
        "norm inf": lambda x: torch.linalg.vector_norm(x, float("inf")),
        "var": lambda x: x.var((0, 1)),
        "var_mean": lambda x: torch.var_mean(x, (0, 2), correction=0),
        "std": lambda x: x.std(1),
        "std_mean": lambda x: torch.std_mean(x, 1),
        "logsumexp": lambda x: x.logsumexp(1),
        "cumsum": lambda x: x.cumsum(1),
        "topk": lambda x: x.topk(3),
        "topk smallest": lambda x: x.topk(2, 1, largest=False),
        "sort": lambda x: x.sort(1),
        "sort descending": lambda x: x.sort(dim=2, descending=True, stable=True),
        "argsort": lambda x: x.argsort(dim=1, stable=True),
        "out": lambda x: torch.sum(x, 1, out=torch.empty(3, 5).to(x)),
    },
)

INTEGER_REDUCTIONS = table(
    WHOLE,
    (_A,),
    {
        "sum": torch.sum,
        "sum dim": lambda x: x.sum(1),
        "mean of integers": lambda x: x.to(f32).mean(1),
        "amax": lambda x: x.amax(1),
        "max": torch.max,
        "argmax": lambda x: x.argmax(1),
        "cumsum": lambda x: x.cumsum(0),
        "topk": lambda x: x.topk(3)[0],
        "sort": lambda x: x.sort(dim=1, stable=True),
        "bincount": lambda x: torch.bincount(x.flatten().abs(), minlength=9),
        "nonzero": torch.nonzero,
        "masked_select": lambda x: x[x > 1],
        "unique": torch.unique,
    },
)

CASES = (*TWO_TENSORS, *TWO_FLOATS, *POWERS, *SCALARS, *UNARY, *BITS, *REDUCTIONS, *INTEGER_REDUCTIONS)

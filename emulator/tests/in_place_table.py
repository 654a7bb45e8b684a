"""More of the table: calls in place, and those that a training step seldom makes."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.operator_table import FLOATS, Case, f32, i32, i64

_A, _B = (3, 4, 5), (4, 5)


def _named(name: str) -> Callable[..., Tensor]:
    return lambda x, *rest: getattr(x, name)(*rest)


def _cases(
    names: str,
    dtypes: tuple[torch.dtype, ...],
    shapes: tuple[tuple[int, ...], ...] = (_A,),
    *,
    positive: bool = False,
) -> tuple[Case, ...]:
    return tuple(Case(name, _named(name), shapes, dtypes, positive) for name in names.split())


METHODS = (
    *_cases("acos asin atan tan exp2 frac signbit isposinf isneginf", FLOATS),
    *_cases("acos_ asin_ atan_ tan_ sin_ cos_ exp2_ expm1_ erf_ tanh_ sigmoid_", FLOATS),
    *_cases("floor_ ceil_ frac_ logical_not_ tril_ triu_ prod nan_to_num_", FLOATS),
    *_cases("log1p log_ log1p_ log2_ log10_ reciprocal_ median", FLOATS, positive=True),
    *_cases("sub_ fmod_ remainder_ floor_divide_ pow_", FLOATS, (_A, _B), positive=True),
    *_cases("clamp_min clamp_max clamp_min_ clamp_max_", FLOATS, (_A, _B)),
    *_cases("eq_ ne_ lt_ le_ gt_ ge_ logical_and_ logical_or_", FLOATS, (_A, _B)),
    *_cases("bitwise_xor_ bitwise_and_", (i32, torch.bool), (_A, _B)),
    *_cases("mv", FLOATS, ((4, 6), (6,))),
    *_cases("dot", FLOATS, ((6,), (6,))),
    *_cases("addmv", FLOATS, ((4,), (4, 6), (6,))),
    *_cases("addr addr_", FLOATS, ((4, 6), (4,), (6,))),
    *_cases("addmm_", FLOATS, ((4, 3), (4, 6), (6, 3))),
    *_cases("addbmm", FLOATS, ((4, 3), (2, 4, 6), (2, 6, 3))),
)

WITH_NUMBERS: dict[str, Callable[[Tensor], object]] = {
    "number plus tensor": lambda x: torch.add(torch.full((), 2.0), x),
    "sub number_": lambda x: x.sub_(2),
    "div number_": lambda x: x.div_(2),
    "div floor number": lambda x: torch.div(x, 0.3, rounding_mode="floor"),
    "div floor number_": lambda x: x.div_(0.3, rounding_mode="floor"),
    "div trunc_": lambda x: x.div_(x + 0.1, rounding_mode="trunc"),
    "floor_divide number": lambda x: x // 2,
    "floor_divide number_": lambda x: x.floor_divide_(2),
    "fmod number": lambda x: x.fmod(2),
    "fmod number_": lambda x: x.fmod_(2),
    "remainder number_": lambda x: x.remainder_(2),
    "remainder of number": lambda x: torch.remainder(2.0, x),
    "lerp tensors": lambda x: torch.lerp(x, x + 1, x.sigmoid()),
    "lerp tensors_": lambda x: x.lerp_(x + 1, x.sigmoid()),
    "pow number_": lambda x: x.pow_(2),
    "round decimals": lambda x: x.round(decimals=1),
    "round decimals_": lambda x: x.round_(decimals=1),
    "clamp min out": lambda x: torch.clamp_min(x, 0.1),
    "clamp max out": lambda x: torch.clamp_max(x, 0.1),
    "clamp max_": lambda x: x.clamp_max_(0.1),
    "hardtanh_": lambda x: F.hardtanh_(x, -0.5, 0.5),
    "threshold_": lambda x: F.threshold_(x, 0.1, 2.0),
    "leaky_relu_": lambda x: F.leaky_relu_(x, 0.1),
    "eq number_": lambda x: x.eq_(1),
    "ne number_": lambda x: x.ne_(1),
    "lt number_": lambda x: x.lt_(1),
    "le number_": lambda x: x.le_(1),
    "gt number_": lambda x: x.gt_(1),
    "ge number_": lambda x: x.ge_(1),
    "fill_diagonal_": lambda x: x[0].fill_diagonal_(3),
    "aminmax": lambda x: torch.aminmax(x, dim=1),
    "norm": lambda x: torch.ops.aten.norm.ScalarOpt_dim(x, 2, [1]),
    "norm inf": lambda x: torch.ops.aten.norm.ScalarOpt_dim(x, float("inf"), [1]),
    "norm -inf": lambda x: torch.ops.aten.norm.ScalarOpt_dim(x, -float("inf"), [1]),
    "cumprod": lambda x: x.cumprod(1),
    "kthvalue": lambda x: x.kthvalue(2, 1),
    "median dim": lambda x: x.median(1),
    "masked_select": lambda x: x.masked_select(x > 0),
    "masked_fill tensor_": lambda x: x.masked_fill_(x > 0, torch.ones((), device=x.device).to(x)),
    "take": lambda x: x.take(torch.tensor([0, 7, 3], device=x.device)),
    "index_fill_": lambda x: x.index_fill_(1, torch.tensor([0, 2], device=x.device), 3),
    "index_copy_": lambda x: x.index_copy_(1, torch.tensor([3, 0]).to(x.device), x[:, 1:3].clone()),
    "split copy out": lambda x: torch.split_with_sizes_copy(
        x, [1, 3], 1, out=[torch.empty_like(x[:, :1]), torch.empty_like(x[:, :3])]
    ),
    "bce": lambda x: F.binary_cross_entropy(x.sigmoid(), x.sigmoid().round()),
    "bce with logits": lambda x: F.binary_cross_entropy_with_logits(x, x.sigmoid()),
}

BITS_WITH_NUMBERS: dict[str, Callable[[Tensor], Tensor]] = {
    "and number": lambda x: x & 3,
    "or number": lambda x: x | 3,
    "xor number": lambda x: x ^ 3,
    "and number_": lambda x: x.bitwise_and_(3),
    "xor number_": lambda x: x.bitwise_xor_(3),
}

_WIDE, _PARTS = 70_000, [2000] * 35
"""torch_npu has one launch for this; for fewer or smaller parts it copies."""

MORE_CASES = (
    *METHODS,
    *(Case(name, call, (_A,), (f32, torch.float16)) for name, call in WITH_NUMBERS.items()),
    *(Case(name, call, (_A,), (i32, i64)) for name, call in BITS_WITH_NUMBERS.items()),
    Case(
        "split copy wide",
        lambda x: torch.split_with_sizes_copy(
            x, _PARTS, 1, out=[torch.empty_like(x[:, :2000]) for _ in _PARTS]
        ),
        ((2, _WIDE),),
    ),
)

"""The rest of the table: reading and writing at indices, copies, new tensors, and matrix products."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.operator_table import FLOATS, NUMBERS, f16, f32, i32, i64, table


def _long(x: Tensor, size: int) -> Tensor:
    """Indices below ``size`` from numbers."""
    return x.float().abs().mul(7).long() % size


INDEXING = table(
    (*FLOATS, i64),
    ((4, 6, 5),),
    {
        "index_select": lambda x: x.index_select(1, torch.tensor([5, 0, 2], device=x.device)),
        "index_select int32": lambda x: x.index_select(
            1, torch.tensor([5, 0, 2], dtype=i32, device=x.device)
        ),
        "gather": lambda x: x.gather(2, _long(x, 5)),
        "take_along_dim": lambda x: x.take_along_dim(x.argsort(dim=1, stable=True), 1),
        "index": lambda x: x[torch.tensor([0, 3], device=x.device)],
        "index two": lambda x: x[torch.tensor([0, 3]).to(x.device), :, torch.tensor([1, 2]).to(x.device)],
        "index last": lambda x: x[..., torch.tensor([4, 1], device=x.device)],
        "index mask": lambda x: x[x[:, 0, 0] > 0],
        "index_put": lambda x: x.index_put_((torch.tensor([1, 3], device=x.device),), x[:2].clone()),
        "index_put accumulate": lambda x: x.index_put_(
            (torch.tensor([1, 1], device=x.device),), x[:2].clone(), accumulate=True
        ),
        "assign": lambda x: x.__setitem__(torch.tensor([0, 2], device=x.device), 7),
        "assign slice": lambda x: x.__setitem__((slice(None), 1), 7),
        "index_add": lambda x: x.index_add(1, torch.tensor([5, 0, 2], device=x.device), x[:, :3]),
        "index_copy": lambda x: x.index_copy(1, torch.tensor([5, 0], device=x.device), x[:, 2:4]),
        "index_fill": lambda x: x.index_fill(1, torch.tensor([5, 0], device=x.device), 3),
        "scatter": lambda x: x.scatter(1, _long(x[:, :1], 6), x[:, 1:2]),
        "scatter value": lambda x: x.scatter(1, _long(x[:, :1], 6), 2),
        "scatter_": lambda x: x.scatter_(1, _long(x[:, :1], 6), 2),
        "scatter_add": lambda x: x.scatter_add(1, _long(x[:, :2], 6), x[:, 1:3]),
        "embedding": lambda x: F.embedding(_long(x[:, 0, 0], 4), x[:, :, 0]),
        "one_hot": lambda x: F.one_hot(_long(x[:, 0, 0], 5), 5),
        "masked_fill": lambda x: x.masked_fill(x > 1, 0),
        "masked_fill_": lambda x: x.masked_fill_(x > 1, 5),
        "masked_scatter": lambda x: x.masked_scatter(x > 0, x.flatten()),
    },
)

SHAPES = table(
    (*NUMBERS, torch.bool),
    ((2, 6, 3, 4),),
    {
        "cat": lambda x: torch.cat([x, x[:, :2]], 1),
        "cat views": lambda x: torch.cat([x[:, ::2], x[:, 1::2]], 1),
        "cat out": lambda x: torch.cat([x, x], 0, out=torch.empty(0, dtype=x.dtype, device=x.device)),
        "stack": lambda x: torch.stack([x, x], 2),
        "chunk": lambda x: [part.contiguous() for part in x.chunk(2, 1)],
        "split copy": lambda x: torch.split_with_sizes_copy(x, [2, 4], 1),
        "channel_shuffle": lambda x: F.channel_shuffle(x, 2),
        "shuffle by hand": lambda x: x.view(2, 2, 3, 3, 4).transpose(1, 2).reshape(2, 6, 3, 4),
        "permute": lambda x: x.permute(0, 2, 3, 1).contiguous(),
        "transpose": lambda x: x.transpose(1, 2).clone(),
        "flip": lambda x: x.flip(-1),
        "flip two": lambda x: x.flip(2, 3),
        "roll": lambda x: x.roll(1, 0),
        "roll two": lambda x: x.roll((1, 2), (2, 3)),
        "repeat": lambda x: x.repeat(2, 1, 1, 3),
        "repeat_interleave": lambda x: x.repeat_interleave(2, 1),
        "expand": lambda x: x[:, :1].expand(2, 6, 3, 4).contiguous(),
        "pad": lambda x: F.pad(x, (1, 2, 0, 1), value=1),
        "tril": lambda x: x.tril(),
        "triu": lambda x: x.triu(1),
        "copy strided": lambda x: torch.zeros_like(x)[:, ::2].copy_(x[:, 1::2]),
        "copy broadcast": lambda x: torch.zeros_like(x).copy_(x[:1, :1]),
        "copy converting": lambda x: torch.zeros_like(x, dtype=f32).copy_(x),
        "to float32": lambda x: x.to(f32),
        "to float16": lambda x: x.to(f16),
        "to int64": lambda x: x.to(i64),
        "to bool": lambda x: x.to(torch.bool),
        "unfold": lambda x: x.unfold(2, 2, 1).contiguous(),
        "diagonal": lambda x: x.diagonal(0, 2, 3).contiguous(),
    },
)

CREATION = table(
    (f32, f16, i64),
    ((1,),),
    {
        "arange": lambda x: torch.arange(7, dtype=x.dtype, device=x.device),
        "arange step": lambda x: torch.arange(3, 12, 2, dtype=x.dtype, device=x.device),
        "eye": lambda x: torch.eye(3, 4, dtype=x.dtype, device=x.device),
        "linspace": lambda x: torch.linspace(0, 4, 5, dtype=x.dtype, device=x.device),
        "zeros": lambda x: torch.zeros(2, 3, dtype=x.dtype, device=x.device),
        "full": lambda x: torch.full((2,), 3, dtype=x.dtype, device=x.device),
        "tensor": lambda x: torch.tensor([1, 2], dtype=x.dtype, device=x.device),
        "item": lambda x: torch.tensor(x.item()),
    },
)

PRODUCTS = table(
    FLOATS,
    ((4, 6), (6, 3), (3,)),
    {
        "mm": lambda x, y, b: x @ y,
        "mm transposed": lambda x, y, b: y.t() @ x.t(),
        "mv": lambda x, y, b: y @ b,
        "dot": lambda x, y, b: b @ b,
        "addmm": lambda x, y, b: torch.addmm(b, x, y, beta=0.5, alpha=2),
        "linear": lambda x, y, b: F.linear(x, y.t(), b),
        "bmm": lambda x, y, b: torch.bmm(x.expand(2, 4, 6), y.expand(2, 6, 3)),
        "baddbmm": lambda x, y, b: torch.baddbmm(b, x.expand(2, 4, 6), y.expand(2, 6, 3)),
        "matmul": lambda x, y, b: torch.matmul(x.expand(2, 4, 6), y),
        "outer": lambda x, y, b: torch.outer(b, b),
        "einsum": lambda x, y, b: torch.einsum("ij,jk->ik", x, y),
    },
)

ARRANGEMENTS = (*INDEXING, *SHAPES, *CREATION, *PRODUCTS)

"""Operators under autograd and ``torch.func``.

First derivatives in reverse mode (``grad``, ``vjp``, ``backward``) work. ``vmap`` around the operators or
their gradients works too, one slice after the other. Forward mode raises torch's error, and a second
derivative raises ours; backend ``routed`` supports both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from shufflenet_fn_backends.fused.library import Operator
from shufflenet_fn_backends.support.private import transforms_active

_FIRST_ONLY = "backend cpu has first derivatives only; take backend routed for a derivative of a gradient"


def call(operator: Operator, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Return the operator's results, differentiable once in reverse mode."""
    # autograd.Function makes the same check. Outside transforms, _EngineCall takes a third of the time.
    function = _Call if transforms_active() else _EngineCall
    results: tuple[Tensor, ...] = function.apply(operator, *tensors)
    return results


class _EngineCall(torch.autograd.Function):
    """The operator for the autograd engine only, without ``setup_context`` and ``_Backward``."""

    @staticmethod
    def forward(ctx: Any, operator: Operator, *tensors: Tensor) -> tuple[Tensor, ...]:
        results = operator.forward(tensors)
        ctx.operator, ctx.inputs = operator, len(tensors)
        ctx.save_for_backward(*tensors, *results)
        ctx.mark_non_differentiable(*(results[i] for i in operator.constants))
        return results

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        saved, inputs = ctx.saved_tensors, ctx.inputs
        needed = tuple(ctx.needs_input_grad[1:])
        # With create_graph=True, raise when the graph is used. With is_grads_batched=True, this runs under
        # vmap.
        if torch.is_grad_enabled() or transforms_active():
            return None, *_Backward.apply(ctx.operator, inputs, needed, *saved, *grads)
        return None, *ctx.operator.backward(saved[:inputs], saved[inputs:], grads, needed)


class _Call(torch.autograd.Function):
    @staticmethod
    def forward(operator: Operator, *tensors: Tensor) -> tuple[Tensor, ...]:
        return operator.forward(tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.operator, *tensors = inputs
        ctx.inputs = len(tensors)
        ctx.save_for_backward(*tensors, *output)
        ctx.mark_non_differentiable(*(output[i] for i in ctx.operator.constants))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        saved = ctx.saved_tensors
        gradients = _Backward.apply(ctx.operator, ctx.inputs, tuple(ctx.needs_input_grad[1:]), *saved, *grads)
        return None, *gradients

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], operator: Operator, *tensors: Tensor) -> Any:
        return _one_by_one(info, in_dims[1:], tensors, lambda slices: _Call.apply(operator, *slices))


class _Backward(torch.autograd.Function):
    """The gradient as a separate Function, so that it supports ``vmap``."""

    @staticmethod
    def forward(
        operator: Operator, inputs: int, needed: tuple[bool, ...], *tensors: Tensor
    ) -> tuple[Tensor | None, ...]:
        results = (len(tensors) - inputs) // 2
        return operator.backward(
            tensors[:inputs], tensors[inputs : inputs + results], tensors[inputs + results :], needed
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        raise NotImplementedError(_FIRST_ONLY)

    @staticmethod
    def vmap(
        info: Any,
        in_dims: tuple[Any, ...],
        operator: Operator,
        inputs: int,
        needed: tuple[bool, ...],
        *tensors: Tensor,
    ) -> Any:
        def one(slices: list[Tensor]) -> Any:
            return _Backward.apply(operator, inputs, needed, *slices)

        return _one_by_one(info, in_dims[3:], tensors, one)


def _one_by_one(
    info: Any,
    in_dims: Sequence[int | None],
    tensors: Sequence[Tensor],
    function: Callable[[list[Tensor]], tuple[Tensor | None, ...]],
) -> tuple[Any, Any]:
    # The kernels have no batch dimension of models. Each call uses the whole machine anyway.
    rows = [
        function([t if d is None else t.select(d, i) for t, d in zip(tensors, in_dims, strict=True)])
        for i in range(info.batch_size)
    ]
    results = tuple(
        None if column[0] is None else torch.stack(list(column)) for column in zip(*rows, strict=True)
    )
    return results, tuple(None if result is None else 0 for result in results)

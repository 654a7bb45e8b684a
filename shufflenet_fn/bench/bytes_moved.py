"""Count of the bytes that the operators of a computation read and write.

Each operator of the dispatcher counts with the bytes of its tensor arguments and results, in forward and
backward. Views and allocations do not count. The kernels of backend ``cpu`` are not operators of the
dispatcher; each counts as one operator with its arguments and results.

So a value counts once for each operator that reads it, whether or not it is in the cache. A copy inside a
kernel does not count, for example the contiguous copy that a convolution makes of a range of channels.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from shufflenet_fn.tree import tree_leaves
from shufflenet_fn_backends.fused.library import Operator

_NOT_MOVING = frozenset(
    {
        "aten::empty",
        "aten::empty_like",
        "aten::empty_strided",
        "aten::new_empty",
        "aten::new_empty_strided",
        # A view, though its schema does not say so.
        "aten::_unsafe_view",
    }
)


def bytes_moved(computation: Callable[[], object]) -> int:
    """Run ``computation`` once and return the bytes that it reads and writes."""
    counting = _Counting()
    with counting, _counting_kernels(counting):
        computation()
    return counting.total


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0
        self._inside = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        schema = func._schema
        if not self._inside and schema.name not in _NOT_MOVING and not _is_view(schema):
            self._add((args, kwargs, out))
        return out

    def as_one(self, operator: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap ``operator``, which takes sequences of tensors, so that it counts as one operator."""

        def counted(*arguments: Any) -> Any:
            self._inside = True
            results = operator(*arguments)
            self._inside = False
            self._add((arguments[1:], results))  # the first is the operator itself
            return results

        return counted

    def _add(self, tensors: Any) -> None:
        self.total += sum(_bytes(t) for t in tree_leaves(tensors) if isinstance(t, Tensor))


@contextlib.contextmanager
def _counting_kernels(counting: _Counting) -> Iterator[None]:
    # Classes that are not loaded cannot be in use.
    with contextlib.ExitStack() as stack:
        for operator in Operator.__subclasses__():
            for name in ("forward", "backward"):
                counted = counting.as_one(vars(operator)[name])
                stack.enter_context(mock.patch.object(operator, name, counted))
        yield


def _is_view(schema: Any) -> bool:
    """Return whether all results alias an argument and nothing is written."""
    return bool(schema.returns) and all(
        returned.alias_info is not None and not returned.alias_info.is_write
        for returned in schema.returns
    )


def _bytes(tensor: Tensor) -> int:
    # An expanded tensor, such as the gradient of a sum, has fewer values than elements.
    size = tensor.numel() * tensor.element_size()
    return min(size, tensor.untyped_storage().nbytes())

"""What an operator of backend ``cpu`` is: a value with a forward and a backward pass over plain tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor


class Operator(ABC):
    """A differentiable operator, on plain CPU tensors and outside autograd."""

    @property
    @abstractmethod
    def constants(self) -> tuple[int, ...]:
        """Which results have no gradient."""

    @abstractmethod
    def forward(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Results of the operator."""

    @abstractmethod
    def backward(
        self,
        tensors: Sequence[Tensor],
        results: Sequence[Tensor],
        grads: Sequence[Tensor],
        needed: Sequence[bool],
    ) -> tuple[Tensor | None, ...]:
        """Gradients of ``tensors`` from those of ``results``; ``None`` allowed where not needed."""

"""What every device has in common where runs are to be equal bit by bit."""

from __future__ import annotations

import torch
from torch.utils import deterministic


def deterministic_operators() -> str:
    """Have torch take deterministic kernels, and raise where there is none. Says so."""
    torch.use_deterministic_algorithms(True)
    # Filling every new tensor with NaN finds reads of memory that was never written; it is a pass over
    # memory for each activation, and does not make a result any more deterministic.
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return "torch takes deterministic operators, or raises where there is none"

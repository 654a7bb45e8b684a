"""Names that a user can type. Does not import torch, so that ``--help`` stays fast."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Final

BACKEND_NAMES: Final = ("reference", "native", "gather", "routed", "cpu", "npu")
DEVICE_NAMES: Final = ("cpu", "cuda", "npu")
ENGINE_NAMES: Final = ("auto", "torch", "onnxruntime", "openvino")
"""What computes in ``predict``."""
STATS_IN_STEP: Final = "+step"
"""Suffix of a backend's name in measurements: the step updates the running statistics, not the kernels."""


def suggestion(name: str, valid: Iterable[str]) -> str:
    """Return `` (did you mean 'x'?)`` for the closest valid name, or an empty string if none is close."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""

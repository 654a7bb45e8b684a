"""The table of backends. All tests of this folder run for every row; a new backend adds one row."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch

from shufflenet_fn_backends.primitives import Backend
from shufflenet_fn_backends.registry import get_backend
from shufflenet_fn_backends.support.errors import DeviceError

EVERYTHING: Mapping[str, str] = MappingProxyType({})


class Row(NamedTuple):
    """A backend and what it does not do.

    ``lacks``: why, by what: a dtype (``float16``), a transform (``jvp``, as named in ``test_transforms`` and
    ``test_compile``), or a transform in a dtype (``jvp float32``). A dtype that is lacking is skipped. A
    transform that is lacking may raise; it may not give a wrong number, which is tested.
    """

    name: str
    lacks: Mapping[str, str] = EVERYTHING

    @property
    def backend(self) -> Backend[Any]:
        """The backend; skips the test where it cannot be had (``cpu`` without a compiler)."""
        try:
            return get_backend(self.name)
        except DeviceError as error:
            pytest.skip(str(error))

    def reason(self, what: str, dtype: torch.dtype) -> str | None:
        """Why ``what`` is not there in ``dtype``, or ``None`` if it is."""
        name = str(dtype).removeprefix("torch.")
        return self.lacks.get(what) or self.lacks.get(f"{what} {name}")


_REVERSE_ONLY = (
    "its kernels have first derivatives in reverse mode; other dtypes go through torch's"
)

ROWS = (
    Row("native"),
    Row("gather"),
    Row("npu"),
    Row("routed"),
    Row(
        "cpu",
        lacks={
            "compile": "its kernels are called through ctypes, which Dynamo cannot trace",
            "jvp float32": _REVERSE_ONLY,
            "grad(grad) float32": _REVERSE_ONLY,
            "jvp(grad) float32": _REVERSE_ONLY,
        },
    ),
)

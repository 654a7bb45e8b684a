"""The table of backends. All tests of this folder run for every row; a new backend adds one row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import torch

from shufflenet_fn_backends.primitives import Backend
from shufflenet_fn_backends.registry import get_backend
from shufflenet_fn_backends.support.errors import DeviceError
from tests.parity.cases import Case

EVERYTHING: Mapping[str, str] = MappingProxyType({})


class Row(NamedTuple):
    """A backend, where it is tested, and what it does not do.

    ``devices``: the devices to test on. ``npu`` and ``routed`` are one implementation under two names, so
    each device runs one of them.
    ``shuffles_only``: the backend differs from ``reference`` in the shuffle alone, so other cases are left
    out.
    ``lacks``: why, by what: a dtype (``float16``), a transform (``jvp``, as named in ``test_transforms`` and
    ``test_compile``), or a transform in a dtype (``jvp float32``). A dtype that is lacking is skipped. A
    transform that is lacking may raise; it may not give a wrong number, which is tested.
    """

    name: str
    devices: tuple[str, ...] = ("cpu", "cuda", "npu")
    shuffles_only: bool = False
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


_REVERSE_ONLY = "its kernels have first derivatives in reverse mode; other dtypes go through torch's"

ROWS = (
    Row("native", shuffles_only=True),
    Row("gather"),
    Row("npu", devices=("npu",)),
    Row("routed", devices=("cpu", "cuda")),
    Row(
        "cpu",
        devices=("cpu",),
        lacks={
            "compile": "its kernels are called through ctypes, which Dynamo cannot trace",
            "jvp float32": _REVERSE_ONLY,
            "grad(grad) float32": _REVERSE_ONLY,
            "jvp(grad) float32": _REVERSE_ONLY,
        },
    ),
)

rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def cases_and_rows(cases: Iterable[Case]) -> pytest.MarkDecorator:
    """Parametrize a test with every pair of a case and a backend that computes it in a way of its own."""
    return pytest.mark.parametrize(
        ("case", "row"),
        [
            pytest.param(case, row, id=f"{case.name}-{row.name}")
            for case in cases
            for row in ROWS
            if case.shuffles or not row.shuffles_only
        ],
    )

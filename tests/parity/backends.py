"""The table of backends. A new one is one more row here, and every test of this folder runs for it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from shufflenet_fn_backends.primitives import Backend
from shufflenet_fn_backends.registry import get_backend

EVERYTHING: Mapping[str, str] = MappingProxyType({})


class Row(NamedTuple):
    """A backend and what it does not do.

    ``lacks``: why, by what: a dtype (``float16``) or a transform (``jvp``, as named in
    ``test_transforms``), or one in another (``jvp float32``). A transform that is lacking has to fail, which
    is tested: a wrong number is worse than none. A dtype that is lacking is skipped.
    """

    name: str
    lacks: Mapping[str, str] = EVERYTHING

    @property
    def backend(self) -> Backend[Any]:
        return get_backend(self.name)

    def reason(self, what: str, dtype: torch.dtype) -> str | None:
        """Why ``what`` is not there in ``dtype``, or ``None`` if it is."""
        name = str(dtype).removeprefix("torch.")
        return self.lacks.get(what) or self.lacks.get(f"{what} {name}")


ROWS = (
    Row("native"),
    Row("gather"),
    Row("npu"),
    Row("routed"),
)

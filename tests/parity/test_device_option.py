"""``pytest tests/parity --device …``: a missing device is one usage error."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from shufflenet_fn_backends.runtimes import cuda
from shufflenet_fn_backends.runtimes.npu import runtime as npu
from tests.conftest import pytest_configure

REASONS = {"cuda": cuda.unavailable_reason, "npu": npu.unavailable_reason}


@pytest.mark.parametrize("name", REASONS)
def test_a_device_that_is_not_there(name: str) -> None:
    reason = REASONS[name]()
    if reason is None:
        pytest.skip(f"{name} is there")
    config: Any = SimpleNamespace(getoption=lambda option: name)
    with pytest.raises(pytest.UsageError, match=re.escape(reason)):
        pytest_configure(config)

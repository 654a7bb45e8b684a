from __future__ import annotations

import pytest
import torch

from tests.model.support import one_thread
from tests.parity.backends import Row

__all__ = ["one_thread"]


_OF_TORCH_NPU = (
    "ignore:TypedStorage is deprecated:UserWarning",
    "ignore:Cannot create tensor with internal format:UserWarning",
)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("device") == "npu":
        for warning in _OF_TORCH_NPU:
            config.addinivalue_line("filterwarnings", warning)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect backends that are tested on other devices."""
    device = config.getoption("device")

    def elsewhere(item: pytest.Item) -> bool:
        callspec = getattr(item, "callspec", None)
        row = callspec.params.get("row") if callspec else None
        return isinstance(row, Row) and device not in row.devices

    left_out = [item for item in items if elsewhere(item)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not elsewhere(item)]


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> torch.device:
    """What ``--device`` names."""
    name = pytestconfig.getoption("device")
    return torch.device(name) if name == "cpu" else torch.device(name, 0)

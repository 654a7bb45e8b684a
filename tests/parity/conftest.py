from __future__ import annotations

import pytest
import torch

from tests.model.support import one_thread

__all__ = ["one_thread"]


_OF_TORCH_NPU = (
    "ignore:TypedStorage is deprecated:UserWarning",
    "ignore:Cannot create tensor with internal format:UserWarning",
)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("device") == "npu":
        for warning in _OF_TORCH_NPU:
            config.addinivalue_line("filterwarnings", warning)


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> torch.device:
    """What ``--device`` names."""
    name = pytestconfig.getoption("device")
    return torch.device(name) if name == "cpu" else torch.device(name, 0)

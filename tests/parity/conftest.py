from __future__ import annotations

import pytest
import torch

from tests.model.support import one_thread

__all__ = ["one_thread"]


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> torch.device:
    """What ``--device`` names."""
    name = pytestconfig.getoption("device")
    return torch.device(name) if name == "cpu" else torch.device(name, 0)

from __future__ import annotations

from collections.abc import Mapping

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


@pytest.hookimpl(tryfirst=True)  # before pytest selects by marker
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what does not run on the device, and leave what repeats itself there to campaigns."""
    device = config.getoption("device")
    left_out = []
    for item in items:
        params = item.callspec.params if hasattr(item, "callspec") else {}
        test = getattr(item, "originalname", item.name)
        row = params.get("row")
        if (isinstance(row, Row) and device not in row.devices) or (
            device == "npu" and params.get("dtype") == torch.float64
        ):
            left_out.append(item)
        elif device == "npu" and _repeats(test, params):
            item.add_marker(pytest.mark.campaign)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _repeats(test: str, params: Mapping[str, object]) -> bool:
    """Whether what a test adds on an NPU lies in torch alone.

    Maps in channels_last are strided tensors like others there, other transforms nest these two, and Dynamo
    traces the other backends as it does on a CPU.
    """
    row = params.get("row")
    if test == "test_one_graph":
        return isinstance(row, Row) and row.name != "npu"
    if test == "test_transform":
        return params["name"] not in ("grad", "vmap(grad)")
    return params.get("layout") == "channels_last"


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> torch.device:
    """What ``--device`` names."""
    name = pytestconfig.getoption("device")
    return torch.device(name) if name == "cpu" else torch.device(name, 0)

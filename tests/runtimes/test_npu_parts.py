"""What needs no NPU of the NPU's runtime: its table of chips, its environment, its check of batch norm."""

from __future__ import annotations

import pytest
import torch

from shufflenet_fn_backends.errors import DeviceError
from shufflenet_fn_backends.runtimes.npu.chip import dtypes, half, has_bfloat16
from shufflenet_fn_backends.runtimes.npu.environment import RECOMMENDED, set_recommended
from shufflenet_fn_backends.runtimes.npu.setup import check_batch_norm

OLD = (
    "Ascend910A",
    "Ascend910ProA",
    "Ascend910PremiumA",
    "Ascend910B",
    "Ascend910ProB",
    "Ascend310P3",
)
NEW = ("Ascend910B1", "Ascend910B2C", "Ascend910B4-1", "Ascend910_9391", "Ascend950DT")


@pytest.mark.parametrize("soc", OLD + NEW)
def test_chips_with_and_without_bfloat16(soc: str) -> None:
    able = soc in NEW
    assert has_bfloat16(soc) == able
    assert (torch.bfloat16 in dtypes(soc)) == able
    assert torch.float64 not in dtypes(soc)
    assert half(soc).dtype == (torch.bfloat16 if able else torch.float16)
    assert soc in half(soc).reason


def test_the_environment_is_set_where_it_is_not() -> None:
    environment: dict[str, str] = {}
    (note,) = set_recommended(environment)
    assert environment == RECOMMENDED
    assert all(f"{name}={value}" in note for name, value in RECOMMENDED.items())
    assert set_recommended(environment) == ()


def test_what_the_user_has_set_stays() -> None:
    own = {"HCCL_CONNECT_TIMEOUT": "1200", "TASK_QUEUE_ENABLE": "0"}
    environment = dict(own)
    set_now, kept = set_recommended(environment)
    assert environment == {**RECOMMENDED, **own}
    assert "HCCL_EXEC_TIMEOUT=544" in set_now and "TASK_QUEUE_ENABLE" not in set_now
    assert "HCCL_CONNECT_TIMEOUT=1200" in kept and "TASK_QUEUE_ENABLE=0" in kept


def test_the_allocator_is_not_configured_twice() -> None:
    """torch_npu ends the process where both of its variables are set."""
    environment = {"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}
    notes = set_recommended(environment)
    assert "PYTORCH_NPU_ALLOC_CONF" not in environment
    assert any("PYTORCH_ALLOC_CONF=max_split_size_mb:64" in note for note in notes)


def test_the_timeouts_fit_each_other() -> None:
    """A collective gives up before the process group's watchdog does, and in steps of 68 s on old chips."""
    from inspect import signature

    from shufflenet_fn.distributed.group import process_group
    from shufflenet_fn.distributed.nodes import JOIN_TIMEOUT_S

    group = signature(process_group).parameters["timeout_s"].default
    execute, connect = (int(RECOMMENDED[f"HCCL_{name}_TIMEOUT"]) for name in ("EXEC", "CONNECT"))
    assert execute < group and connect < group
    assert execute % 68 == 0
    assert JOIN_TIMEOUT_S <= connect <= 7200


def test_batch_norm_that_returns_the_variance_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    check_batch_norm(torch.device("cpu"))
    original = torch.native_batch_norm

    def older(x: torch.Tensor, *arguments: object) -> tuple[torch.Tensor, ...]:
        y, mean, _ = original(x, *arguments)
        return y, mean, x.var((0, 2, 3), correction=0)

    monkeypatch.setattr(torch, "native_batch_norm", older)
    with pytest.raises(DeviceError, match="inverse standard deviation"):
        check_batch_norm(torch.device("cpu"))

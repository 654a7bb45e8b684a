"""The emulated runtime as torch_npu shows it: memory, waits, events, chips, faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from ascend_emulator.counters import reset, snapshot
from ascend_emulator.pytest_plugin import OnEmulator

_MIB = 1 << 20


@pytest.mark.parametrize("allocator", ["expandable_segments:False", "expandable_segments:True"])
def test_out_of_memory_is_recoverable(on_emulator: OnEmulator, allocator: str) -> None:
    ran = on_emulator(
        """
import torch, torch_npu
first = torch.empty(100 << 20, dtype=torch.uint8, device="npu")
try:
    torch.empty(200 << 20, dtype=torch.uint8, device="npu")
except torch.OutOfMemoryError as error:
    print(str(error).split(".")[0])
del first
torch.npu.empty_cache()
second = torch.full((200 << 20,), 3, dtype=torch.uint8, device="npu")
print(second[-1].item(), torch.npu.memory_allocated() >> 20, torch.npu.mem_get_info()[1] >> 20)
try:
    torch.npu.set_device(5)
except RuntimeError as error:
    print(isinstance(error, torch.OutOfMemoryError))
""",
        imported=True,
        memory="256MiB",
        environ={"PYTORCH_NPU_ALLOC_CONF": allocator},
    )
    assert ran.out.splitlines() == ["NPU out of memory", "3 200 256", "False"], ran.err
    assert ran.counts[0].devices[0].bytes_peak <= 256 * _MIB


def test_what_makes_the_host_wait(npu: ModuleType) -> None:
    x, pinned = torch.ones(8, device="npu:0"), torch.ones(8).pin_memory()

    def waits(call: Callable[[], object]) -> int:
        npu.synchronize()
        reset()
        call()
        return snapshot().total.host_syncs

    for call in (lambda: x + 1, lambda: x.add_(1), lambda: pinned.to("npu:0", non_blocking=True)):
        assert waits(call) == 0
    for call in (lambda: (x + 1).sum().item(), lambda: x.cpu(), npu.synchronize):
        assert waits(call) >= 1


def test_streams_and_events(npu: ModuleType) -> None:
    stream = npu.Stream()
    start, end = (npu.Event(enable_timing=True) for _ in range(2))
    with npu.stream(stream):
        start.record()
        x = torch.ones(8, device="npu:0") * 2
        end.record()
    npu.current_stream().wait_stream(stream)
    end.synchronize()
    assert start.query() and start.elapsed_time(end) >= 0
    assert x.sum().item() == 16.0


def test_two_devices_hold_and_copy_tensors(npu: ModuleType) -> None:
    assert npu.device_count() == 2
    x = torch.arange(4.0, device="npu:1")
    reset()
    copied = x.to("npu:0")
    assert snapshot().total.copies["p2p"].copies == 1
    assert (copied + 1).tolist() == [1.0, 2.0, 3.0, 4.0] and str(x.device) == "npu:1"
    with pytest.raises(RuntimeError, match="device 2 does not exist; devices are 0 to 1"):
        torch.ones(1, device="npu:2")


def test_no_device(on_emulator: OnEmulator) -> None:
    ran = on_emulator(
        "import torch, torch_npu; print(torch.npu.is_available(), torch.npu.device_count())",
        imported=True,
        devices=0,
    )
    assert ran.out == "False 0\n", ran.err


def test_an_older_chip_saturates_and_lacks_bfloat16(on_emulator: OnEmulator) -> None:
    ran = on_emulator(
        """
import torch, torch_npu
from tests.device_failures import synchronize
torch.npu.set_compile_mode(jit_compile=False)  # on this chip the older aclop is the default
inf_nan = torch_npu.npu.utils.is_support_inf_nan
flagged, clear = torch_npu.npu.get_npu_overflow_flag, torch_npu.npu.clear_npu_overflow_flag
x = torch.full((4,), 60000.0, dtype=torch.float16, device="npu")
print(torch.npu.get_device_name(), inf_nan(), torch.npu.is_bf16_supported())
print(flagged(), (x * 2).tolist(), flagged())
clear()
print(flagged())
try:
    y = x.to(torch.bfloat16) + 1
    synchronize()
except RuntimeError as error:
    print(error)
""",
        imported=True,
        soc="Ascend910A",
    )
    assert ran.out.splitlines()[:3] == [
        "Ascend910A False False",
        "False [65504.0, 65504.0, 65504.0, 65504.0] True",
        "False",
    ], ran.err
    refused = ran.out.splitlines()[3:]
    assert all(word in " ".join(refused) for word in ("DT_BFLOAT16", "Ascend910A", "161002"))


def test_an_operator_fails_on_request(on_emulator: OnEmulator) -> None:
    ran = on_emulator(
        """
import torch, torch_npu
from tests.device_failures import synchronize
x = torch.ones(8, device="npu")
for _ in range(3):
    try:
        x = x * x
        synchronize()
        print("ok")
    except RuntimeError as error:
        print("aclnnMul" in str(error))
        break
""",
        imported=True,
        faults="op:aclnnMul@2",
    )
    assert ran.out.split() == ["ok", "True"], ran.err
    assert "fault injected: op aclnnMul in rank 0" in ran.err


def test_the_older_operator_interface_is_refused_by_name(on_emulator: OnEmulator) -> None:
    ran = on_emulator(
        """
import torch, torch_npu
torch.npu.set_compile_mode(jit_compile=True)
try:
    torch.nn.functional.batch_norm(torch.ones(2, 3, 4, 4).npu(), None, None, training=True)
    torch.npu.synchronize()
except RuntimeError as error:
    print(str(error).splitlines()[-1])
""",
        imported=True,
    )
    assert "was launched through aclop, CANN's older interface, which is not emulated" in ran.out, ran.err
    assert "set_compile_mode(jit_compile=False)" in ran.out


def test_the_profiler_records_what_the_host_does(on_emulator: OnEmulator, tmp_path: Path) -> None:
    ran = on_emulator(
        """
import sys, torch, torch_npu
kinds = torch_npu.profiler.ProfilerActivity
with torch_npu.profiler.profile(
    activities=[kinds.CPU, kinds.NPU],
    on_trace_ready=torch_npu.profiler.tensorboard_trace_handler(sys.argv[1]),
):
    torch.ones(8, device="npu") + 1
""",
        str(tmp_path),
        imported=True,
    )
    assert ran.code == 0, ran.err
    (trace,) = tmp_path.rglob("trace_view.json")
    assert "aten::add" in trace.read_text()

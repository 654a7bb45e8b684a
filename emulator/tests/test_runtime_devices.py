"""Devices, chips, events and the files of counts of the emulated runtime."""

from __future__ import annotations

import pytest

from ascend_emulator.pytest_plugin import OnEmulator


def test_there_are_as_many_devices_as_asked_for(on_emulator: OnEmulator) -> None:
    ran = on_emulator(
        """
import ctypes
from tests.cann import Cann
cann = Cann(device=None)
count = ctypes.c_uint32()
print(cann.call("aclrtGetDeviceCount", ctypes.byref(count)), count.value)
print(cann.call("aclrtSetDevice", 2), cann.call("aclrtSetDevice", 3), cann.message())
""",
        devices=3,
    )
    count, set_devices = ran.out.splitlines()
    assert count == "0 3", ran.err
    assert set_devices.startswith("0 107001 ")
    assert "device 3 does not exist; devices are 0 to 2" in set_devices


@pytest.mark.parametrize(("visible", "count"), [("3,1", 2), ("0,9,1", 1), ("", 0)])
def test_devices_can_be_hidden(on_emulator: OnEmulator, visible: str, count: int) -> None:
    ran = on_emulator(
        """
import ctypes
from tests.cann import Cann
cann, count = Cann(device=None), ctypes.c_uint32()
cann.call("aclrtGetDeviceCount", ctypes.byref(count))
print(count.value)
""",
        devices=4,
        environ={"ASCEND_RT_VISIBLE_DEVICES": visible},
    )
    assert ran.out == f"{count}\n", ran.err


def test_a_thread_has_its_own_device(on_emulator: OnEmulator) -> None:
    ran = on_emulator(
        """
import ctypes, threading
from tests.cann import Cann
cann = Cann(device=1)
def device():
    number = ctypes.c_int32(-1)
    return cann.call("aclrtGetDevice", ctypes.byref(number)), number.value
def other():
    print(device(), cann.allocate(4096)[0])
    cann.call("aclrtSetDevice", 0)
    print(device(), cann.allocate(4096)[0])
thread = threading.Thread(target=other)
thread.start()
thread.join()
print(device())
""",
        devices=2,
    )
    # 107002: the thread has no context.
    assert ran.out.splitlines() == ["(107002, -1) 107002", "(0, 0) 0", "(0, 1)"], ran.err


@pytest.mark.parametrize(
    ("soc", "bf16", "cube", "vector", "saturates"),
    [("Ascend910B1", 1, 24, 48, False), ("Ascend910A", 0, 32, 0, True)],
)
def test_what_a_chip_is(
    on_emulator: OnEmulator, soc: str, bf16: int, cube: int, vector: int, saturates: bool
) -> None:
    ran = on_emulator(
        """
import ctypes
from tests.cann import Cann
cann = Cann()
value, wide, mode = ctypes.c_int32(), ctypes.c_int64(), ctypes.c_int(-1)
print(cann.library.aclrtGetSocName().decode())
cann.call("aclGetCannAttribute", 1, ctypes.byref(value))
print(value.value)
for capability in (0, 1):
    cann.call("aclGetDeviceCapability", 0, capability, ctypes.byref(wide))
    print(wide.value)
cann.call("aclrtSetDeviceSatMode", 1)
cann.call("aclrtGetDeviceSatMode", ctypes.byref(mode))
print(mode.value == 0)
""",
        soc=soc,
    )
    assert ran.out.split() == [soc, str(bf16), str(cube), str(vector), str(saturates)], ran.err


def test_events_are_complete_when_recorded(on_emulator: OnEmulator) -> None:
    ran = on_emulator(
        """
import ctypes, time
from tests.cann import Cann
cann = Cann()
stream = cann.handle("aclrtCreateStream")
start, end, never = (cann.handle("aclrtCreateEvent") for _ in range(3))
status, elapsed = ctypes.c_int(-1), ctypes.c_float()
def complete(event):
    cann.call("aclrtQueryEventStatus", event, ctypes.byref(status))
    return status.value
print(complete(start))
cann.call("aclrtRecordEvent", start, stream)
time.sleep(0.02)
cann.call("aclrtRecordEvent", end, stream)
print(complete(start), cann.call("aclrtSynchronizeEvent", end))
print(cann.call("aclrtEventElapsedTime", ctypes.byref(elapsed), start, end), 20 <= elapsed.value < 2000)
print(cann.call("aclrtEventElapsedTime", ctypes.byref(elapsed), start, never))
print(cann.call("aclrtSynchronizeStream", stream), cann.call("aclrtDestroyStream", stream))
print(cann.call("aclrtSynchronizeStream", stream), cann.message().splitlines()[0])
"""
    )
    assert ran.out.splitlines() == [
        "0",
        "1 0",
        "0 True",
        "107006",
        "0 0",
        "107000 [emulated CANN] aclrtSynchronizeStream: no such stream",
    ], ran.err
    assert ran.counts[0].devices[0].syncs == {"aclrtSynchronizeEvent": 1, "aclrtSynchronizeStream": 1}


def test_what_is_not_emulated_fails_by_its_name(on_emulator: OnEmulator) -> None:
    ran = on_emulator(
        """
from tests.cann import Cann
cann = Cann()
print(cann.call("aclmdlRICaptureBegin", None, 0), cann.message())
print(cann.call("aclopCompileAndExecuteV2", b"BNTrainingReduce"), cann.message())
"""
    )
    graph, operator = ran.out.splitlines()
    assert graph == (
        "200006 [emulated CANN] aclmdlRICaptureBegin is not emulated; add it in "
        "sources/runtime/unsupported.cpp"
    ), ran.err
    assert "operator BNTrainingReduce was launched through aclop" in operator
    assert "set_compile_mode(jit_compile=False)" in operator


def test_each_process_leaves_its_own_counts(on_emulator: OnEmulator) -> None:
    ran = on_emulator(
        """
import os
from tests.cann import Cann
cann = Cann()
cann.call("aclrtSynchronizeDevice")
if os.fork() == 0:
    # Not os._exit: the counts are written when a process ends in order.
    raise SystemExit
os.wait()
""",
        environ={"RANK": "3"},
    )
    assert ran.code == 0, ran.err
    (process,) = ran.counts  # the child did nothing of its own
    assert (process.rank, process.total.host_syncs) == (3, 1)


def test_process_reads_and_resets_its_counts(on_emulator: OnEmulator) -> None:
    ran = on_emulator(
        """
from ascend_emulator import counters
from tests.cann import Cann
cann = Cann()
cann.call("aclrtSynchronizeDevice")
print(counters.snapshot().total.host_syncs)
counters.reset()
print(counters.snapshot().total.host_syncs)
"""
    )
    assert ran.out.split() == ["1", "0"], ran.err


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("DEVICES", "many", "a number of devices from 0 to 64"),
        ("MEMORY", "8GB", "a size such as 512MiB or 8GiB"),
        ("SOC", "Ascend310P3", "one of Ascend910A, "),
        ("FAULTS", "alloc", "a comma list of alloc@N"),
    ],
)
def test_a_variable_with_nonsense_ends_the_process(
    on_emulator: OnEmulator, name: str, value: str, allowed: str
) -> None:
    variable = f"ASCEND_EMULATOR_{name}"
    ran = on_emulator("from tests.cann import Cann; Cann()", environ={variable: value})
    assert ran.code == 2
    assert f"emulated CANN: {variable} is '{value}'; it must be {allowed}" in ran.err


def test_events_do_what_their_flags_allow(on_emulator: OnEmulator) -> None:
    """The answers of events as CANN's manual has them, by the function that made them."""
    ran = on_emulator(
        """
import ctypes
from tests.cann import Cann
cann = Cann()
stream = cann.handle("aclrtCreateStream")
SYNC, TIME_LINE, PROGRESS = 1, 8, 2
status = ctypes.c_int(-1)

def status_of(event):
    assert cann.call("aclrtQueryEventStatus", event, ctypes.byref(status)) == 0
    return status.value

again = cann.handle("aclrtCreateEventExWithFlag", SYNC | TIME_LINE)
once = cann.handle("aclrtCreateEventWithFlag", SYNC | TIME_LINE)
plain = cann.handle("aclrtCreateEventExWithFlag", PROGRESS)
print(status_of(again), status_of(once))
print(cann.call("aclrtResetEvent", again, stream), cann.call("aclrtResetEvent", once, stream))
print(cann.call("aclrtQueryEvent", again, ctypes.byref(status)))
print(cann.call("aclrtStreamWaitEvent", stream, plain))
for event in (again, plain):
    assert cann.call("aclrtRecordEvent", event, stream) == 0
print(cann.call("aclrtEventElapsedTime", ctypes.byref(ctypes.c_float()), again, plain))
"""
    )
    assert ran.code == 0, ran.err
    complete, not_ready = 1, 0
    assert ran.out.splitlines() == [f"{complete} {not_ready}", "207000 0", "207000", "207000", "107006"]


def test_a_device_is_reset_as_often_as_set(on_emulator: OnEmulator) -> None:
    ran = on_emulator(
        """
import ctypes
from tests.cann import Cann
cann = Cann()
active = ctypes.c_int32()

def state():
    assert cann.call("aclrtGetPrimaryCtxState", 0, None, ctypes.byref(active)) == 0
    return active.value

cann.call("aclrtSetDevice", 0)
for reset in ("aclrtResetDevice", "aclrtResetDevice"):
    print(cann.call(reset, 0), state())
cann.call("aclrtSetDevice", 0), cann.call("aclrtSetDevice", 0)
print(cann.call("aclrtResetDeviceForce", 0), state())
print(cann.call("aclrtSetStreamFailureMode", None, 0))
"""
    )
    assert ran.out.splitlines() == ["0 1", "0 0", "0 0", "0"], ran.err

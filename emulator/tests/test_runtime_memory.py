"""Memory of the emulated devices: limits, errors, copies."""

from __future__ import annotations

from ascend_emulator.pytest_plugin import OnEmulator

_MIB = 1 << 20


def test_device_has_the_given_memory(on_emulator: OnEmulator) -> None:
    ran = on_emulator(
        """
from tests.cann import Cann
cann = Cann()
print(*cann.free_memory())
code, first = cann.allocate(40 << 20)
print(code, *cann.free_memory())
code, second = cann.allocate(30 << 20)
print(code, "|", cann.message())
print(cann.call("aclrtFree", first), *cann.free_memory())
print(cann.allocate(30 << 20)[0])
""",
        memory="64MiB",
    )
    assert ran.code == 0, ran.err
    total = 64 * _MIB
    first, second, third, fourth, fifth = ran.out.splitlines()
    assert first == f"{total} {total}"
    assert second == f"0 {24 * _MIB} {total}"
    # ACL_ERROR_RT_MEMORY_ALLOCATION, which torch_npu takes for out of memory.
    assert third.startswith("207001 | ")
    assert f"{30 * _MIB} bytes asked for, {24 * _MIB} of {total} free on device 0" in third
    assert fourth == f"0 {total} {total}"
    assert fifth == "0"
    (process,) = ran.counts
    assert process.devices[0].bytes_peak == 40 * _MIB
    assert process.devices[0].bytes_now == 30 * _MIB


def test_copies_are_checked_and_counted(on_emulator: OnEmulator) -> None:
    ran = on_emulator(
        """
import ctypes
from tests.cann import Cann, HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE
cann = Cann()
_, one = cann.allocate(4096)
_, other = cann.allocate(4096)
host, back = ctypes.create_string_buffer(b"emulated", 8), ctypes.create_string_buffer(8)
print(cann.copy(one, host, 8, HOST_TO_DEVICE))
print(cann.copy(other, one, 8, DEVICE_TO_DEVICE))
print(cann.copy(back, other, 8, DEVICE_TO_HOST), back.raw.decode())
for code in (
    cann.copy(host, back, 8, HOST_TO_DEVICE),
    cann.copy(one, host, 8, HOST_TO_DEVICE, room=4),
    cann.copy(one, other, 8192, DEVICE_TO_DEVICE),
):
    print(code, cann.message())
"""
    )
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert lines[:3] == ["0", "0", "0 emulated"]
    assert lines[3].startswith("107000 ")
    # The newest comes first.
    assert "8192 bytes go beyond the end of the allocation" in lines[3]
    assert "8 bytes do not fit the destination of 4" in lines[4]
    assert "dst is host memory, which the kind of copy does not allow" in lines[5]
    (process,) = ran.counts
    counted = process.devices[0]
    assert {name: tuple(copy) for name, copy in counted.copies.items()} == {
        "h2d": (1, 8),
        "d2d": (1, 8),
        "d2h": (1, 8),
    }
    assert counted.syncs == {"aclrtMemcpy (device to host)": 1}


def test_blocking_copy_after_a_wait_counts_once(on_emulator: OnEmulator) -> None:
    ran = on_emulator(
        """
import ctypes
from tests.cann import Cann, DEVICE_TO_HOST, HOST_TO_DEVICE
cann = Cann()
_, memory = cann.allocate(4096)
host = ctypes.create_string_buffer(8)
cann.copy(memory, host, 8, HOST_TO_DEVICE)
cann.call("aclrtSynchronizeDevice")
cann.copy(host, memory, 8, DEVICE_TO_HOST)
"""
    )
    assert ran.counts[0].devices[0].syncs == {"aclrtSynchronizeDevice": 1}, ran.err


def test_expandable_segments_have_addresses_and_memory_apart(on_emulator: OnEmulator) -> None:
    ran = on_emulator(
        """
import ctypes
from tests.cann import Cann, HOST_TO_DEVICE, DEVICE_TO_HOST
class Location(ctypes.Structure):
    _fields_ = [("id", ctypes.c_uint32), ("type", ctypes.c_int)]
class Properties(ctypes.Structure):
    _fields_ = [("handle", ctypes.c_int), ("allocation", ctypes.c_int), ("memory", ctypes.c_int),
                ("location", Location), ("reserve", ctypes.c_uint64)]
size = 2 << 20
cann = Cann()
start = ctypes.c_void_p()
print(cann.call("aclrtReserveMemAddress", ctypes.byref(start), ctypes.c_size_t(8 * size), 0, None, 0))
properties = Properties(location=Location(0, 1))
handles = []
for part in range(3):
    handle = ctypes.c_void_p()
    print(cann.call("aclrtMallocPhysical", ctypes.byref(handle), ctypes.c_size_t(size),
                    ctypes.byref(properties), 0))
    if handle:
        at = ctypes.c_void_p(start.value + part * size)
        print(cann.call("aclrtMapMem", at, ctypes.c_size_t(size), ctypes.c_size_t(0), handle, 0))
        handles.append((at, handle))
host = ctypes.create_string_buffer(b"over the edge", 13)
edge = ctypes.c_void_p(start.value + size - 4)
back = ctypes.create_string_buffer(13)
print(cann.copy(edge, host, 13, HOST_TO_DEVICE), cann.copy(back, edge, 13, DEVICE_TO_HOST), back.value)
beyond = ctypes.c_void_p(start.value + 2 * size - 4)
print(cann.copy(beyond, host, 13, HOST_TO_DEVICE))
for at, handle in handles:
    print(cann.call("aclrtUnmapMem", at), cann.call("aclrtFreePhysical", handle))
print(cann.copy(edge, host, 3, HOST_TO_DEVICE), cann.call("aclrtReleaseMemAddress", start))
print(*cann.free_memory())
""",
        memory="5MiB",
    )
    assert ran.code == 0, ran.err
    assert ran.out.splitlines() == [
        "0",
        *("0", "0"),
        *("0", "0"),
        "207001",
        "0 0 b'over the edge'",
        "107000",
        *("0 0", "0 0"),
        "107000 0",
        f"{5 * _MIB} {5 * _MIB}",
    ]


def test_an_allocation_fails_on_request(on_emulator: OnEmulator) -> None:
    ran = on_emulator(
        """
from tests.cann import Cann
cann = Cann()
print([cann.allocate(4096)[0] for _ in range(4)])
""",
        faults="alloc@3",
    )
    assert ran.out == "[0, 0, 207001, 0]\n"
    assert "fault injected: alloc aclrtMalloc in rank 0" in ran.err


def test_a_fault_for_another_rank_does_not_happen(on_emulator: OnEmulator) -> None:
    script = "from tests.cann import Cann; print(Cann().allocate(4096)[0])"
    assert on_emulator(script, faults="alloc@1#1").out == "0\n"
    assert on_emulator(script, faults="alloc@1#1", environ={"RANK": "1"}).out == "207001\n"


def test_asynchronous_copies_wait_for_unpinned_memory(on_emulator: OnEmulator) -> None:
    ran = on_emulator(
        """
import ctypes
from tests.cann import Cann, DEVICE_TO_HOST
cann, size = Cann(), ctypes.c_size_t(8)
_, device = cann.allocate(4096)
pinned, unpinned = ctypes.c_void_p(), ctypes.create_string_buffer(8)
assert cann.call("aclrtMallocHost", ctypes.byref(pinned), size) == 0
for host in (pinned, unpinned):
    assert cann.call("aclrtMemset", device, size, 1, size) == 0
    print(cann.call("aclrtMemcpyAsync", host, size, device, size, DEVICE_TO_HOST, None))
print(cann.call("aclrtMemcpyAsync", unpinned, size, unpinned, size, 0, None))
"""
    )
    assert ran.out.splitlines() == ["0", "0", "207000"], ran.err
    (process,) = ran.counts
    assert process.devices[0].syncs == {"aclrtMemcpyAsync (device to host)": 1}


def test_mapped_memory_stays_until_unmapped(on_emulator: OnEmulator) -> None:
    ran = on_emulator(
        """
import ctypes
from tests.cann import Cann
cann, size = Cann(), ctypes.c_size_t(2 << 20)

class Location(ctypes.Structure):
    _fields_ = [("id", ctypes.c_uint32), ("type", ctypes.c_int)]

class Properties(ctypes.Structure):
    _fields_ = [("handle", ctypes.c_int), ("allocation", ctypes.c_int), ("attr", ctypes.c_int),
                ("location", Location), ("reserve", ctypes.c_uint64)]

start, handle, zero = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_uint64(0)
reserve = (ctypes.byref(start), size)
assert cann.call("aclrtReserveMemAddress", *reserve, ctypes.c_size_t(64), None, zero) == 107000
assert cann.call("aclrtReserveMemAddress", *reserve, ctypes.c_size_t(0), None, zero) == 0
whole = cann.free_memory()[0]
made = ctypes.byref(handle), size, ctypes.byref(Properties())
assert cann.call("aclrtMallocPhysical", *made, zero) == 0
half, none = ctypes.c_size_t(1 << 20), ctypes.c_size_t(0)
assert cann.call("aclrtMapMem", start, half, none, handle, zero) == 107000
assert cann.call("aclrtMapMem", start, size, none, handle, zero) == 0
assert cann.call("aclrtFreePhysical", handle) == 0
print(whole - cann.free_memory()[0])
assert cann.call("aclrtUnmapMem", start) == 0
print(whole - cann.free_memory()[0])
"""
    )
    assert ran.out.splitlines() == [str(2 << 20), "0"], ran.err

"""HCCL's functions by their C names, as torch_npu finds them: one rank that talks to itself."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from ascend_emulator.pytest_plugin import OnEmulator

START = """
import ctypes
from tests.cann import Cann, HOST_TO_DEVICE, DEVICE_TO_HOST
cann = Cann()
hccl = ctypes.CDLL("libhccl.so")
hccl.HcclGetErrorString.restype = ctypes.c_char_p
root = ctypes.create_string_buffer(4108)
comm = ctypes.c_void_p()
assert hccl.HcclGetRootInfo(root) == 0, cann.message()
assert hccl.HcclCommInitRootInfo(1, root, 0, ctypes.byref(comm)) == 0, cann.message()

def on_device(*values):
    array = (ctypes.c_float * len(values))(*values)
    code, pointer = cann.allocate(ctypes.sizeof(array))
    assert code == 0
    assert cann.copy(pointer, array, ctypes.sizeof(array), HOST_TO_DEVICE) == 0
    return pointer

def on_host(pointer, count):
    array = (ctypes.c_float * count)()
    assert cann.copy(array, pointer, ctypes.sizeof(array), DEVICE_TO_HOST) == 0
    return list(array)
"""


@pytest.fixture
def run(on_emulator: OnEmulator) -> OnEmulator:
    def script(text: str) -> str:
        ran = on_emulator(START + text)
        assert ran.code == 0, ran.err
        return str(ran.out)

    return script  # type: ignore[return-value]


def test_a_communicator_says_who_it_is(run: OnEmulator) -> None:
    out = run(
        """
size, rank = ctypes.c_uint32(9), ctypes.c_uint32(9)
name = ctypes.create_string_buffer(128)
assert hccl.HcclGetRankSize(comm, ctypes.byref(size)) == 0
assert hccl.HcclGetRankId(comm, ctypes.byref(rank)) == 0
assert hccl.HcclGetCommName(comm, name) == 0
print(size.value, rank.value, name.value.decode())
"""
    )
    assert re.fullmatch(r"1 0 emulated_\d+\n", str(out))


def test_each_function_on_one_rank(run: OnEmulator) -> None:
    """Every one takes its arguments in HCCL's order: what comes back is what was sent."""
    out = run(
        """
FLOAT, SUM = 4, 0
u64, u32 = ctypes.c_uint64, ctypes.c_uint32
one, zero = (u64 * 1)(3), (u64 * 1)(0)
calls = {
    "HcclAllReduce": lambda s, r: (s, r, u64(3), FLOAT, SUM, comm, None),
    "HcclReduce": lambda s, r: (s, r, u64(3), FLOAT, SUM, u32(0), comm, None),
    "HcclReduceScatter": lambda s, r: (s, r, u64(3), FLOAT, SUM, comm, None),
    "HcclReduceScatterV": lambda s, r: (s, one, zero, r, u64(3), FLOAT, SUM, comm, None),
    "HcclScatter": lambda s, r: (s, r, u64(3), FLOAT, u32(0), comm, None),
    "HcclAllGather": lambda s, r: (s, r, u64(3), FLOAT, comm, None),
    "HcclAllGatherV": lambda s, r: (s, u64(3), r, one, zero, FLOAT, comm, None),
    "HcclAlltoAll": lambda s, r: (s, u64(3), FLOAT, r, u64(3), FLOAT, comm, None),
    "HcclAlltoAllV": lambda s, r: (s, one, zero, FLOAT, r, one, zero, FLOAT, comm, None),
    "HcclAlltoAllVC": lambda s, r: (s, one, FLOAT, r, FLOAT, comm, None),
}
for name, arguments in calls.items():
    send, receive = on_device(1.0, 2.0, 3.0), on_device(7.0, 7.0, 7.0)
    assert getattr(hccl, name)(*arguments(send, receive)) == 0, cann.message()
    print(name, on_host(receive, 3))

class Item(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int), ("buffer", ctypes.c_void_p), ("count", u64),
                ("dtype", ctypes.c_int), ("peer", u32)]

send, receive = on_device(4.0, 5.0), on_device(7.0, 7.0)
items = (Item * 2)(Item(1, receive, 2, FLOAT, 0), Item(0, send, 2, FLOAT, 0))
assert hccl.HcclBatchSendRecv(items, 2, comm, None) == 0, cann.message()
print("HcclBatchSendRecv", on_host(receive, 2))
receive = on_device(7.0, 7.0)
assert hccl.HcclGroupStart() == 0
assert hccl.HcclRecv(receive, u64(2), FLOAT, u32(0), comm, None) == 0
assert hccl.HcclSend(send, u64(2), FLOAT, u32(0), comm, None) == 0
assert hccl.HcclGroupEnd() == 0, cann.message()
print("HcclRecv", on_host(receive, 2))
assert hccl.HcclBroadcast(send, u64(2), FLOAT, u32(0), comm, None) == 0
assert hccl.HcclBarrier(comm, None) == 0
assert hccl.HcclCommDestroy(comm) == 0
"""
    )
    lines = str(out).splitlines()
    assert len(lines) == 12
    for line in lines[:10]:
        assert line.endswith("[1.0, 2.0, 3.0]"), line
    for line in lines[10:]:
        assert line.endswith("[4.0, 5.0]"), line


def test_wrong_pointers_are_refused_by_name(run: OnEmulator) -> None:
    out = run(
        """
u64 = ctypes.c_uint64
device, host = on_device(1.0), (ctypes.c_float * 4)()
calls = ((host, device, 1), (device, host, 1), (None, device, 1), (device, device, 10**9))
for send, receive, count in calls:
    other = ctypes.c_void_p()
    assert hccl.HcclGetRootInfo(root) == 0
    assert hccl.HcclCommInitRootInfo(1, root, 0, ctypes.byref(other)) == 0
    print(hccl.HcclAllReduce(send, receive, u64(count), 4, 0, other, None), cann.message())
print(hccl.HcclAllReduce(device, device, u64(1), 4, 0, None, None), cann.message())
print(hccl.HcclCommInitRootInfo(1, bytes(4108), 0, ctypes.byref(comm)), cann.message())
"""
    )
    lines = [line.replace("[emulated CANN] ", "") for line in str(out).splitlines()]
    expected = (
        "1 EI0003: HcclAllReduce: the send buffer is host memory; it must be on the device",
        "1 EI0003: HcclAllReduce: the receive buffer is host memory; it must be on the device",
        "2 EI0003: HcclAllReduce: the send buffer is null",
        "1 EI0003: HcclAllReduce: the send buffer ends before the 1000000000 elements of float32",
        "2 EI0003: HcclAllReduce: the communicator is null",
        "1 EI0003: the root info was not made by HcclGetRootInfo",
    )
    assert len(lines) == len(expected)
    for line, start in zip(lines, expected, strict=True):
        assert line.startswith(start)


def test_settings_and_what_is_not_emulated(run: OnEmulator) -> None:
    out = run(
        """
value = ctypes.c_int32(7)
print(hccl.HcclGetConfig(0, ctypes.byref(value)), value.value)
print(hccl.HcclSetConfig(0, 1), hccl.HcclGetConfig(0, ctypes.byref(value)), value.value)
print(hccl.HcclSetConfig(0, 2), cann.message())
print(hccl.HcclCommInitClusterInfo(b"table.json", 0, ctypes.byref(comm)), cann.message())
print(hccl.HcclGetErrorString(9).decode(), "|", hccl.HcclGetErrorString(21).decode())
"""
    )
    lines = str(out).splitlines()
    assert lines[:2] == ["0 0", "0 0 1"]
    assert lines[2].startswith("1 ") and "HCCL_DETERMINISTIC=2; allowed are 0 and 1" in lines[2]
    assert lines[3].startswith("5 ")
    assert "HcclCommInitClusterInfo is not emulated; add it in" in lines[3]
    assert lines[4] == "timeout | error cqe"


def test_all_that_torch_npu_looks_up_is_there(libraries: Path, npu: object) -> None:
    import torch_npu

    library = Path(torch_npu.__file__).parent / "lib" / "libtorch_npu.so"
    names = set(re.findall(rb"(?<=\x00)Hccl[A-Z][A-Za-z]+(?=\x00)", library.read_bytes()))
    command = ["nm", "-D", "--defined-only", "--format=posix", str(libraries / "libhccl.so")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    defined = {line.split()[0] for line in done.stdout.splitlines()}
    # What is no function of HCCL's: names of torch_npu's operators, tasks and wrappers.
    own = re.compile(r"Hccl\w+Face|HcclAllgather\w*|HcclAllreduce|Hccl\w+Base|HcclCommList")
    missing = {name.decode() for name in names} - defined
    assert {name for name in missing if not own.fullmatch(name)} == set()
    assert "HcclAllReduce" in defined and len(defined) > 40

"""The emulator's counts as types, and access to them from inside a process on the emulator."""

from __future__ import annotations

import ctypes
import json
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from ascend_emulator.build import LIBRARIES
from ascend_emulator.errors import DeviceError


class Kernel(NamedTuple):
    """Number of launches of an aclnn operator, collective or fill, and bytes of its arguments and results."""

    launches: int = 0
    bytes_read: int = 0
    bytes_written: int = 0

    def __add__(self, other: object) -> Kernel:
        if not isinstance(other, Kernel):
            return NotImplemented
        return Kernel(*(a + b for a, b in zip(self, other, strict=True)))

    def __sub__(self, other: Kernel) -> Kernel:
        return Kernel(*(a - b for a, b in zip(self, other, strict=True)))


class Copy(NamedTuple):
    """Number of copies in one direction (``h2d``, ``d2h``, ``d2d``, ``p2p``) and their bytes."""

    copies: int = 0
    bytes: int = 0

    def __add__(self, other: object) -> Copy:
        if not isinstance(other, Copy):
            return NotImplemented
        return Copy(self.copies + other.copies, self.bytes + other.bytes)


class DeviceCounts(NamedTuple):
    """Counts of one device in one process.

    ``syncs``: number of times that the host waited for the device, by called function. ``signatures``: number
    of calls of each kernel, by arguments (read by ``kernel_model``).
    """

    kernels: Mapping[str, Kernel]
    syncs: Mapping[str, int]
    copies: Mapping[str, Copy]
    allocations: int
    bytes_now: int
    bytes_peak: int
    signatures: Mapping[str, Mapping[str, int]]

    @property
    def launches(self) -> int:
        return sum(kernel.launches for kernel in self.kernels.values())

    @property
    def host_syncs(self) -> int:
        return sum(self.syncs.values())


class Counts(NamedTuple):
    """Counts of one process, by device."""

    pid: int
    rank: int
    soc: str
    devices: Mapping[int, DeviceCounts]

    @property
    def total(self) -> DeviceCounts:
        """Sum over all devices of the process."""
        return add(list(self.devices.values()))


def add(counts: list[DeviceCounts]) -> DeviceCounts:
    """Add the counts of several devices. The peak is the sum of the peaks."""
    kernels: dict[str, Kernel] = {}
    syncs: dict[str, int] = {}
    copies: dict[str, Copy] = {}
    signatures: dict[str, Counter[str]] = {}
    for one in counts:
        for name, calls in one.signatures.items():
            signatures[name] = signatures.get(name, Counter()) + Counter(calls)
        for name, kernel in one.kernels.items():
            kernels[name] = kernels.get(name, Kernel()) + kernel
        for name, times in one.syncs.items():
            syncs[name] = syncs.get(name, 0) + times
        for name, copy in one.copies.items():
            copies[name] = copies.get(name, Copy()) + copy
    return DeviceCounts(
        kernels,
        syncs,
        copies,
        sum(one.allocations for one in counts),
        sum(one.bytes_now for one in counts),
        sum(one.bytes_peak for one in counts),
        signatures,
    )


def parse(text: str) -> Counts:
    """Parse counts from the JSON that the emulator writes."""
    read = json.loads(text)
    return Counts(
        read["pid"],
        read["rank"],
        read["soc"],
        {int(number): _device(device) for number, device in read["devices"].items()},
    )


def snapshot() -> Counts:
    """Return the counts of this process since its start, or since ``reset``.

    torch_npu launches operators in another thread. To count all of them, first read
    ``torch.npu.current_stream().npu_stream``, which waits for that thread but not for the device, or call
    ``torch.npu.synchronize()``, which itself counts as a wait.

    Raises:
        DeviceError: this process does not run on the emulator.
    """
    library = _library()
    library.emulator_counters_json.restype = ctypes.c_void_p
    address = library.emulator_counters_json()
    try:
        return parse(ctypes.string_at(address).decode())
    finally:
        library.emulator_text_free(ctypes.c_void_p(address))


def reset() -> None:
    """Reset all counts of this process.

    Raises:
        DeviceError: this process does not run on the emulator.
    """
    _library().emulator_counters_reset()


def emulated() -> bool:
    """Return whether this process was started to run on the emulator."""
    return bool(os.environ.get(LIBRARIES))


def _library() -> ctypes.CDLL:
    if not emulated():
        raise DeviceError(
            "this process does not run on the emulator, so that there is nothing to count; start it with "
            "ascend-emulator run -- COMMAND."
        )
    return ctypes.CDLL("libascendcl.so")


def _device(read: dict[str, Any]) -> DeviceCounts:
    memory = read["memory"]
    return DeviceCounts(
        {
            name: Kernel(kernel["launches"], kernel["bytes_read"], kernel["bytes_written"])
            for name, kernel in read["kernels"].items()
        },
        read["syncs"],
        {name: Copy(copy["copies"], copy["bytes"]) for name, copy in read["copies"].items()},
        memory["allocations"],
        memory["bytes"],
        memory["peak_bytes"],
        {name: kernel.get("signatures", {}) for name, kernel in read["kernels"].items()},
    )

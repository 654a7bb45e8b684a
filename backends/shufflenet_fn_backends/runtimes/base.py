"""What a kind of device has to say about itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils import deterministic

from shufflenet_fn_backends.runtimes.settling import Settling
from shufflenet_fn_backends.support.errors import UsageError


class Memory(NamedTuple):
    """Bytes. ``allocated`` and ``reserved``: held now by tensors, and by the allocator for them.

    ``peak``: the most that tensors held so far. ``total``: of the whole device. On the CPU ``allocated``
    and ``reserved`` are the resident set of the process.
    """

    allocated: int
    reserved: int
    peak: int
    total: int


class Overflow(NamedTuple):
    """The overflow flag of a chip that saturates instead of computing infinities.

    ``clear()`` before the first operation of a step; ``raised()`` after its last gives a 0-dim float32
    tensor on the device, 1 where any operation since overflowed. Neither waits for the device.
    """

    clear: Callable[[], None]
    raised: Callable[[], Tensor]


class Window(NamedTuple):
    """Steps that a profile leaves out at the start, runs to warm the profiler up, and records."""

    skip: int = 10
    warm_up: int = 1
    record: int = 3

    @property
    def length(self) -> int:
        return self.skip + self.warm_up + self.record


class Profiler(Protocol):
    """Told where each step ends."""

    def step(self) -> None: ...


Profiling = Callable[[Path, str, Window], AbstractContextManager[Profiler]]
"""From the folder for traces, this process's name in it and the window to a running profiler."""


class Half(NamedTuple):
    """The narrow dtype that a device trains well in, ``None`` for none, and why it is this one."""

    dtype: torch.dtype | None
    reason: str


@dataclass(frozen=True)
class Runtime:
    """A kind of device as a value.

    Args:
        name: ``cpu``, ``cuda`` or ``npu``; the ``torch.device`` type.
        dist_backend: what ``init_process_group`` is given.
        memory_format: layout that activations and images are best kept in.
        shares: any number of processes can use the device at once, whatever ``device_count`` says.
        flat_state: whether launching an operator costs more than a small tensor's work, so that a
            training state is best kept in few flat tensors.
        device_count: how many devices of this kind a process can use here.
        chip: what the devices call themselves.
        versions: of the software that computes, by name.
        dtypes: floating-point dtypes that the network can be computed in.
        half: the one to take where the user leaves the precision to us.
        prepare: set this process's environment where the user has not; before the device is first used.
            Says what it did.
        set_device: make one the current device of this process; before any process group is made.
        tune: set what training profits from in this process, unless the user has; after ``set_device``.
            Says what it did.
        deterministic: have operators and collectives give the same bits in every run; after ``prepare``,
            before any process group is made. Says what it did.
        synchronize: wait until all work queued on the current device is done.
        memory: figures of the current device.
        rng_state, set_rng_state: state of the current device's default generator, a uint8 CPU tensor.
        overflow: the overflow flag of the current device, or ``None`` where infinities tell of overflow.
        profiler: records what the device and the host do in a few steps.
        settling: how long a device refuses new processes after one that used it was killed; ``None`` if none
            does.
        compiling: what is known of ``torch.compile`` on this device, for whoever asks for it.
        check_together: raise ``UsageError`` unless collectives join the devices of these numbers.
        float32_warning: what to know before training in float32 without a loss scale; ``None`` for nothing.
    """

    name: str
    dist_backend: str
    memory_format: torch.memory_format
    device_count: Callable[[], int]
    chip: Callable[[], str]
    versions: Callable[[], Mapping[str, str | None]]
    dtypes: Callable[[], tuple[torch.dtype, ...]]
    half: Callable[[], Half]
    set_device: Callable[[int], None]
    synchronize: Callable[[], None]
    memory: Callable[[], Memory]
    rng_state: Callable[[], Tensor]
    set_rng_state: Callable[[Tensor], None]
    profiler: Profiling
    deterministic: Callable[[], tuple[str, ...]]
    shares: bool = False
    flat_state: bool = False
    prepare: Callable[[], tuple[str, ...]] = tuple
    tune: Callable[[], tuple[str, ...]] = tuple
    overflow: Callable[[], Overflow | None] = lambda: None
    settling: Settling | None = None
    compiling: str | None = None
    check_together: Callable[[tuple[int, ...]], None] = lambda devices: None
    float32_warning: Callable[[], str | None] = lambda: None

    def device(self, index: int) -> torch.device:
        """The ``torch.device`` number ``index``; the CPU has one."""
        return torch.device("cpu") if self.name == "cpu" else torch.device(self.name, index)

    def memory_peak(self) -> int:
        """Bytes, the most that tensors took so far."""
        return self.memory().peak

    def check_dtypes(self, dtypes: tuple[torch.dtype, ...], option: str) -> None:
        """Raise ``UsageError`` unless the device computes in all of ``dtypes``, which ``option`` asks for."""
        able = self.dtypes()
        missing = sorted({_short(dtype) for dtype in dtypes if dtype not in able})
        if missing:
            raise UsageError(
                f"{option} computes in {' and '.join(missing)}, which the {self.name} devices of this "
                f"machine ({self.chip()}) cannot. They compute in {', '.join(map(_short, able))}: use "
                "--precision O2 (float16 with a loss scale) or --precision fp32."
            )


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def deterministic_operators() -> str:
    """Have torch take deterministic kernels, and raise where there is none. Says so."""
    torch.use_deterministic_algorithms(True)
    # Filling every new tensor with NaN finds reads of memory that was never written; it is a pass over
    # memory for each activation, and does not make a result any more deterministic.
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return "torch takes deterministic operators, or raises where there is none"

"""Interface that each device type implements."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor
from torch.utils import deterministic

from shufflenet_fn_backends.support.errors import UsageError

T = TypeVar("T")

ATTEMPTS: Final = 3
"""Maximum number of attempts to start on a device that refuses."""


class Memory(NamedTuple):
    """Device memory in bytes.

    ``allocated``: memory that tensors occupy now. ``reserved``: memory that the allocator holds now.
    ``peak``: the largest ``allocated`` so far. ``total``: memory of the device. On the CPU, ``allocated`` and
    ``reserved`` are the resident set of the process.
    """

    allocated: int
    reserved: int
    peak: int
    total: int


class Overflow(NamedTuple):
    """The overflow flag of a chip that saturates instead of computing infinities.

    Call ``clear()`` before the first operation of a step, and ``raised()`` after the last. ``raised()``
    returns a 0-dim float32 tensor on the device, which is 1 if any operation has overflowed. Neither waits
    for the device.
    """

    clear: Callable[[], None]
    raised: Callable[[], Tensor]


class Window(NamedTuple):
    """Step counts of a profile: skipped at the start, run to warm up the profiler, and recorded."""

    skip: int = 10
    warm_up: int = 1
    record: int = 3

    @property
    def length(self) -> int:
        return self.skip + self.warm_up + self.record


class Profiler(Protocol):
    """A running profiler. Call ``step`` at the end of each step."""

    def step(self) -> None: ...


Profiling = Callable[[Path, str, Window], AbstractContextManager[Profiler]]
"""Takes the folder for traces, this process's name and the window. Returns a running profiler."""


class Half(NamedTuple):
    """The 16-bit dtype that a device trains well in (``None`` for none), and the reason."""

    dtype: torch.dtype | None
    reason: str


class Settling(NamedTuple):
    """How long a device refuses new processes after one of its processes was killed.

    ``refusals``: pattern of the errors during that time. ``why``: explanation for the user.
    """

    seconds: float
    refusals: re.Pattern[str]
    why: str

    def refused(self, text: str) -> bool:
        """Return whether an error's text says that the device is still in use."""
        return self.refusals.search(text) is not None

    def wait(self, say: Callable[[str], None], stopped: Callable[[], object] | None = None) -> None:
        """Tell the user by ``say``, then wait for ``seconds`` or until ``stopped()``."""
        say(f"Waiting {self.seconds:g} s until the devices are free: {self.why}.")
        deadline = time.monotonic() + self.seconds
        while time.monotonic() < deadline and not (stopped and stopped()):
            time.sleep(min(0.1, self.seconds))


@dataclass(frozen=True)
class Runtime:
    """The properties and functions of a device type.

    Args:
        name: ``cpu``, ``cuda`` or ``npu``; the ``torch.device`` type.
        dist_backend: backend of the process group.
        memory_format: fastest layout for activations and images.
        shares: whether any number of processes can use the device at once, regardless of ``device_count``.
        flat_state: whether training keeps its state in a few flat buffers, because kernel launches are
            expensive compared with the work on a small tensor.
        device_count: returns the number of devices of this type that a process can use.
        chip: returns the name of the devices.
        versions: returns the versions of the software that computes, by name.
        dtypes: returns the floating-point dtypes that the network can be computed in.
        half: returns the 16-bit dtype for an automatic precision.
        prepare: sets environment variables of this process that the user has not set. Call it before the
            first use of the device. Returns notes for the log.
        set_device: sets the current device of this process. Call it before a process group is created.
        tune: applies settings of this process that speed up training, unless the user has set them. Call it
            after ``set_device``. Returns notes for the log.
        deterministic: makes operators and collectives reproducible to the bit. Call it after ``prepare`` and
            before a process group is created. Returns notes for the log.
        synchronize: waits until all work queued on the current device is done.
        memory: returns the memory figures of the current device.
        rng_state: returns the state of the current device's default generator, a uint8 CPU tensor.
        set_rng_state: sets the state of that generator.
        overflow: returns the overflow flag of the current device; ``None`` if overflows produce infinities.
        profiler: records the work of device and host in a few steps.
        settling: how long a device refuses new processes after one of its processes was killed; ``None`` if
            it never does.
        compiling: a note for users of ``torch.compile`` on this device.
        check_together: raises ``UsageError`` unless collectives can join the devices with these numbers.
        float32_warning: returns a warning for training in float32 without a loss scale, or ``None``.
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
        """Return the ``torch.device`` number ``index``. The CPU has one device."""
        return torch.device("cpu") if self.name == "cpu" else torch.device(self.name, index)

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


def patiently(start: Callable[[], T], settling: Settling | None, say: Callable[[str], None]) -> T:
    """Return ``start()``. If the device refuses, wait and retry, with ``ATTEMPTS`` attempts in total."""
    for _ in range(ATTEMPTS - 1):
        try:
            return start()
        except RuntimeError as error:
            if settling is None or not settling.refused(str(error)):
                raise
        settling.wait(say)
    return start()


def deterministic_operators() -> str:
    """Make torch use deterministic kernels, and raise if an operator has none. Return a note for the log."""
    torch.use_deterministic_algorithms(True)
    # This option fills every new tensor with NaN to find reads of uninitialised memory. It does not affect
    # determinism, and it costs a pass over memory for each activation.
    deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    return "torch takes deterministic operators, or raises where there is none"


def device_memory(module: Any) -> Memory:
    """Return the memory figures of the current device of ``torch.cuda`` or ``torch.npu``."""
    return Memory(
        allocated=module.memory_allocated(),
        reserved=module.memory_reserved(),
        peak=module.max_memory_allocated(),
        total=module.mem_get_info()[1],
    )


def profiling(activities: Sequence[Any], profiler: Any = torch.profiler, **options: Any) -> Profiling:
    """Return a profiler for ``activities``. It writes a Chrome or TensorBoard trace per process.

    Args:
        activities: what to record.
        profiler: ``torch.profiler``, or a module with the same functions.
        options: further arguments of ``profiler.profile``.
    """

    @contextmanager
    def profile(folder: Path, name: str, window: Window) -> Iterator[Profiler]:
        with profiler.profile(
            activities=list(activities),
            schedule=profiler.schedule(
                skip_first=window.skip, wait=0, warmup=window.warm_up, active=window.record, repeat=1
            ),
            on_trace_ready=profiler.tensorboard_trace_handler(str(folder), name),
            record_shapes=True,
            **options,
        ) as running:
            yield running

    return profile

"""The environment variables that Ascend recommends for training, set unless the user has set them.

docs/ascend.md has the reasons. Sources: Ascend/pytorch, docs/zh, as of August 2026 (TASK_QUEUE_ENABLE.md,
PYTORCH_NPU_ALLOC_CONF.md, virtual_memory.md, TORCH_HCCL_ASYNC_ERROR_HANDLING.md), ProcessGroupHCCL.cpp, and
the maintenance reference of CANN 8.5.

* ``HCCL_CONNECT_TIMEOUT``: torch_npu's own warning recommends 300 s or more. 300 s is also the time that our
  launcher waits for other machines.
* ``HCCL_EXEC_TIMEOUT``: below the 600 s of the process group, so that HCCL reports a missing rank before the
  watchdog ends the run, and a multiple of 68, to which chips of the first generation round down.

``CPU_AFFINITY_CONF`` is not set. Mode 2, which Ascend prefers, pins the main thread to one core, and with it
all threads that it starts later, including those of our loader. Mode 1 limits a process to the cores of its
NPU, which are too few if only some NPUs of the machine are in use.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping
from importlib.metadata import PackageNotFoundError, version
from types import MappingProxyType
from typing import Final

from shufflenet_fn_backends.runtimes.npu.pairs import reads_alloc_conf

RECOMMENDED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "TASK_QUEUE_ENABLE": "2",
        "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
        "HCCL_CONNECT_TIMEOUT": "300",
        "HCCL_EXEC_TIMEOUT": "544",
    }
)

ALLOC_CONF: Final = "PYTORCH_ALLOC_CONF"


def set_recommended(
    environment: MutableMapping[str, str] | None = None, *, torch_npu: str | None = None
) -> tuple[str, ...]:
    """Set the variables that are not set, in this process and its children. Return notes for the log.

    Args:
        environment: defaults to the environment of this process.
        torch_npu: version of torch_npu; defaults to the installed one.
    """
    environment = os.environ if environment is None else environment
    torch_npu = installed("torch_npu") if torch_npu is None else torch_npu
    set_now, kept = [], []
    for name, value in RECOMMENDED.items():
        own = next((n for n in _names(name, torch_npu) if environment.get(n)), None)
        if own is None:
            environment[name] = value
            set_now.append(f"{name}={value}")
        elif environment[own] != value:
            kept.append(f"{own}={environment[own]}")
    notes = []
    if set_now:
        notes.append(f"npu environment: set {' '.join(set_now)}")
    if kept:
        notes.append(f"npu environment: left as you set it {' '.join(kept)}")
    return tuple(notes)


def _names(name: str, torch_npu: str | None) -> tuple[str, ...]:
    """Return the variables that have the same meaning for this torch_npu."""
    if name == "PYTORCH_NPU_ALLOC_CONF" and reads_alloc_conf(torch_npu):
        return (name, ALLOC_CONF)
    return (name,)


def installed(package: str) -> str | None:
    """Return the installed version of ``package``."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


LIBRARIES: Final = "ASCEND_EMULATOR_LIBRARIES"
"""Set by ``ascend-emulator run`` for the processes that run on it."""


def emulated() -> bool:
    """Return whether this process was started to run on the emulator of CANN."""
    return bool(os.environ.get(LIBRARIES))

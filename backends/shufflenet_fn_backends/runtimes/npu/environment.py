"""The environment that Ascend advises for training, set where the user has not set it.

Sources (Ascend/pytorch, docs/zh, as of August 2026, and the CANN documentation 8.5), in our words:

* ``TASK_QUEUE_ENABLE``: 1 by default, a second thread on the host launches operators; 2, which also moves
  their workspace to it, is what the page advises. It may raise the peak of device memory.
  (api/environment_variable/op_execution/TASK_QUEUE_ENABLE.md)
* ``PYTORCH_NPU_ALLOC_CONF``: expandable segments avoid fragmentation where sizes change, as between training
  and evaluation. Off by default; needs the driver (HDK) 23.0 of 2023. From release 26.2.0 on torch_npu reads
  PYTORCH_ALLOC_CONF too, and to set both is an error there; older ones read their own alone.
  (memory_management/PYTORCH_NPU_ALLOC_CONF.md, virtual_memory.md)
* ``HCCL_CONNECT_TIMEOUT``: 120 s by default, 120 to 7200 allowed; how long a rank waits for the others'
  connections. torch_npu's own warning advises 300 or more (ProcessGroupHCCL.cpp), the time that our launcher
  waits for other machines. (CANN maintenance reference, environment variables)
* ``HCCL_EXEC_TIMEOUT``: 1836 s by default; how long a collective waits for a rank. It should be shorter than
  the time-out of the process group (TORCH_HCCL_ASYNC_ERROR_HANDLING.md), ours is 600 s, or the watchdog ends
  the run before HCCL has said which rank was missing. 544 is the largest multiple of 68 below: chips of the
  first generation round down to one.

Not set: ``CPU_AFFINITY_CONF``. Mode 2, which Ascend prefers, pins the main thread to one core and with it
every thread that it starts later (performance_tuning/CPU_AFFINITY_CONF.md): all of our loader's. Mode 1 gives
a process the cores of its NPU's share, which is too few when not all NPUs of the machine are in use.
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
    """Set what is not set, in this process and those that it starts. One line a variable says what holds.

    Args:
        environment: this process's, if not given.
        torch_npu: its version; the installed one's, if not given.
    """
    environment = os.environ if environment is None else environment
    torch_npu = _installed() if torch_npu is None else torch_npu
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
    """The variables that this torch_npu reads the same thing from."""
    if name == "PYTORCH_NPU_ALLOC_CONF" and reads_alloc_conf(torch_npu):
        return (name, ALLOC_CONF)
    return (name,)


def _installed() -> str | None:
    try:
        return version("torch_npu")
    except PackageNotFoundError:
        return None

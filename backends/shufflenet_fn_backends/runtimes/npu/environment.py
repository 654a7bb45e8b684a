"""The environment that Ascend advises for training, set where the user has not set it.

Sources (Ascend/pytorch, docs/zh, as of August 2026, and the CANN documentation 8.5), in our words:

* ``TASK_QUEUE_ENABLE``: 1 by default, a second thread on the host launches operators; 2, which also moves
  their workspace to it, is what the page advises. It may raise the peak of device memory.
  (api/environment_variable/op_execution/TASK_QUEUE_ENABLE.md)
* ``PYTORCH_NPU_ALLOC_CONF``: expandable segments avoid fragmentation where sizes change, as between training
  and evaluation. Off by default; needs the driver (HDK) 23.0 of 2023. To set PYTORCH_ALLOC_CONF as well is
  an error of torch_npu's. (memory_management/PYTORCH_NPU_ALLOC_CONF.md, virtual_memory.md)
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
from types import MappingProxyType
from typing import Final

RECOMMENDED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "TASK_QUEUE_ENABLE": "2",
        "PYTORCH_NPU_ALLOC_CONF": "expandable_segments:True",
        "HCCL_CONNECT_TIMEOUT": "300",
        "HCCL_EXEC_TIMEOUT": "544",
    }
)

_SAME_AS: Final = MappingProxyType({"PYTORCH_NPU_ALLOC_CONF": "PYTORCH_ALLOC_CONF"})


def set_recommended(environment: MutableMapping[str, str] | None = None) -> tuple[str, ...]:
    """Set what is not set, in this process and those that it starts. One line a variable says what holds."""
    environment = os.environ if environment is None else environment
    set_now, kept = [], []
    for name, value in RECOMMENDED.items():
        own = next((n for n in (name, _SAME_AS.get(name, name)) if environment.get(n)), None)
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

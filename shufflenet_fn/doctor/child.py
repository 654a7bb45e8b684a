"""One stage, in the process that was started for it: ``python -m shufflenet_fn.doctor.child NAME FACTS``."""

from __future__ import annotations

import importlib
import json
import sys
from types import MappingProxyType
from typing import Final

from shufflenet_fn.doctor.finding import Finding

MARK: Final = "shufflenet-fn finding: "

# Named and not imported: a stage's imports are part of what it tries.
STAGES: Final = MappingProxyType(
    {
        "python": "shufflenet_fn.doctor.packages:python",
        "torch": "shufflenet_fn.doctor.packages:torch",
        "torchvision": "shufflenet_fn.doctor.packages:torchvision",
        "namesakes": "shufflenet_fn.doctor.packages:namesakes",
        "torch_npu": "shufflenet_fn.doctor.ascend:torch_npu",
        "autoload": "shufflenet_fn.doctor.ascend:autoload",
        "cann": "shufflenet_fn.doctor.ascend:cann",
        "glibc": "shufflenet_fn.doctor.machine:glibc",
        "versions": "shufflenet_fn.doctor.machine:versions",
        "numpy": "shufflenet_fn.doctor.machine:numpy",
        "device files": "shufflenet_fn.doctor.machine:device_files",
        "user": "shufflenet_fn.doctor.machine:user",
        "folder": "shufflenet_fn.doctor.machine:folder",
        "network": "shufflenet_fn.doctor.machine:network",
        "variables": "shufflenet_fn.doctor.machine:variables",
        "devices": "shufflenet_fn.doctor.compute:devices",
        "kernel": "shufflenet_fn.doctor.compute:kernel",
        "collective": "shufflenet_fn.doctor.collective:collective",
        "loader": "shufflenet_fn.doctor.data:loader",
        "disk": "shufflenet_fn.doctor.data:disk",
    }
)


def main() -> None:
    name, facts = sys.argv[1], json.loads(sys.argv[2])
    module, _, function = STAGES[name].partition(":")
    finding: Finding = getattr(importlib.import_module(module), function)(facts)
    print(f"\n{MARK}{json.dumps(finding._asdict())}", flush=True)


if __name__ == "__main__":
    main()

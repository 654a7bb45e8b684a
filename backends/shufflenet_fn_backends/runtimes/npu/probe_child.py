"""What ``probe`` runs in a process of its own: each step of getting at an NPU, reported once it is done.

Run with ``python -m``; prints a line for each step, so that a crash tells how far it came.
"""

from __future__ import annotations

import importlib
import json
from typing import Any

MARK = "shufflenet-fn probe: "


def _say(**facts: Any) -> None:
    print(MARK + json.dumps(facts), flush=True)


def main() -> None:
    import torch

    _say(torch=torch.__version__, cuda=torch.version.cuda or torch.version.hip)
    torch_npu: Any = importlib.import_module("torch_npu")
    _say(torch_npu=torch_npu.__version__)
    npu: Any = getattr(torch, "npu")  # noqa: B009  torch_npu adds it; no type checker knows it
    count = int(npu.device_count())
    _say(count=count)
    if count:
        _say(soc=npu.get_device_name(0))
        _say(cann=cann_version(npu))


def cann_version(npu: Any) -> str | None:
    """CANN's version as torch_npu tells it; ``None`` where it does not know."""
    try:
        return str(npu.utils.get_cann_version()) or None
    except (AttributeError, RuntimeError):
        return None


if __name__ == "__main__":
    main()

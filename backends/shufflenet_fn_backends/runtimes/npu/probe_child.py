"""The child process of ``probe``: imports torch_npu and queries the devices.

Run it with ``python -m``. It prints a line after each step, so that the parent knows where a crash happened.
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
    """Return CANN's version as torch_npu reports it; ``None`` if it is unknown."""
    try:
        return str(npu.utils.get_cann_version()) or None
    except (AttributeError, RuntimeError):
        return None


if __name__ == "__main__":
    main()

"""Search for torch and torch_npu in this environment, without importing them.

Importing torch_npu fails without CANN's libraries, which are not built yet, and aborts the process with a
CUDA build of torch.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from pathlib import Path
from typing import NamedTuple

from ascend_emulator.errors import DeviceError

PAIR = "torch==2.13.0 torch_npu==2.13.0"
_ADVICE = (
    f"Make an environment for it: python3 -m venv npu && npu/bin/pip install {PAIR}, with torch from "
    "PyTorch's index of CPU wheels on x86-64."
)


class Installed(NamedTuple):
    """Folders of the two packages and their versions."""

    torch: Path
    torch_npu: Path
    torch_version: str
    torch_npu_version: str


def find_installed() -> Installed:
    """Return torch and torch_npu.

    Raises:
        DeviceError: one is missing, torch is a CUDA build, or the versions do not match.
    """
    torch = _folder("torch")
    if torch is None:
        raise DeviceError(f"cannot build the emulator: torch is not installed. {_ADVICE}")
    torch_npu = _folder("torch_npu")
    if torch_npu is None:
        raise DeviceError(f"cannot build the emulator: torch_npu is not installed. {_ADVICE}")
    torch_version, cuda = _torch_version(torch)
    if cuda is not None:
        raise DeviceError(
            f"cannot build the emulator: torch {torch_version} is a build for CUDA {cuda}, and torch_npu "
            f"aborts beside one. {_ADVICE}"
        )
    torch_npu_version = importlib.metadata.version("torch_npu")
    if _minor(torch_version) != _minor(torch_npu_version):
        raise DeviceError(
            f"cannot build the emulator: torch_npu {torch_npu_version} beside torch {torch_version}; they "
            f"must have the same major and minor version. {_ADVICE}"
        )
    return Installed(torch, torch_npu, torch_version, torch_npu_version)


def _folder(package: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent


def _torch_version(folder: Path) -> tuple[str, str | None]:
    """Return the version of torch, and that of CUDA or ``None``, from ``torch/version.py``."""
    text = (folder / "version.py").read_text(encoding="utf-8")
    version = re.search(r"^__version__ = '([^']*)'", text, re.MULTILINE)
    cuda = re.search(r"^cuda(?:: [^=]*)? = '([^']*)'", text, re.MULTILINE)
    return (
        version.group(1) if version else importlib.metadata.version("torch"),
        cuda.group(1) if cuda else None,
    )


def _minor(version: str) -> tuple[str, ...]:
    return tuple(re.split(r"[.+]", version)[:2])

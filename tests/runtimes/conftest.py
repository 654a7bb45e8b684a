"""Environments with a fake package torch_npu that fails like the real one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from shufflenet_fn_backends.runtimes.npu import probe as probing
from shufflenet_fn_backends.runtimes.npu.probe import Found, probe

MINOR = ".".join(torch.__version__.split(".")[:2])

Installed = Callable[..., Path]
Chip = Callable[[int, str], None]

DEVICES = """
import types
import torch
__version__ = "{version}"
torch.npu = types.SimpleNamespace(
    device_count=lambda: {devices}, get_device_name=lambda index=None: "{soc}"
)
"""


@pytest.fixture
def torch_npu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installed]:
    """Install a package ``torch_npu`` with this body, in this process and those that it starts."""
    folder = tmp_path / "site"

    def install(body: str, *, version: str = f"{MINOR}.0") -> Path:
        package = folder / "torch_npu"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text(body)
        metadata = folder / f"torch_npu-{version}.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch_npu\nVersion: {version}\n")
        (metadata / "entry_points.txt").write_text("[torch.backends]\ntorch_npu = torch_npu:_autoload\n")
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.setenv("PYTHONPATH", str(folder))
        return folder

    probe.cache_clear()
    yield install
    probe.cache_clear()


@pytest.fixture
def chip(monkeypatch: pytest.MonkeyPatch) -> Iterator[Chip]:
    """Let so many NPUs of a kind be found, without a process that looks."""

    def give(devices: int, soc: str) -> None:
        found = Found(devices, soc, None, torch.__version__, f"{MINOR}.0")
        monkeypatch.setattr(probing, "look", lambda: found)

    probe.cache_clear()
    yield give
    probe.cache_clear()


def with_devices(devices: int, soc: str) -> str:
    """The body of a torch_npu that finds so many devices."""
    return DEVICES.format(version=f"{MINOR}.0", devices=devices, soc=soc)

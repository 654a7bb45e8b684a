"""Stages for Python, its packages, and the disk of the runs. Only the stage ``torch`` imports torch."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from shufflenet_fn.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding
from shufflenet_fn.io import flush
from shufflenet_fn_backends.known_errors import explain

OLDEST_TORCH = (2, 7)
_OLDEST_PYTHON = (3, 10)
# By import name, because OpenCV, for example, comes in several packages.
_NEEDED: Final[Mapping[str, str]] = {
    "numpy": "numpy",
    "safetensors": "safetensors",
    "cv2": "opencv-python-headless",
    "simplejpeg": "simplejpeg",
    "PIL": "pillow",
}


def python(facts: dict[str, Any]) -> Finding:
    """Check the interpreter, and the required packages besides torch."""
    version, machine = platform.python_version(), platform.machine()
    shown = {n: importlib.metadata.version(n) for n in ("typer", "rich") if importlib.util.find_spec(n)}
    text = ", ".join([f"Python {version}", *map(" ".join, shown.items()), f"{platform.system()} {machine}"])
    details = {"version": version, "machine": machine, "executable": sys.executable, **shown}
    if sys.version_info < _OLDEST_PYTHON or struct.calcsize("P") < 8:
        return Finding(FAILED, text, "Use a 64-bit Python 3.10 or newer.", details)
    missing = [package for name, package in _NEEDED.items() if importlib.util.find_spec(name) is None]
    if missing:
        fix = f"pip install {' '.join(missing)}"
        return Finding(FAILED, f"{text}; not installed: {', '.join(missing)}", fix, details)
    return Finding(OK, text, details=details)


def torch(facts: dict[str, Any]) -> Finding:
    """Check torch, without torch_npu, which torch would load by itself."""
    module = importlib.import_module("torch")
    build = module.version.cuda or module.version.hip
    kind = f"CUDA {module.version.cuda}" if module.version.cuda else f"ROCm {module.version.hip}"
    text = f"torch {module.__version__}, {kind if build else 'CPU build'}"
    details = {"version": module.__version__, "cuda": build}
    if tuple(map(int, module.__version__.split(".")[:2])) < OLDEST_TORCH:
        return Finding(FAILED, text, "Install torch 2.7 or newer.", details)
    return Finding(OK, text, details=details)


def torchvision(facts: dict[str, Any]) -> Finding:
    """Check torchvision, which only benchmarks and weights by its names need."""
    if importlib.util.find_spec("torchvision") is None:
        return Finding(SKIPPED, "not installed; only bench and --pretrained torchvision:NAME need it")
    try:
        module = importlib.import_module("torchvision")
    except Exception as error:  # training does without it
        known = explain(str(error))
        fix = str(known) if known else "Install the one that is made for this torch, or remove it."
        return Finding(WARNING, f"does not import: {error}", fix)
    return Finding(OK, f"torchvision {module.__version__}", details={"version": module.__version__})


def namesakes(facts: dict[str, Any]) -> Finding:
    """Find packages whose names mislead users of NPUs."""
    warnings: list[str] = []
    notes: list[str] = []
    fixes: list[str] = []
    details: dict[str, str] = {}
    for one in _NAMESAKES:
        try:
            distribution = importlib.metadata.distribution(one.package)
        except importlib.metadata.PackageNotFoundError:
            continue
        details[one.package] = distribution.version
        name = f"{one.package} {distribution.version}"
        if one.is_wrong(distribution):
            warnings.append(f"{name} {one.wrong}")
            fixes.append(one.fix)
        else:
            notes.append(f"{name} {one.right}")
    if not details:
        names = ", ".join(one.package for one in _NAMESAKES)
        return Finding(SKIPPED, f"none is installed of {names}; none is needed")
    return Finding(WARNING if warnings else OK, "; ".join([*warnings, *notes]), " ".join(fixes), details)


def _is_web_framework(apex: importlib.metadata.Distribution) -> bool:
    files = _files(apex)
    without_amp = files and not any(file.startswith(("apex/amp", "apex/optimizers")) for file in files)
    return bool(without_amp) or "pyramid" in " ".join(apex.requires or ()).lower()


def _is_empty(package: importlib.metadata.Distribution) -> bool:
    """Return whether a package named like CANN is empty. The one from Huawei's own index fills ascend/."""
    folder = Path(str(package.locate_file("ascend")))
    files = _files(package)
    only_metadata = bool(files) and all(".dist-info/" in file for file in files)
    return only_metadata and not any(folder.glob("*/set_env.sh"))


def _files(package: importlib.metadata.Distribution) -> list[str]:
    return [str(file) for file in package.files or ()]


class _Namesake(NamedTuple):
    """A misleading package name. ``wrong``, ``right``: text that follows name and version."""

    package: str
    is_wrong: Callable[[importlib.metadata.Distribution], bool]
    wrong: str = ""
    fix: str = ""
    right: str = ""


_NAMESAKES: Final = (
    _Namesake(
        "apex",
        _is_web_framework,
        wrong="is PyPI's package of that name, a web framework without apex.amp",
        fix="pip uninstall apex. Mixed precision needs no apex here: --amp --opt-level O1, O2 or O3.",
        right="is not used here",
    ),
    _Namesake(
        "ascend-cann-toolkit",
        _is_empty,
        wrong="is PyPI's placeholder, without CANN in it",
        fix="pip uninstall ascend-cann-toolkit, and install CANN from Huawei (docs/ascend.md).",
        right="is CANN",
    ),
    _Namesake(
        "ascend-cann-nnrt",
        _is_empty,
        wrong="is PyPI's, without CANN in it; it only asks for old versions of numpy and protobuf",
        fix="pip uninstall ascend-cann-nnrt, and install CANN's toolkit from Huawei (docs/ascend.md).",
        right="is CANN's runtime for inference; training needs the toolkit and the ops package",
    ),
    _Namesake(
        "functorch",
        lambda package: True,
        wrong="is an empty package of PyTorch's that asks for torch 2.0 or older",
        fix="pip uninstall functorch. torch has its functions as torch.func.",
    ),
    _Namesake(
        "ais-bench-benchmark",
        lambda package: False,
        right="measures language models; .om models are run by ais_bench and aclruntime, two wheels of "
        "Ascend's tools repository",
    ),
)


_SCARCE: Final = 2 * 2**30
"""Free bytes below which a disk counts as nearly full: about a hundred checkpoints of x2_0."""

_BLOCK, _BLOCKS = 2**20, 64


def disk(facts: dict[str, Any]) -> Finding:
    """Check that the folder of runs is writable, can be flushed to disk, and has free space."""
    folder = Path(facts["output"]).expanduser().absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir():
        return Finding(FAILED, f"{existing} is a file", "Name a folder with --output.")
    free = shutil.disk_usage(existing).free
    try:
        speed = _write_speed(existing)
    except OSError as error:
        return Finding(
            FAILED,
            f"cannot write in {existing}: {error.strerror or error}",
            "Make it writable or free some space, or name another folder with --output.",
            {"free_bytes": free},
        )
    text = f"{existing}: {free / 2**30:.1f} GiB free, {speed / 1e6:.0f} MB/s flushed to disk"
    details = {"folder": str(existing), "free_bytes": free, "bytes_per_s": speed}
    if free < _SCARCE:
        return Finding(WARNING, text, "Free some space: a run that cannot write stops.", details)
    return Finding(OK, text, details=details)


def _write_speed(folder: Path) -> float:
    """Return bytes per second for a new file: write, flush, rename, flush of its folder."""
    with tempfile.TemporaryDirectory(prefix=".shufflenet-fn-doctor-", dir=folder) as scratch:
        path = Path(scratch) / "block"
        block = os.urandom(_BLOCK)
        start = time.perf_counter()
        with open(path, "wb") as file:
            for _ in range(_BLOCKS):
                file.write(block)
        flush(path)
        path.rename(path.with_name("renamed"))
        flush(path.parent)
        return _BLOCK * _BLOCKS / (time.perf_counter() - start)

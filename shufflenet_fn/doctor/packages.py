"""Stages about Python and its packages."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
import struct
import sys
from types import MappingProxyType
from typing import Any, Final

from shufflenet_fn.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding

OLDEST_TORCH = (2, 7)
_OLDEST_PYTHON = (3, 10)
# By the name that is imported: OpenCV, for one, comes in several packages.
_NEEDED: Final = MappingProxyType(
    {
        "numpy": "numpy",
        "safetensors": "safetensors",
        "grain": "grain",
        "array_record": "array_record",
        "cv2": "opencv-python-headless",
        "simplejpeg": "simplejpeg",
        "PIL": "pillow",
    }
)


def python(facts: dict[str, Any]) -> Finding:
    """The interpreter, and the packages that are needed besides torch."""
    version, machine = platform.python_version(), platform.machine()
    text = f"Python {version}, {platform.system()} {machine}"
    details = {"version": version, "machine": machine, "executable": sys.executable}
    if sys.version_info < _OLDEST_PYTHON or struct.calcsize("P") < 8:
        return Finding(FAILED, text, "Use a 64-bit Python 3.10 or newer.", details)
    missing = [
        package for name, package in _NEEDED.items() if importlib.util.find_spec(name) is None
    ]
    if missing:
        fix = f"pip install {' '.join(missing)}"
        return Finding(FAILED, f"{text}; not installed: {', '.join(missing)}", fix, details)
    return Finding(OK, text, details=details)


def torch(facts: dict[str, Any]) -> Finding:
    """torch without torch_npu, which it would load by itself."""
    module = importlib.import_module("torch")
    build = module.version.cuda or module.version.hip
    kind = f"CUDA {module.version.cuda}" if module.version.cuda else f"ROCm {module.version.hip}"
    text = f"torch {module.__version__}, {kind if build else 'CPU build'}"
    details = {"version": module.__version__, "cuda": build}
    if tuple(map(int, module.__version__.split(".")[:2])) < OLDEST_TORCH:
        return Finding(FAILED, text, "Install torch 2.7 or newer.", details)
    return Finding(OK, text, details=details)


def torchvision(facts: dict[str, Any]) -> Finding:
    """torchvision, which only benchmarks and some tests need."""
    if importlib.util.find_spec("torchvision") is None:
        return Finding(SKIPPED, "not installed; only bench needs it")
    try:
        module = importlib.import_module("torchvision")
    except Exception as error:  # whatever it is, it concerns the benchmarks alone
        from shufflenet_fn_backends.known_errors import explain

        known = explain(str(error))
        fix = str(known) if known else "Install the one that is made for this torch, or remove it."
        return Finding(WARNING, f"does not import: {error}", fix)
    return Finding(OK, f"torchvision {module.__version__}", details={"version": module.__version__})


def apex(facts: dict[str, Any]) -> Finding:
    """Whether the package called apex is what its user thinks; nothing here needs any."""
    try:
        distribution = importlib.metadata.distribution("apex")
    except importlib.metadata.PackageNotFoundError:
        return Finding(SKIPPED, "not installed, and not needed: O1 to O3 are built in")
    details = {"version": distribution.version}
    files = [str(file) for file in distribution.files or ()]
    needs = " ".join(distribution.requires or ()).lower()
    is_web_framework = "pyramid" in needs or (
        bool(files) and not any(file.startswith(("apex/amp", "apex/optimizers")) for file in files)
    )
    if is_web_framework:
        return Finding(
            WARNING,
            f"apex {distribution.version} is PyPI's package of that name, a web framework without apex.amp",
            "pip uninstall apex. Mixed precision needs no apex here: --amp --opt-level O1, O2 or O3.",
            details,
        )
    return Finding(OK, f"apex {distribution.version}; not used here", details=details)

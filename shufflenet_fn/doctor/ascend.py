"""Stages about torch_npu and the CANN libraries under it."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import importlib.util
import os
import re
from pathlib import Path
from typing import Any

from shufflenet_fn.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding
from shufflenet_fn_backends.known_errors import explain
from shufflenet_fn_backends.known_errors.imports import SET_ENV
from shufflenet_fn_backends.runtimes.npu.probe import check_pair, not_installed

LIBRARIES = ("libascendcl.so", "libhccl.so", "libopapi.so")
_DRIVER = Path("/usr/local/Ascend/driver")
_SET_ENV_SCRIPTS = (
    "/usr/local/Ascend/cann/set_env.sh",
    "/usr/local/Ascend/ascend-toolkit/set_env.sh",
    "~/Ascend/cann/set_env.sh",
    "~/Ascend/ascend-toolkit/set_env.sh",
)
_HOMES = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")


def torch_npu(facts: dict[str, Any]) -> Finding:
    """Whether torch_npu is there, fits torch, and can be imported."""
    torch_version = facts["torch"]["version"]
    if importlib.util.find_spec("torch_npu") is None:
        if facts["device"] == "npu":
            return Finding(FAILED, "not installed", f"{not_installed(torch_version)}.")
        return Finding(SKIPPED, "not installed; only Ascend NPUs need it")
    version = importlib.metadata.version("torch_npu")
    details = {"version": version}
    wrong_pair = check_pair(torch_version, version)
    if wrong_pair is not None:
        return Finding(
            FAILED, f"torch_npu {version} beside torch {torch_version}", f"{wrong_pair}."
        )
    try:
        importlib.import_module("torch_npu")
    except (ImportError, OSError, RuntimeError) as error:
        cuda = facts["torch"]["cuda"]
        known = explain("Two accelerators cannot be used at the same time" if cuda else str(error))
        fix = str(known) if known else "Check that torch, torch_npu, CANN and driver go together."
        text = f"torch_npu {version} does not import: {_first_line(error)}"
        return Finding(FAILED, text, fix, details)
    return Finding(OK, f"torch_npu {version}", details=details)


def autoload(facts: dict[str, Any]) -> Finding:
    """Whether ``import torch`` survives loading torch_npu by itself."""
    importlib.import_module("torch")
    return Finding(OK, "import torch loads torch_npu")


def cann(facts: dict[str, Any]) -> Finding:
    """Which of CANN's libraries this process can load, its version and the driver's."""
    if facts["torch_npu"]["status"] == SKIPPED:
        return Finding(SKIPPED, "needed with torch_npu only")
    problems = {name: _cannot_load(name) for name in LIBRARIES}
    missing = {name: problem for name, problem in problems.items() if problem}
    details = {"missing": sorted(missing), "version": _cann_version(), "driver": _driver_version()}
    if missing:
        first = next(iter(missing.values()))
        text = f"cannot load {', '.join(missing)} ({first})"
        return Finding(FAILED, text, _how_to_set_up(), details)
    emulated = _emulated()
    if emulated is not None:
        return Finding(
            WARNING,
            "emulated by shufflenet-fn: it proves calls, types, shapes and launch counts, not speed, memory "
            "or a chip's rounding",
            details={**details, "emulator": emulated},
        )
    version = details["version"] or "of unknown version"
    driver = details["driver"] or "of unknown version"
    return Finding(OK, f"CANN {version}, driver {driver}", details=details)


def _cannot_load(library: str) -> str | None:
    try:
        ctypes.CDLL(library)
    except OSError as error:
        return str(error)
    return None


def _how_to_set_up() -> str:
    homes = [f"{name}={os.environ[name]}" for name in _HOMES if os.environ.get(name)]
    scripts = [path for path in _SET_ENV_SCRIPTS if Path(path).expanduser().exists()]
    if homes:
        return (
            f"{homes[0]} is set, but its libraries are not in LD_LIBRARY_PATH, or not all packages are "
            "installed: toolkit and ops package of one version are needed. Source its set_env.sh again."
        )
    if scripts:
        return (
            f"CANN is installed, but its environment is not set in this shell: source {scripts[0]}"
        )
    return (
        f"Install CANN's toolkit and ops package, then run `{SET_ENV}` in this shell; docs/ascend.md has the "
        "versions."
    )


def _cann_version() -> str | None:
    """From the install information that CANN's packages leave beside them."""
    for name in _HOMES:
        home = os.environ.get(name)
        for pattern in (
            "*/ascend_toolkit_install.info",
            "ascend_toolkit_install.info",
            "version.cfg",
        ):
            for file in sorted(Path(home).glob(pattern)) if home else ():
                found = re.search(r"version\w*=\[?(?:[\w.]+:)?([\w.]+)", _read(file), re.I)
                if found:
                    return found.group(1)
    return None


def _driver_version() -> str | None:
    found = re.search(r"Version=([\w.]+)", _read(_DRIVER / "version.info"))
    return found.group(1) if found else None


def _emulated() -> str | None:
    """The folder of the emulated libascendcl.so, if that is what was loaded."""
    for line in _read(Path("/proc/self/maps")).splitlines():
        path = Path(line.rpartition(" ")[2])
        if path.name.startswith("libascendcl.so") and "shufflenet-fn" in path.parts:
            return str(path.parent)
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0][:300]

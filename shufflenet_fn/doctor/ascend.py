"""Stages for torch_npu and CANN's libraries."""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import importlib.util
import os
import re
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shufflenet_fn.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding
from shufflenet_fn_backends.known_errors import explain
from shufflenet_fn_backends.runtimes.npu.probe import check_pair, not_installed

SET_ENV = "source /usr/local/Ascend/cann/set_env.sh"
LIBRARIES = ("libascendcl.so", "libhccl.so", "libopapi.so")
_DRIVER = Path("/usr/local/Ascend/driver")
# Paths since CANN 8.5, and older ones. Ascend's pages disagree on the version, so search both.
_PLACES = ("cann", "ascend-toolkit/latest", "ascend-toolkit")
_OTHER_SET_ENV = "/usr/local/Ascend/ascend-toolkit/set_env.sh"
HOMES = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")


def torch_npu(facts: dict[str, Any]) -> Finding:
    """Check that torch_npu is installed, matches torch, and can be imported."""
    torch_version = facts["torch"]["version"]
    if importlib.util.find_spec("torch_npu") is None:
        if facts["device"] == "npu":
            return Finding(FAILED, "not installed", f"{not_installed(torch_version)}.")
        return Finding(SKIPPED, "not installed; only Ascend NPUs need it")
    version = importlib.metadata.version("torch_npu")
    details = {"version": version}
    wrong_pair = check_pair(torch_version, version)
    if wrong_pair is not None:
        return Finding(FAILED, f"torch_npu {version} beside torch {torch_version}", f"{wrong_pair}.", details)
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
    """Check that ``import torch`` works when torch loads torch_npu by itself."""
    importlib.import_module("torch")
    return Finding(OK, "import torch loads torch_npu")


def cann(facts: dict[str, Any]) -> Finding:
    """Check that this process can load CANN's libraries, and find the versions of CANN and driver."""
    if facts["torch_npu"]["status"] == SKIPPED:
        return Finding(SKIPPED, "needed with torch_npu only")
    problems = {name: _cannot_load(name) for name in LIBRARIES}
    missing = {name: problem for name, problem in problems.items() if problem}
    details = {"missing": sorted(missing), "version": cann_version(), "driver": _driver_version()}
    if missing:
        first = next(iter(missing.values()))
        text = f"cannot load {', '.join(missing)} ({first})"
        return Finding(FAILED, text, how_to_set_up(), details)
    emulated = _emulated()
    if emulated is not None:
        return Finding(
            WARNING,
            "emulated (ascend-emulator): proves calls, types, shapes and launch counts, not speed, memory "
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


def how_to_set_up(
    environment: Mapping[str, str] = os.environ, *, roots: tuple[Path, ...] | None = None
) -> str:
    """Return what to do if CANN's libraries are not found. ``roots``: see ``cann_version``."""
    homes = [f"{name}={environment[name]}" for name in HOMES if environment.get(name)]
    scripts = [path / "set_env.sh" for path in installations(roots)]
    scripts = [path for path in scripts if path.exists()]
    if homes:
        return (
            f"{homes[0]} is set, but its libraries are not in LD_LIBRARY_PATH, or not all packages are "
            "installed: toolkit and ops package of one version are needed. Source its set_env.sh again."
        )
    if scripts:
        return f"CANN is installed, but its environment is not set in this shell: source {scripts[0]}"
    return (
        f"Install CANN's toolkit and ops package, then run `{SET_ENV}` (or {_OTHER_SET_ENV}, whichever "
        "exists) in this shell; docs/ascend.md has the versions."
    )


def cann_version(
    environment: Mapping[str, str] = os.environ, *, roots: tuple[Path, ...] | None = None
) -> str | None:
    """Return the version in the install information of CANN's packages, or ``None``.

    Args:
        environment: ASCEND_HOME_PATH may name the installation in use.
        roots: folders to search otherwise; defaults to /usr/local/Ascend, ~/Ascend, and ascend in
            site-packages, where pip installs CANN.
    """
    named = [Path(environment[name]) for name in HOMES if environment.get(name)]
    for home in named or installations(roots):
        for pattern in ("*/ascend_toolkit_install.info", "ascend_toolkit_install.info", "version.cfg"):
            for file in sorted(home.glob(pattern)):
                found = re.search(r"version\w*=\[?(?:[\w.]+:)?([\w.]+)", _read(file), re.I)
                if found:
                    return found.group(1)
    return None


def installations(roots: tuple[Path, ...] | None = None) -> list[Path]:
    """Return the folders where CANN may be, the likeliest first. ``roots``: see ``cann_version``."""
    if roots is None:
        site = Path(sysconfig.get_path("purelib"))
        roots = (Path("/usr/local/Ascend"), Path("~/Ascend").expanduser(), site / "ascend")
    return [
        place
        for root in roots
        for place in (*(root / name for name in _PLACES), *sorted(root.glob("cann-*"), reverse=True))
    ]


def _driver_version() -> str | None:
    found = re.search(r"Version=([\w.]+)", _read(_DRIVER / "version.info"))
    return found.group(1) if found else None


def _emulated() -> str | None:
    """Return the folder of libascendcl.so if the loaded one is the emulator's, else ``None``."""
    for line in _read(Path("/proc/self/maps")).splitlines():
        path = Path(line.rpartition(" ")[2])
        if path.name.startswith("libascendcl.so") and "ascend-emulator" in path.parts:
            return str(path.parent)
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _first_line(error: Exception) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0][:300]

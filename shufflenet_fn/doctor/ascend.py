"""Stages for torch_npu, CANN and the machine of an NPU: versions, permissions, network card and variables.

The inputs of this machine are the defaults of further arguments, so that tests can describe another one.
"""

from __future__ import annotations

import ctypes
import grp
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import pwd
import re
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from shufflenet_fn.distributed.network import addresses
from shufflenet_fn.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding
from shufflenet_fn_backends.known_errors import explain
from shufflenet_fn_backends.runtimes.npu import pairs
from shufflenet_fn_backends.runtimes.npu.environment import ALLOC_CONF, RECOMMENDED, emulated
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
        said = (str(error).strip() or repr(error)).splitlines()[0][:300]
        return Finding(FAILED, f"torch_npu {version} does not import: {said}", fix, details)
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
    driver = re.search(r"Version=([\w.]+)", _read(_DRIVER / "version.info"))
    details = {"missing": sorted(missing), "version": cann_version(), "driver": driver and driver[1]}
    if missing:
        first = next(iter(missing.values()))
        text = f"cannot load {', '.join(missing)} ({first})"
        return Finding(FAILED, text, how_to_set_up(), details)
    if emulated():
        text = (
            "emulated (ascend-emulator): proves calls, types, shapes and launch counts, not speed, memory "
            "or a chip's rounding"
        )
        return Finding(WARNING, text, details={**details, "emulator": True})
    known = [details[name] or "of unknown version" for name in ("version", "driver")]
    return Finding(OK, f"CANN {known[0]}, driver {known[1]}", details=details)


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
    if homes:
        return (
            f"{homes[0]} is set, but its libraries are not in LD_LIBRARY_PATH, or not all packages are "
            "installed: toolkit and ops package of one version are needed. Source its set_env.sh again."
        )
    for script in (folder / "set_env.sh" for folder in installations(roots)):
        if script.exists():
            return f"CANN is installed, but its environment is not set in this shell: source {script}"
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


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


_GLIBC: Final = (2, 28)
"""Wheels of torch, torch_npu and OpenCV are manylinux_2_28."""

_SHARED_FILES: Final = ("davinci_manager", "devmm_svm", "hisi_hdc")
_DRIVERS_GROUP: Final = "HwHiAiUser"
_NPU_ALLOC_CONF: Final = "PYTORCH_NPU_ALLOC_CONF"
_QUEUE: Final = "TASK_QUEUE_ENABLE"


def glibc(facts: dict[str, Any], libc: tuple[str, str] | None = None) -> Finding:
    """Check that the C library (name, version) is new enough for the wheels."""
    name, version = libc or platform.libc_ver()
    if name != "glibc":
        return Finding(SKIPPED, "not a system with glibc")
    if tuple(map(int, version.split(".")[:2])) < _GLIBC:
        fix = (
            "Use a newer system or container: openEuler 20.03, Ubuntu 20.04 or newer. CentOS 7, EulerOS "
            "2.8 and Ubuntu 18.04 are too old."
        )
        return Finding(WARNING, f"glibc {version}; torch's and torch_npu's wheels need 2.28", fix)
    return Finding(OK, f"glibc {version} (2.28 or newer is needed)")


def numpy(facts: dict[str, Any], installed: str | None = None) -> Finding:
    """Check that numpy is compatible with CANN, whose operator compiler imports it."""
    installed, cann = installed or importlib.metadata.version("numpy"), facts["cann"].get("version")
    if pairs.numpy_bound(cann) and int(installed.partition(".")[0]) >= 2:
        text = (
            f"numpy {installed} beside CANN {cann}: its operator compiler fails with numpy 2 (error 500001)"
        )
        return Finding(WARNING, text, f"pip install '{pairs.NUMPY_1}'")
    return Finding(OK, f"numpy {installed}; no bound is known for CANN {cann or 'of unknown version'}")


def device_files(facts: dict[str, Any], dev: Path = Path("/dev")) -> Finding:
    """Check that this user may open the NPU's device files in ``dev``."""
    if facts["cann"].get("emulator"):
        return Finding(SKIPPED, "CANN is emulated")
    wrong = FAILED if facts["device"] == "npu" else WARNING
    devices = sorted(path for path in dev.glob("davinci*") if path.name[7:].isdigit())
    if not devices:
        return Finding(SKIPPED, f"there is no {dev}/davinci0")
    paths = (*devices, *(dev / name for name in _SHARED_FILES))
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        fix = f"Pass them to the container: {' '.join(f'--device {path}' for path in missing)}"
        return Finding(wrong, f"no {', '.join(missing)}", fix)
    closed = [path for path in paths if not os.access(path, os.R_OK | os.W_OK, effective_ids=True)]
    if closed:
        number = closed[0].stat().st_gid
        fix = (
            f"Add this user to group {_group(number)}: sudo usermod -aG {_group(number)} USER, then log in "
            f"again; in a container: docker run --group-add {number}"
        )
        text = f"no right to read and write {', '.join(map(str, closed))}"
        return Finding(wrong, text, fix)
    return Finding(OK, f"{len(devices)} devices in {dev}, readable and writable")


def user(facts: dict[str, Any], uid: int | None = None) -> Finding:
    """Check that the user has a passwd entry, which HCCL and torch.compile look up."""
    uid = os.geteuid() if uid is None else uid
    try:
        return Finding(OK, f"user {pwd.getpwuid(uid).pw_name} ({uid})")
    except KeyError:
        fix = (
            f"Add one in the image: useradd -u {uid} NAME; or mount a file with such an entry at "
            "/etc/passwd. Without it HCCL fails with error code 19 (HcclGetRootInfo)."
        )
        return Finding(WARNING, f"user number {uid} has no passwd entry", fix)


def folder(facts: dict[str, Any], path: Path | None = None) -> Finding:
    """Check that CANN can write its ``kernel_meta`` into the current folder."""
    path = path or Path.cwd()
    if os.access(path, os.W_OK | os.X_OK, effective_ids=True):
        return Finding(OK, f"{path} is writable")
    fix = "Start in a folder that you can write, or set ASCEND_WORK_PATH and ASCEND_CACHE_PATH to one."
    return Finding(WARNING, f"{path} is not writable, and CANN writes kernel_meta there", fix)


def network(
    facts: dict[str, Any], environment: Mapping[str, str] = os.environ, cards: Mapping[str, str] | None = None
) -> Finding:
    """Find the network card of the host that HCCL uses, by its documented order. ``cards``: address to name.

    Source: hccl, docs/zh/user_guide/hccl_env/HCCL_IF_IP.md and HCCL_SOCKET_IFNAME.md, at 09300b7.
    """
    cards = addresses() if cards is None else cards
    address, wanted = environment.get("HCCL_IF_IP"), environment.get("HCCL_SOCKET_IFNAME")
    names = sorted(set(cards.values()))
    listed = ", ".join(names) or "none"
    if address:
        if address not in cards:
            fix = f"Unset HCCL_IF_IP, or give it one of: {', '.join(cards) or 'none'}."
            return Finding(WARNING, f"HCCL_IF_IP={address} is no address of this machine", fix)
        return Finding(OK, f"HCCL takes {cards[address]}, by HCCL_IF_IP={address}")
    if wanted:
        fitting = _fitting(names, wanted)
        if not fitting:
            fix = f"Unset HCCL_SOCKET_IFNAME, or name one of the cards with an address: {listed}."
            return Finding(WARNING, f"HCCL_SOCKET_IFNAME={wanted} fits no card", fix)
        others = f" (it fits {', '.join(fitting[1:])} too)" if len(fitting) > 1 else ""
        return Finding(OK, f"HCCL takes {fitting[0]}, by HCCL_SOCKET_IFNAME={wanted}{others}")
    if not names:
        return Finding(WARNING, "no network card has an address", "HCCL needs one: see ip address.")
    taken = min(names, key=lambda name: (name == "lo", name.startswith("docker"), name))
    choice = "; HCCL_SOCKET_IFNAME names another" if len(names) > 1 else ""
    return Finding(OK, f"HCCL takes {taken} of {listed}{choice}", details={"card": taken})


def variables(facts: dict[str, Any], environment: Mapping[str, str] = os.environ) -> Finding:
    """Find variables of torch_npu with invalid values, and those that this torch_npu does not read."""
    torch_npu = facts["torch_npu"].get("version")
    queue = environment.get(_QUEUE)
    if queue is not None and queue not in ("0", "1", "2"):
        return Finding(WARNING, f"{_QUEUE}={queue}", f"Set {_QUEUE} to 0, 1 or 2, or unset it.")
    if environment.get(ALLOC_CONF):
        if not pairs.reads_alloc_conf(torch_npu):
            fix = f"Set {_NPU_ALLOC_CONF} instead; left out, a run sets it to {RECOMMENDED[_NPU_ALLOC_CONF]}."
            return Finding(WARNING, f"torch_npu {torch_npu} does not read {ALLOC_CONF} (26.2.0 on does)", fix)
        if environment.get(_NPU_ALLOC_CONF):
            text = f"{ALLOC_CONF} and {_NPU_ALLOC_CONF} are both set, which torch_npu {torch_npu} refuses"
            return Finding(FAILED, text, f"Unset {ALLOC_CONF}.")
    said = f"{_QUEUE}={queue}" if queue else f"{_QUEUE} not set; a run sets {RECOMMENDED[_QUEUE]}"
    graphs = " (NPU graphs need 0 or 1)" if (queue or RECOMMENDED[_QUEUE]) == "2" else ""
    return Finding(OK, f"{said}{graphs}")


def versions(facts: dict[str, Any]) -> Finding:
    """Check that torch, torch_npu and CANN are in Ascend's table."""
    if facts["cann"].get("emulator"):
        return Finding(SKIPPED, "CANN is emulated")
    installed = str(facts["torch_npu"]["version"])
    found = pairs.compatibility(
        facts["torch"]["version"], installed, facts["cann"].get("version"), machine=platform.machine()
    )
    return Finding(OK if found.fits else WARNING, found.text, found.fix)


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return _DRIVERS_GROUP


def _fitting(names: list[str], wanted: str) -> list[str]:
    """Return the cards that match HCCL_SOCKET_IFNAME: ``eth,enp``, ``^eth``, ``=eth0`` or ``^=eth0``.

    The first is the one whose pattern comes first. HCCL's documentation says only "first matched".
    """
    patterns = wanted.removeprefix("^").removeprefix("=")
    parts = [part for part in patterns.split(",") if part]
    exact = wanted.removeprefix("^").startswith("=")

    def matches(name: str) -> list[bool]:
        return [name == part if exact else name.startswith(part) for part in parts]

    if wanted.startswith("^"):
        return [name for name in names if not any(matches(name))]
    fitting = [name for name in names if any(matches(name))]
    return sorted(fitting, key=lambda name: matches(name).index(True))

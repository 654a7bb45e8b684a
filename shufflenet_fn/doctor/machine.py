"""Stages for the machine of an NPU: versions, permissions, network card and variables. None imports torch.

The inputs of this machine are the defaults of further arguments, so that tests can describe another one.
"""

from __future__ import annotations

import grp
import importlib.metadata
import os
import platform
import pwd
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from shufflenet_fn.distributed.network import addresses
from shufflenet_fn.doctor.finding import FAILED, OK, SKIPPED, WARNING, Finding
from shufflenet_fn_backends.runtimes.npu import pairs
from shufflenet_fn_backends.runtimes.npu.environment import ALLOC_CONF, RECOMMENDED

_GLIBC: Final = (2, 28)
"""Wheels of torch, torch_npu and OpenCV are manylinux_2_28."""

_SHARED_FILES: Final = ("davinci_manager", "devmm_svm", "hisi_hdc")
_DRIVERS_GROUP: Final = "HwHiAiUser"
_NPU_ALLOC_CONF: Final = "PYTORCH_NPU_ALLOC_CONF"
_QUEUE: Final = "TASK_QUEUE_ENABLE"


def check_glibc(version: str | None) -> Finding:
    """Check that the C library is new enough for the wheels. ``version`` is for example ``glibc 2.31``."""
    if version is None or not version.startswith("glibc "):
        return Finding(SKIPPED, "not a system with glibc")
    found = tuple(map(int, version.removeprefix("glibc ").split(".")[:2]))
    if found < _GLIBC:
        fix = (
            "Use a newer system or container: openEuler 20.03, Ubuntu 20.04 or newer. CentOS 7, EulerOS "
            "2.8 and Ubuntu 18.04 are too old."
        )
        return Finding(WARNING, f"{version}; torch's and torch_npu's wheels need 2.28", fix)
    return Finding(OK, f"{version} (2.28 or newer is needed)")


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
        fitting = [name for name in names if _matches(name, wanted)]
        if not fitting:
            fix = f"Unset HCCL_SOCKET_IFNAME, or name one of the cards with an address: {listed}."
            return Finding(WARNING, f"HCCL_SOCKET_IFNAME={wanted} fits no card", fix)
        others = f" (it fits {', '.join(fitting)} too)" if len(fitting) > 1 else ""
        taken = _first_named(fitting, wanted)
        return Finding(OK, f"HCCL takes {taken}, by HCCL_SOCKET_IFNAME={wanted}{others}")
    if not names:
        return Finding(WARNING, "no network card has an address", "HCCL needs one: see ip address.")
    taken = min(names, key=lambda name: (name == "lo", name.startswith("docker"), name))
    choice = "; HCCL_SOCKET_IFNAME names another" if len(names) > 1 else ""
    return Finding(OK, f"HCCL takes {taken} of {listed}{choice}", details={"card": taken})


def variables(facts: dict[str, Any], environment: Mapping[str, str] = os.environ) -> Finding:
    """Find variables of torch_npu with invalid values, and those that this torch_npu does not read."""
    torch_npu = facts["torch_npu"].get("version")
    queue = environment.get(_QUEUE)
    both = environment.get(ALLOC_CONF) and environment.get(_NPU_ALLOC_CONF)
    if queue is not None and queue not in ("0", "1", "2"):
        return Finding(WARNING, f"{_QUEUE}={queue}", f"Set {_QUEUE} to 0, 1 or 2, or unset it.")
    if both and pairs.reads_alloc_conf(torch_npu):
        text = f"{ALLOC_CONF} and {_NPU_ALLOC_CONF} are both set, which torch_npu {torch_npu} refuses"
        return Finding(FAILED, text, f"Unset {ALLOC_CONF}.")
    if environment.get(ALLOC_CONF) and not pairs.reads_alloc_conf(torch_npu):
        fix = f"Set {_NPU_ALLOC_CONF} instead; left out, a run sets it to {RECOMMENDED[_NPU_ALLOC_CONF]}."
        return Finding(WARNING, f"torch_npu {torch_npu} does not read {ALLOC_CONF} (26.2.0 on does)", fix)
    said = f"{_QUEUE} not set; a run sets {RECOMMENDED[_QUEUE]}"
    if queue is not None:
        said = f"{_QUEUE}={queue}"
    graphs = " (NPU graphs need 0 or 1)" if (queue or RECOMMENDED[_QUEUE]) == "2" else ""
    return Finding(OK, f"{said}{graphs}")


def glibc(facts: dict[str, Any]) -> Finding:
    """Check the C library of this system."""
    try:
        return check_glibc(os.confstr("CS_GNU_LIBC_VERSION"))
    except (ValueError, OSError):
        return check_glibc(None)


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


def _matches(name: str, wanted: str) -> bool:
    """Return whether a card matches HCCL_SOCKET_IFNAME: ``eth,enp``, ``^eth``, ``=eth0`` or ``^=eth0``."""
    no = wanted.startswith("^")
    rest = wanted.removeprefix("^")
    exact = rest.startswith("=")
    parts = [part for part in rest.removeprefix("=").split(",") if part]
    fits = any(name == part if exact else name.startswith(part) for part in parts)
    return fits != no


def _first_named(fitting: list[str], wanted: str) -> str:
    """Return the card whose pattern comes first. HCCL's documentation says only "first matched"."""
    if wanted.startswith("^"):
        return fitting[0]
    parts = wanted.removeprefix("=").split(",")
    return min(fitting, key=lambda name: [not name.startswith(part) for part in parts])

"""The environment variables of a process that runs on the emulator."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from ascend_emulator.build import LIBRARIES
from ascend_emulator.errors import UsageError

_PREFIX = "ASCEND_EMULATOR_"
REPORT = f"{_PREFIX}REPORT"
MOST_DEVICES = 64
DEFAULT_SOC = "Ascend910B1"
SOCS = (
    "Ascend910A",
    "Ascend910ProA",
    "Ascend910PremiumA",
    "Ascend910B",
    "Ascend910ProB",
    "Ascend910B1",
    "Ascend910B2",
    "Ascend910B2C",
    "Ascend910B3",
    "Ascend910B4",
    "Ascend910B4-1",
    "Ascend910_9362",
    "Ascend910_9372",
    "Ascend910_9381",
    "Ascend910_9382",
    "Ascend910_9391",
    "Ascend910_9392",
    "Ascend950PR_9589",
)
_SIZE = re.compile(r"[1-9][0-9]{0,8}(B|KiB|MiB|GiB)?")
_FAULT = re.compile(
    r"(alloc|op|op:\w+|overflow|overflow:\w+|device:busy|hccl:(hang|kill|async|busy))@[1-9]\d*(#\d+)?"
)


class Machine(NamedTuple):
    """The emulated machine. ``memory``: that of each device, such as ``8GiB``; ``None`` for the default."""

    devices: int = 1
    memory: str | None = None
    soc: str = DEFAULT_SOC
    faults: str | None = None


def variables(
    libraries: Path, machine: Machine, *, report: str | None = None, base: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return the variables to set in addition to ``base``: the libraries' folder, and the machine.

    ``LD_LIBRARY_PATH`` must contain the folder before Python starts, so the variables are for a new process.
    A real CANN in ``base`` comes after the emulator.

    Args:
        libraries: folder of the emulator's libraries.
        machine: the emulated machine.
        report: file for the counts that each process writes when it ends; ``{pid}`` is replaced by its
            number.
        base: the environment to extend.

    Raises:
        UsageError: a value of ``machine`` is not valid.
    """
    check(machine)
    rest = [
        folder
        for folder in base.get("LD_LIBRARY_PATH", "").split(":")
        if folder and folder not in (str(libraries), base.get(LIBRARIES))
    ]
    values = {
        "LD_LIBRARY_PATH": ":".join([str(libraries), *rest]),
        LIBRARIES: str(libraries),
        "ASCEND_HOME_PATH": str(libraries),
        "ASCEND_OPP_PATH": str(libraries / "opp"),
        f"{_PREFIX}DEVICES": str(machine.devices),
        f"{_PREFIX}SOC": machine.soc,
    }
    if machine.memory is not None:
        values[f"{_PREFIX}MEMORY"] = machine.memory
    if machine.faults is not None:
        values[f"{_PREFIX}FAULTS"] = machine.faults
    if report is not None:
        values[REPORT] = report
    return values


def check(machine: Machine) -> None:
    """Check the values of a machine. Call it before the libraries are built.

    Raises:
        UsageError: a value is not valid; the message names the option.
    """
    if not 0 <= machine.devices <= MOST_DEVICES:
        raise UsageError(f"--devices is {machine.devices}; it must be from 0 to {MOST_DEVICES}.")
    if machine.memory is not None and not _SIZE.fullmatch(machine.memory):
        raise UsageError(
            f"--memory is {machine.memory!r}; it must be a size such as 512MiB or 8GiB (units: B, KiB, MiB, "
            "GiB)."
        )
    if machine.soc not in SOCS:
        raise UsageError(f"--soc is {machine.soc!r}; it must be one of: {', '.join(SOCS)}.")
    for fault in (machine.faults or "").split(",") if machine.faults is not None else ():
        if not _FAULT.fullmatch(fault):
            raise UsageError(
                f"--faults has {fault!r}; each must be alloc@N, op@N, op:NAME@N, overflow@N, "
                "overflow:NAME@N, device:busy@N, hccl:hang@N, hccl:kill@N, hccl:async@N or hccl:busy@N with "
                "N from 1, and #RANK after it if only that rank shall fail."
            )

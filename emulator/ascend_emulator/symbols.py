"""Stubs for the CANN functions that torch_npu needs and the emulator does not have. Each fails with its name.

Without them, the dynamic loader refuses torch_npu, with the first missing name. Operators are looked up at
run time: see ``missing.py``.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from ascend_emulator.compiling import Failed

# Names that CANN's libraries define. All other undefined names of torch_npu are in torch or the system.
_CANN = re.compile(r"^(acl|Acl|Hccl|hccl|Msprof|Ge[A-Z]|rt[A-Z]|_ZNK?2ge)")


def torch_npu_libraries(package: Path) -> list[Path]:
    """Return the libraries that ``import torch_npu`` loads, without torchair (graphs) and ATB."""
    names = ("libtorch_npu.so", "libtensorpipe.so", "libnpu_profiler.so")
    return [*package.glob("_C*.so"), *(package / "lib" / name for name in names)]


def needed(libraries: Sequence[Path]) -> set[str]:
    """Return the names of CANN functions that the libraries need at load time and do not define."""
    names = _names(libraries, "--undefined-only") - _names(libraries, "--defined-only")
    return {name for name in names if _CANN.match(name)}


def defined(objects: Iterable[Path]) -> set[str]:
    """Return the names that object files define."""
    return _names(objects, "--defined-only", "--extern-only", dynamic=False)


def stubs(names: Iterable[str], file: str) -> str:
    """Return C++ source that defines the names as functions that fail and name the ``file`` to edit."""
    lines = [
        "// Made by the build: functions that torch_npu knows and the emulator does not have.",
        '#include "emulator.hpp"',
    ]
    for name in sorted(names):
        lines.append(
            f'extern "C" EMULATOR_API int {name}() {{ return emulator::missing("{name}", "{file}"); }}'
        )
    return "\n".join(lines) + "\n"


def _names(files: Iterable[Path], *options: str, dynamic: bool = True) -> set[str]:
    command = ["nm", *(("--dynamic",) if dynamic else ()), "--format=posix", *options]
    done = subprocess.run([*command, *map(str, files)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"nm: exit code {done.returncode}\n{done.stderr.strip()}")
    lines = (line.split(" ", 1)[0] for line in done.stdout.splitlines())
    return {line.split("@", 1)[0] for line in lines if line and not line.endswith(":")}

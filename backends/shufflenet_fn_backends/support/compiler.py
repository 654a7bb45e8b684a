"""Finding the C++ compiler of this machine, for the kernels of backend `cpu` and the image reader."""

from __future__ import annotations

import os
import shlex
import shutil

from shufflenet_fn_backends.support.errors import DeviceError

INSTALL = (
    "Install one (Debian and Ubuntu: apt install g++; Fedora and openEuler: dnf install gcc-c++)"
)


def find_compiler(advice: str) -> list[str]:
    """The command of the C++ compiler: ``$CXX``, which may have arguments, or ``g++``.

    Raises:
        DeviceError: it is not there; ends with ``advice``.
    """
    asked = os.environ.get("CXX", "").strip()
    command = words_of("CXX", asked or "g++")
    if shutil.which(command[0]):
        return command
    raise DeviceError(
        f"no C++ compiler: $CXX is {asked!r}, which is not a program here. {advice}"
        if asked
        else f"no C++ compiler: there is no g++. {advice}"
    )


def words_of(name: str, value: str) -> list[str]:
    """The words of a variable's value, as a shell splits them.

    Raises:
        DeviceError: its quotes do not match.
    """
    try:
        return shlex.split(value)
    except ValueError as error:
        raise DeviceError(f"cannot read ${name}, which is {value!r}: {error}.") from error

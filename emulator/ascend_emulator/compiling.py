"""Compilation of the emulator's sources to objects, cached under names that depend on all their inputs."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from ascend_emulator.errors import DeviceError
from ascend_emulator.installed import Installed

SOURCES = Path(__file__).with_name("sources")
_COMPILER_ADVICE = (
    "Install one (Debian and Ubuntu: apt install g++; Fedora and openEuler: dnf install gcc-c++), or name "
    "yours in $CXX."
)
# -O1, because most of the run time is in ATen, which is built already, and the build should be fast.
_FLAGS = ("-std=c++20", "-O1", "-g1", "-fPIC", "-fvisibility=hidden", "-DFUNC_VISIBILITY", "-Wall")
# ATen's headers contain hundreds of sign comparisons and unused parameters.
_QUIET = ("-Wno-sign-compare", "-Wno-attributes", "-Wno-deprecated-declarations")
PRECOMPILED = "precompiled.hpp"
_FEW = 4
_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


class Toolchain(NamedTuple):
    """The compiler, its command with the flags for all files, and a fingerprint of both."""

    compiler: tuple[str, ...]
    command: tuple[str, ...]
    fingerprint: str


class Failed(Exception):
    """The compiler failed. The text is the compiler's output."""


def toolchain(installed: Installed) -> Toolchain:
    """Return the toolchain: ``$CXX`` or ``g++``, with the folders of torch's and torch_npu's headers.

    Raises:
        DeviceError: there is no compiler.
    """
    compiler = _compiler()
    acl = installed.torch_npu / "include" / "third_party" / "acl" / "inc"
    hccl = installed.torch_npu / "include" / "third_party" / "hccl" / "inc"
    torch = installed.torch / "include"
    system = (acl, hccl, installed.torch_npu / "include", torch, torch / "torch/csrc/api/include")
    folders = ("-I", str(SOURCES), *(word for folder in system for word in ("-isystem", str(folder))))
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False)
    # The versions of the packages identify their headers, wherever they are.
    facts = (version.stdout, installed.torch_version, installed.torch_npu_version)
    flags = (*compiler, *_FLAGS, *_QUIET)
    return Toolchain(tuple(compiler), (*flags, *folders), _digest(" ".join((*flags, *facts)).encode()))


def _compiler() -> list[str]:
    asked = os.environ.get("CXX", "").strip()
    try:
        command = shlex.split(asked or "g++")
    except ValueError as error:
        raise DeviceError(f"cannot read $CXX, which is {asked!r}: {error}.") from error
    if shutil.which(command[0]):
        return command
    missing = f"$CXX is {asked!r}, which is not a program here" if asked else "there is no g++"
    raise DeviceError(f"no C++ compiler: {missing}. {_COMPILER_ADVICE}")


def object_name(tools: Toolchain, source: Path) -> str:
    """Return the object's name, which depends on the source, our headers in it, and the toolchain.

    It doesn't depend on where these are, so that environments and checkouts share objects.
    """
    seen: dict[Path, bytes] = {}
    _collect(source, seen)
    parts = [tools.fingerprint.encode()]
    parts += [b"\0".join((str(path.relative_to(SOURCES)).encode(), seen[path])) for path in sorted(seen)]
    return f"{source.stem}-{_digest(*parts)}.o"


def compile_all(tools: Toolchain, sources: Sequence[Path], folder: Path) -> dict[Path, Path]:
    """Compile each source whose object is not in ``folder``, on all cores. Return the objects.

    Raises:
        DeviceError: the compiler failed; the message has its output for each file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    objects = {source: folder / object_name(tools, source) for source in sources}
    todo = [source for source, built in objects.items() if not built.is_file()]
    if todo:
        with (
            tempfile.TemporaryDirectory(dir=folder) as scratch,
            ThreadPoolExecutor(max_workers=os.cpu_count()) as pool,
        ):
            commands = _with_precompiled(tools, todo, Path(scratch))
            jobs = [pool.submit(_compile, commands[one.parent], one, objects[one]) for one in todo]
        check(job.exception() for job in jobs)
    return objects


def run(command: Sequence[str]) -> None:
    """Run a compiler.

    Raises:
        Failed: the compiler ended with an error.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"{' '.join(command[:1])}: exit code {done.returncode}\n{done.stderr.strip()}")


def check(errors: Iterable[BaseException | None]) -> None:
    """Raise one error for all failures.

    Raises:
        DeviceError: a compiler failed.
    """
    words: list[str] = []
    for error in errors:
        if isinstance(error, Failed):
            words.append(str(error))
        elif error is not None:
            raise error
    if words:
        raise DeviceError("cannot build the emulator: " + "\n".join(words))


def _compile(command: Sequence[str], source: Path, built: Path) -> None:
    with tempfile.TemporaryDirectory(dir=built.parent) as scratch:
        partial = Path(scratch) / built.name
        run([*command, "-c", str(source), "-o", str(partial)])
        os.replace(partial, built)


def _with_precompiled(tools: Toolchain, sources: Sequence[Path], scratch: Path) -> dict[Path, Sequence[str]]:
    """Return the command for the files of each folder, with its ``precompiled.hpp`` compiled once.

    The compiler includes the precompiled header before anything else, as it must. Files still include what
    they use, in any order. The header is not cached, because it takes hundreds of megabytes. It is not
    precompiled for only a few files, because it takes as long as a few files.
    """
    commands: dict[Path, Sequence[str]] = {}
    for folder in {source.parent for source in sources}:
        commands[folder] = tools.command
        header = folder / PRECOMPILED
        if not header.is_file() or sum(one.parent == folder for one in sources) <= _FEW:
            continue
        (scratch / folder.name).mkdir()
        built = scratch / folder.name / f"{PRECOMPILED}.gch"
        try:
            run([*tools.command, "-x", "c++-header", "-c", str(header), "-o", str(built)])
        except Failed as error:
            check([error])
        # This folder must precede that of the sources: the compiler uses the first header that it finds.
        rest = tools.command[len(tools.compiler) :]
        first = ("-I", str(scratch), "-include", f"{folder.name}/{PRECOMPILED}", "-Winvalid-pch")
        commands[folder] = (*tools.compiler, *first, *rest)
    return commands


def _collect(file: Path, seen: dict[Path, bytes]) -> None:
    """Add the file and our headers that it includes to ``seen``, with their contents."""
    if file in seen:
        return
    seen[file] = content = file.read_bytes()
    for name in _INCLUDE.findall(content.decode()):
        for folder in (file.parent, SOURCES):
            if (folder / name).is_file():
                _collect(folder / name, seen)
                break


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]

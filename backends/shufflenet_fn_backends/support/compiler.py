"""Compilation of C++ sources to a shared library in the cache, once for each machine and version."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from shufflenet_fn_backends.support.errors import DeviceError
from shufflenet_fn_backends.support.limits import limit_reached

INSTALL = "Install one (Debian and Ubuntu: apt install g++; Fedora and openEuler: dnf install gcc-c++)"


def find_compiler(advice: str) -> list[str]:
    """Return the command of the C++ compiler: ``$CXX``, which may have arguments, or ``g++``.

    Raises:
        DeviceError: the compiler is not found; the message ends with ``advice``.
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
    """Split the value of a variable into words, as a shell does.

    Raises:
        DeviceError: its quotes do not match.
    """
    try:
        return shlex.split(value)
    except ValueError as error:
        raise DeviceError(f"cannot read ${name}, which is {value!r}: {error}.") from error


class Recipe(NamedTuple):
    """How to build a library.

    Attributes:
      name: name of the library's file.
      what: name of the library in messages.
      sources: the folder with ``api.cpp``, which includes all other files.
      flags: flags for the compiler.
      libraries: arguments that link other libraries.
      advice: what a user without a compiler can do.
    """

    name: str
    what: str
    sources: Path
    flags: tuple[str, ...]
    libraries: tuple[str, ...]
    advice: str


def all_flags(recipe: Recipe) -> tuple[str, ...]:
    """Return the flags of the recipe and those of the user."""
    return (*recipe.flags, *words_of("CXXFLAGS", os.environ.get("CXXFLAGS", "")))


def build_library(recipe: Recipe, compiler: list[str], folder: Path) -> Path:
    """Return the library, and build it in ``folder`` if it is missing.

    Its file name contains a hash of the sources, the flags, the compiler's version and the processor's
    features, so different machines can share a home folder. Several processes may call this at once.

    Raises:
        DeviceError: the compiler failed, or the folder cannot be written. The message quotes the compiler.
    """
    from filelock import FileLock

    try:
        library = folder / f"{recipe.name}-{_fingerprint(recipe, compiler)}.so"
        if library.is_file():
            return library
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "build.lock"):
            if not library.is_file():
                _compile(recipe, compiler, library)
    except OSError as error:
        raise limit_reached(error) or DeviceError(
            f"cannot build {recipe.what} in {folder} with {compiler[0]}: {error.strerror or error}. Make "
            f"the folder writable, set XDG_CACHE_HOME to one that is, or {recipe.advice}."
        ) from error
    return library


def _compile(recipe: Recipe, compiler: list[str], library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        built, compiled = Path(scratch) / "library.so", Path(scratch) / "library.o"
        source = recipe.sources / "api.cpp"
        _run(recipe, [*compiler, *all_flags(recipe), "-c", str(source), "-o", str(compiled)])
        # Link without the flags, such as -fopenmp: torch has loaded its own copy of the OpenMP runtime, and
        # the threads of a second copy would compete for the cores.
        linked = [*compiler, "-shared", str(compiled), "-o", str(built), *recipe.libraries]
        _run(recipe, linked)
        os.replace(built, library)


def _run(recipe: Recipe, command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = "\n".join(done.stderr.strip().splitlines()[:5])
        raise DeviceError(
            f"cannot build {recipe.what}: {command[0]} failed with exit code {done.returncode}.\n"
            f"{words}\n{INSTALL}, name yours in $CXX, or {recipe.advice}."
        )


def _fingerprint(recipe: Recipe, compiler: list[str]) -> str:
    digest = hashlib.sha256()
    for source in sorted(recipe.sources.glob("*.[ch]pp")):
        digest.update(source.name.encode() + source.read_bytes())
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False)
    facts = (*all_flags(recipe), *recipe.libraries, version.stdout, platform.machine())
    for fact in (*facts, _processor_features()):
        digest.update(fact.encode())
    return digest.hexdigest()[:16]


def _processor_features() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    # They are called "flags" on x86-64 and "Features" on aarch64.
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def cache_root() -> Path:
    """Return ``$XDG_CACHE_HOME/shufflenet-fn``, or ``~/.cache/shufflenet-fn`` if it is not set.

    Raises:
        DeviceError: the variable is not set and this user has no home directory.
    """
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError as error:
        raise DeviceError(
            "no folder for caches: this user has no home directory. Set XDG_CACHE_HOME to a writable folder."
        ) from error
    return root / "shufflenet-fn"

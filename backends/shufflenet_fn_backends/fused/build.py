"""From the C++ sources to a shared library in the cache, once for each machine and version.

Nothing is built at installation. Needs a C++17 compiler with GCC's OpenMP, whose runtime torch brings:
``g++``, or what ``$CXX`` names. ``$CXXFLAGS`` are added to the flags.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from shufflenet_fn_backends import compiler as compilers
from shufflenet_fn_backends.cache import cache_root
from shufflenet_fn_backends.errors import DeviceError

SOURCES = Path(__file__).with_name("kernels")
_FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-ffp-contract=fast",
    "-fopenmp",
    "-fPIC",
    "-fvisibility=hidden",
)
ADVICE = f"{compilers.INSTALL}, name yours in $CXX, or take --backend routed, which needs none."


def flags() -> tuple[str, ...]:
    """Ours and the user's."""
    return (*_FLAGS, *compilers.words_of("CXXFLAGS", os.environ.get("CXXFLAGS", "")))


def find_compiler() -> list[str]:
    """The command of the C++ compiler: ``$CXX``, which may have arguments, or ``g++``.

    Raises:
        DeviceError: it is not there.
    """
    return compilers.find_compiler(ADVICE)


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/shufflenet-fn/kernels``, or the same under ``~/.cache``."""
    return cache_root() / "kernels"


def build(compiler: list[str], folder: Path) -> Path:
    """The library, built in ``folder`` if it is not there yet.

    Its name holds a hash of the sources, the flags, the compiler's version and the processor's features, so
    that a shared home folder serves different machines. Several processes may call this at once.

    Raises:
        DeviceError: the compiler failed, or the folder cannot be written; with the compiler's words.
    """
    from filelock import FileLock

    try:
        library = folder / f"kernels-{_fingerprint(compiler)}.so"
        if library.is_file():
            return library
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "build.lock"):
            if not library.is_file():
                _compile(compiler, library)
    except OSError as error:
        raise DeviceError(
            f"cannot build the CPU kernels in {folder} with {compiler[0]}: {error.strerror or error}. Make "
            "the folder writable, set XDG_CACHE_HOME to one that is, or take --backend routed."
        ) from error
    return library


def _compile(compiler: list[str], library: Path) -> None:
    with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
        built = Path(scratch) / "kernels.so"
        compiled = Path(scratch) / "kernels.o"
        _run([*compiler, *flags(), "-c", str(SOURCES / "api.cpp"), "-o", str(compiled)])
        # Linked without -fopenmp: torch has loaded its own copy of the OpenMP runtime, and a second one
        # would bring a second pool of threads that fights the first for the cores.
        _run([*compiler, "-shared", str(compiled), "-o", str(built)])
        os.replace(built, library)


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = "\n".join(done.stderr.strip().splitlines()[:5])
        raise DeviceError(
            f"cannot build the CPU kernels: {command[0]} failed with exit code {done.returncode}.\n"
            f"{words}\n{ADVICE}"
        )


def _fingerprint(compiler: list[str]) -> str:
    digest = hashlib.sha256()
    for source in sorted(SOURCES.glob("*.[ch]pp")):
        digest.update(source.name.encode() + source.read_bytes())
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=False)
    for fact in (*flags(), version.stdout, platform.machine(), _processor_features()):
        digest.update(fact.encode())
    return digest.hexdigest()[:16]


def _processor_features() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    # x86-64 calls them flags, aarch64 Features.
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")

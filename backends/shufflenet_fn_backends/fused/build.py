"""The library of CPU kernels: what it is made of and where it is kept.

Needs GCC's OpenMP, whose runtime torch brings.
"""

from __future__ import annotations

from pathlib import Path

from shufflenet_fn_backends.support import compiler as compilers
from shufflenet_fn_backends.support.cache import cache_root
from shufflenet_fn_backends.support.native_build import Recipe, build_library

_WITHOUT = "take --backend routed, which needs none"
ADVICE = f"{compilers.INSTALL}, name yours in $CXX, or {_WITHOUT}."
RECIPE = Recipe(
    name="kernels",
    what="the CPU kernels",
    sources=Path(__file__).with_name("kernels"),
    flags=(
        "-std=c++17",
        "-O3",
        "-march=native",
        "-ffp-contract=fast",
        "-fopenmp",
        "-fPIC",
        "-fvisibility=hidden",
    ),
    libraries=(),
    advice=_WITHOUT,
)


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
    """The library, built in ``folder`` if it is not there yet; errors as ``build_library``."""
    return build_library(RECIPE, compiler, folder)

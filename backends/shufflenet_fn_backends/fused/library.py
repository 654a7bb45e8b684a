"""The C++ library of the CPU kernels: build, load, argument types."""

from __future__ import annotations

import ctypes
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from shufflenet_fn_backends.support import compiler as compilers
from shufflenet_fn_backends.support.compiler import Recipe, build_library, cache_root
from shufflenet_fn_backends.support.errors import DeviceError

_POINTER, _INT, _LONG, _DOUBLE = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_double
_SIGNATURES = {
    "pointwise_forward": (_INT, *[_POINTER] * 5),
    "pointwise_backward": (_INT, *[_POINTER] * 4),
    "depthwise_forward": (_INT, *[_POINTER] * 5),
    "depthwise_backward": (_INT, *[_POINTER] * 4),
    "stem_forward": (_INT, *[_POINTER] * 4),
    "stem_backward": (_INT, *[_POINTER] * 3),
    "pool_forward": (_INT, *[_POINTER] * 4),
    "pool_backward": (_INT, *[_POINTER] * 4),
    "apply_forward": (_INT, _POINTER, _LONG, _POINTER, _LONG, _LONG),
    "apply_backward": (_INT, _POINTER, _LONG, _POINTER, _LONG, _LONG),
    "coefficients_forward": (_LONG, _DOUBLE, *[_POINTER] * 6),
    "coefficients_backward": (_LONG, *[_POINTER] * 5),
    "lanes": (),
}


@functools.cache
def kernels() -> SimpleNamespace:
    """Build the library if necessary, load it, and return its functions by the names in ``_SIGNATURES``.

    Those that compute raise ``MemoryError`` when memory runs out. ``lanes`` returns the number of floats in a
    vector register of the processor that the library was built for.

    Raises:
        DeviceError: there is no compiler, or it failed.
    """
    path = build(find_compiler(), cache_folder())
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise DeviceError(
            f"cannot load the CPU kernels from {path}: {error}. Take --backend routed, which does "
            f"without them (torch {torch.__version__})."
        ) from error
    return SimpleNamespace(**{name: _function(library, name, types) for name, types in _SIGNATURES.items()})


def _function(library: ctypes.CDLL, name: str, signature: tuple[Any, ...]) -> Callable[..., None]:
    function = getattr(library, f"sfn_{name}")
    function.argtypes = signature
    function.restype = _INT
    if name != "lanes":
        function.errcheck = _check
    return function  # type: ignore[no-any-return]


def _check(result: int, function: object, arguments: object) -> None:
    if result:
        raise MemoryError("a CPU kernel could not get its working memory")


Tensors: TypeAlias = Sequence[Tensor]
Gradients: TypeAlias = tuple[Tensor | None, ...]

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
    """Return the command of the C++ compiler: ``$CXX``, which may have arguments, or ``g++``.

    Raises:
        DeviceError: the compiler is not found.
    """
    return compilers.find_compiler(ADVICE)


def cache_folder() -> Path:
    """Return ``$XDG_CACHE_HOME/shufflenet-fn/kernels``, or the same under ``~/.cache``."""
    return cache_root() / "kernels"


def build(compiler: list[str], folder: Path) -> Path:
    """Return the library, and build it in ``folder`` if it is missing. Errors as ``build_library``."""
    return build_library(RECIPE, compiler, folder)


class Operator(ABC):
    """An operator and its gradient, on plain CPU tensors and without autograd."""

    constants: ClassVar[tuple[int, ...]] = ()
    """Indices of the results that have no gradient."""

    @abstractmethod
    def forward(self, tensors: Tensors) -> tuple[Tensor, ...]:
        """Return the results of the operator."""

    @abstractmethod
    def backward(
        self, tensors: Tensors, results: Tensors, grads: Tensors, needed: Sequence[bool]
    ) -> Gradients:
        """Return the gradients of ``tensors`` from those of ``results``; ``None`` where not needed."""

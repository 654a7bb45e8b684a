"""The built library, loaded, with the argument types of its functions."""

from __future__ import annotations

import ctypes
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shufflenet_fn_backends.support import compiler as compilers
from shufflenet_fn_backends.support.cache import cache_root
from shufflenet_fn_backends.support.compiler import Recipe, build_library
from shufflenet_fn_backends.support.errors import DeviceError

_POINTER, _INT, _LONG = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
_SIGNATURES = {
    "pointwise_forward": (_INT, *[_POINTER] * 6),
    "pointwise_backward": (_INT, *[_POINTER] * 4),
    "depthwise_forward": (_INT, *[_POINTER] * 5),
    "depthwise_backward": (_INT, *[_POINTER] * 4),
    "stem_forward": (_INT, *[_POINTER] * 4),
    "stem_backward": (_INT, *[_POINTER] * 3),
    "pool_forward": (_INT, *[_POINTER] * 4),
    "pool_backward": (_INT, *[_POINTER] * 4),
    "apply_forward": (_INT, _POINTER, _LONG, _POINTER, _LONG, _LONG),
    "apply_backward": (_INT, _POINTER, _LONG, _POINTER, _LONG, _LONG),
    "program": (
        _INT,
        _POINTER,
        _LONG,
        _POINTER,
        _LONG,
        _LONG,
        _POINTER,
        _LONG,
        _POINTER,
        _LONG,
        _LONG,
    ),
    "lanes": (),
    "pack": (_POINTER, _POINTER, _LONG, _LONG, _POINTER),
}


class Kernels(NamedTuple):
    """The functions of the library; those that compute raise ``MemoryError`` when they run out of it.

    ``lanes``: floats in a vector of the processor that it was built for.
    """

    pointwise_forward: Callable[..., None]
    pointwise_backward: Callable[..., None]
    depthwise_forward: Callable[..., None]
    depthwise_backward: Callable[..., None]
    stem_forward: Callable[..., None]
    stem_backward: Callable[..., None]
    pool_forward: Callable[..., None]
    pool_backward: Callable[..., None]
    apply_forward: Callable[..., None]
    apply_backward: Callable[..., None]
    program: Callable[..., None]
    lanes: Callable[..., Any]
    pack: Callable[..., None]


@functools.cache
def kernels() -> Kernels:
    """Build if necessary, and load.

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
    return Kernels(*(_function(library, name, _SIGNATURES[name]) for name in Kernels._fields))


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


class Operator(ABC):
    """A differentiable operator, on plain CPU tensors and outside autograd."""

    @property
    @abstractmethod
    def constants(self) -> tuple[int, ...]:
        """Which results have no gradient."""

    @abstractmethod
    def forward(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Results of the operator."""

    @abstractmethod
    def backward(
        self,
        tensors: Sequence[Tensor],
        results: Sequence[Tensor],
        grads: Sequence[Tensor],
        needed: Sequence[bool],
    ) -> tuple[Tensor | None, ...]:
        """Gradients of ``tensors`` from those of ``results``; ``None`` allowed where not needed."""

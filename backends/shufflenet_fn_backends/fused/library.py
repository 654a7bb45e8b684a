"""The built library, loaded, with the argument types of its functions."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch  # loads the OpenMP runtime that the kernels use

from shufflenet_fn_backends.fused.build import build, cache_folder, find_compiler
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

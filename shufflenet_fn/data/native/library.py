"""Builds and loads the C++ library, and finds libjpeg-turbo in Pillow's wheel, which it decodes with."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import numpy as np

from shufflenet_fn.data.transforms import JITTER_DRAWS, color_jitter
from shufflenet_fn_backends.support.compiler import INSTALL, Recipe, build_library, cache_root, find_compiler
from shufflenet_fn_backends.support.errors import DeviceError

_WITHOUT: Final = "take --image-reader python, which needs none"
ADVICE: Final = f"{INSTALL}, name yours in $CXX, or {_WITHOUT}."
RECIPE: Final = Recipe(
    name="images",
    what="the image reader",
    sources=Path(__file__).with_name("kernels"),
    # No fused multiply-add: boxes and weights must equal those that Python computes.
    flags=("-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-fPIC", "-fvisibility=hidden"),
    libraries=("-ldl",),
    advice=_WITHOUT,
)

_POINTER, _LONG, _DOUBLE = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
_SIGNATURES: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "library": (_POINTER, (ctypes.c_char_p,)),
    "reader": (_POINTER, (_POINTER,)),
    "reader_free": (None, (_POINTER,)),
    "reader_seconds": (None, (_POINTER, _POINTER)),
    "train": (None, (*[_POINTER] * 3, _LONG, *[_POINTER] * 3, _LONG, *[_POINTER] * 2)),
    "eval": (None, (*[_POINTER] * 2, *[_LONG] * 3, *[_POINTER] * 2)),
    "normalise": (None, (_POINTER, _LONG, *[_POINTER] * 3)),
    "jitter": (None, (_POINTER, _LONG, _DOUBLE, _POINTER)),
    "crc32": (ctypes.c_uint32, (ctypes.c_uint32, ctypes.c_char_p, _LONG)),
}


class Functions(SimpleNamespace):
    """The library's functions by their names in ``_SIGNATURES``.

    Attributes:
      decoder: what ``reader`` takes.
      jitters: whether ``jitter`` and ``color_jitter`` give the same bytes.
    """


def build() -> Path:
    """Build the library if necessary, and return its file.

    Raises:
      DeviceError: there is no compiler, or it failed.
    """
    return build_library(RECIPE, find_compiler(ADVICE), cache_root() / "images")


@functools.cache
def functions() -> Functions:
    """Build if necessary, and load.

    Raises:
      DeviceError: there is no compiler, or it failed, or Pillow has no libjpeg-turbo that can be used.
    """
    path = build()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise DeviceError(
            f"cannot load the image reader from {path}: {error}. Take --image-reader python."
        ) from error
    found = {name: _function(library, name) for name in _SIGNATURES}
    decoder = _decoder(found.pop("library"), found["reader"], found["reader_free"])
    return Functions(**found, decoder=decoder, jitters=_jitters_alike(found["jitter"]))


def _jitters_alike(jitter: Callable[..., None]) -> bool:
    # OpenCV has other code on other processors. With this seed, rounding once more shows in a few pixels.
    rng = np.random.default_rng(7)
    pixels = rng.integers(0, 256, size=(61, 67, 3), dtype=np.uint8)  # not a whole number of vectors
    for draws in rng.random((256, JITTER_DRAWS)):
        ours, theirs = pixels.copy(), pixels.copy()
        jitter(ours.ctypes.data, 61 * 67, 0.4, draws.ctypes.data)
        color_jitter(theirs, 0.4, draws)
        if not np.array_equal(ours, theirs):
            return False
    return True


def pillow_libjpeg() -> Path | None:
    """Return libjpeg-turbo (ABI version 62) from Pillow's wheel; ``None`` if Pillow has another version."""
    import PIL

    package = Path(PIL.__file__).parent
    places = (
        *package.parent.glob("pillow.libs/libjpeg-*.so.62*"),
        *package.glob(".dylibs/libjpeg.62*.dylib"),
    )
    return next((place for place in places if place.is_file()), None)


def _decoder(
    load: Callable[..., int | None], make_reader: Callable[..., int | None], free: Callable[..., None]
) -> int:
    path = pillow_libjpeg()
    if path is None:
        raise DeviceError(
            "no libjpeg-turbo to decode with: this Pillow does not come from a wheel of PyPI, which brings "
            "it. Install that (pip install --force-reinstall pillow), or take --image-reader python."
        )
    decoder = load(bytes(path))
    probe = make_reader(decoder) if decoder else None
    if not decoder or not probe:
        raise DeviceError(
            f"cannot use {path}: it is not libjpeg-turbo of version 62 as known here. Take "
            "--image-reader python, and please report Pillow's version."
        )
    free(probe)
    return decoder


def _function(library: ctypes.CDLL, name: str) -> Callable[..., Any]:
    function = getattr(library, f"sfn_{name}")
    function.restype, function.argtypes = _SIGNATURES[name]
    return function  # type: ignore[no-any-return]

"""Builds and loads the C++ library, reads many samples in one call, and chooses the reader of a run.

The library decodes with libjpeg-turbo of Pillow's wheel, but for Huffman codes, which it reads itself.
"""

from __future__ import annotations

import ctypes
import functools
import math
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from shufflenet_fn.data.dataset import STORED, Stored
from shufflenet_fn.data.transforms import (
    JITTER_DRAWS,
    TRAIN_DRAWS,
    EvalTransform,
    TrainTransform,
    color_jitter,
)
from shufflenet_fn_backends.support.compiler import INSTALL, Recipe, build_library, cache_root, find_compiler
from shufflenet_fn_backends.support.errors import DeviceError

Images = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]
STAGES = ("read", "decode", "resize", "jitter")

_WITHOUT: Final = "take --image-reader python, which needs none"
_RECIPE: Final = Recipe(
    name="images",
    what="the image reader",
    sources=Path(__file__).with_name("kernels"),
    # No fused multiply-add: boxes and weights must equal those that Python computes.
    flags=("-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-fPIC", "-fvisibility=hidden"),
    libraries=("-ldl",),
    advice=_WITHOUT,
)


class _Crop(ctypes.Structure):
    """``CropRule`` of ``kernels/plan.hpp``."""

    _fields_ = tuple(
        (name, ctypes.c_double)
        for name in ("scale_low", "scale_high", "ratio_low", "ratio_high", "log_low", "log_high")
    )


class _Training(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_int64),
        ("crop", _Crop),
        ("jitter", ctypes.c_double),
        ("flip", ctypes.c_double),
        ("seed", ctypes.c_uint64),
        ("epoch", ctypes.c_uint64),
    )


def _array(dtype: Any) -> Any:
    return np.ctypeslib.ndpointer(dtype, flags="C_CONTIGUOUS")


_POINTER, _LONG, _DOUBLE = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
_BYTES, _FLAGS, _LONGS, _DOUBLES, _STORED = map(_array, (np.uint8, np.bool_, np.int64, np.float64, STORED))
_SIGNATURES: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    "library": (_POINTER, (ctypes.c_char_p,)),
    "reader": (_POINTER, (_POINTER,)),
    "reader_free": (None, (_POINTER,)),
    "reader_seconds": (None, (_POINTER, _DOUBLES)),
    "reader_taken_over": (_LONG, (_POINTER,)),
    "train": (None, (_POINTER, _POINTER, _STORED, _LONG, _LONGS, _LONGS, _DOUBLES, _LONG, _BYTES, _FLAGS)),
    "eval": (None, (_POINTER, _STORED, *[_LONG] * 3, _BYTES, _FLAGS)),
    "normalise": (None, (_POINTER, _LONG, *[_POINTER] * 3)),
    "jitter": (None, (_BYTES, _LONG, _DOUBLE, _DOUBLES)),
    "crc32": (ctypes.c_uint32, (ctypes.c_uint32, ctypes.c_char_p, _LONG)),
}


class Functions(SimpleNamespace):
    """The library's functions by their names in ``_SIGNATURES``.

    Attributes:
      decoder: what ``reader`` takes.
      jitters: whether ``jitter`` and ``color_jitter`` give the same bytes.
    """


@functools.cache
def functions() -> Functions:
    """Build if necessary, and load.

    Raises:
      DeviceError: there is no compiler, or it failed, or Pillow has no libjpeg-turbo that can be used.
    """
    compiler = find_compiler(f"{INSTALL}, name yours in $CXX, or {_WITHOUT}.")
    path = build_library(_RECIPE, compiler, cache_root() / "images")
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise DeviceError(
            f"cannot load the image reader from {path}: {error}. Take --image-reader python."
        ) from error
    found = {name: getattr(library, f"sfn_{name}") for name in _SIGNATURES}
    for name, function in found.items():
        function.restype, function.argtypes = _SIGNATURES[name]
    decoder = _decoder(found.pop("library"), found["reader"], found["reader_free"])
    return Functions(**found, decoder=decoder, jitters=_jitters_alike(found["jitter"]))


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


def pillow_libjpeg() -> Path | None:
    """Return libjpeg-turbo (ABI version 62) from Pillow's wheel; ``None`` if Pillow has another version."""
    import PIL

    package = Path(PIL.__file__).parent
    places = (
        *package.parent.glob("pillow.libs/libjpeg-*.so.62*"),
        *package.glob(".dylibs/libjpeg.62*.dylib"),
    )
    return next((place for place in places if place.is_file()), None)


def _jitters_alike(jitter: Callable[..., None]) -> bool:
    # OpenCV has other code on other processors. With this seed, rounding once more shows in a few pixels.
    rng = np.random.default_rng(7)
    pixels = rng.integers(0, 256, size=(61, 67, 3), dtype=np.uint8)  # not a whole number of vectors
    for draws in rng.random((256, JITTER_DRAWS)):
        ours, theirs = pixels.copy(), pixels.copy()
        jitter(ours, 61 * 67, 0.4, draws)
        color_jitter(theirs, 0.4, draws)
        if not np.array_equal(ours, theirs):
            return False
    return True


class NativeReader:
    """Reads, decodes, crops, resizes and jitters samples, with a decompressor and memory for each thread."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self._threads = threading.local()

    def train(
        self,
        stored: Stored,
        transform: TrainTransform,
        seed: int,
        epoch: int,
        indices: npt.NDArray[np.int64],
        repeats: npt.NDArray[np.int64],
        *,
        out: Images,
    ) -> Flags:
        """Read random-resized crops of samples, jittered and flipped.

        Args:
          stored: STORED (N,), their locations.
          transform: the transform to apply.
          seed, epoch: seed and epoch of the draws.
          indices, repeats: C-contiguous int64 (N,), the samples and which showing of each it is.
          out: C-contiguous uint8 (N, size, size, 3) to fill.

        Returns:
          bool (N,), which samples were read. The other parts of ``out`` are undefined.
        """
        count, size = len(stored), transform.size
        draws = np.empty((count, TRAIN_DRAWS), dtype=np.float64)
        done = np.zeros(count, dtype=np.bool_)
        jitters: bool = self._functions.jitters
        jitter = transform.jitter if jitters else 0.0
        (low, high), ratio = transform.scale, transform.ratio
        crop = _Crop(low, high, *ratio, *map(math.log, ratio))
        how = _Training(size, crop, jitter, transform.flip, seed, epoch)
        self._functions.train(
            self._reader(), ctypes.byref(how), stored, count, indices, repeats, draws, TRAIN_DRAWS, out, done
        )
        if not jitters:
            for slot in np.flatnonzero(done):
                transform.colours(out[slot], draws[slot])
        return done

    def eval(self, stored: Stored, transform: EvalTransform, *, out: Images) -> Flags:
        """Read samples, resized and cropped by ``transform``. Args and result as ``train``."""
        count = len(stored)
        done = np.zeros(count, dtype=np.bool_)
        self._functions.eval(self._reader(), stored, count, transform.resize, transform.size, out, done)
        return done

    def normalise(self, images: Tensor, scale: Tensor, bias: Tensor, *, out: Tensor) -> None:
        """Fill ``out`` with ``images * scale + bias``, on the CPU.

        Args:
          images: uint8 (N, 3, H, W) in channels_last memory.
          scale, bias: float32 (3,).
          out: float32, otherwise as ``images``.
        """
        self._functions.normalise(
            images.data_ptr(), images.numel(), scale.data_ptr(), bias.data_ptr(), out.data_ptr()
        )

    def seconds(self) -> dict[str, float]:
        """Return how long each of STAGES has taken in this thread so far."""
        found = np.zeros(len(STAGES), dtype=np.float64)
        self._functions.reader_seconds(self._reader(), found)
        return dict(zip(STAGES, found.tolist(), strict=True))

    def _reader(self) -> int:
        kept: _ThreadReader | None = getattr(self._threads, "reader", None)
        if kept is None:
            kept = self._threads.reader = _ThreadReader(self._functions)
        return kept.address


class _ThreadReader:
    """The decompressor and memory of one thread, freed with this object."""

    def __init__(self, functions: Functions) -> None:
        address: int | None = functions.reader(functions.decoder)
        if not address:
            raise MemoryError("no memory for an image reader")
        self.address, self._free = address, functions.reader_free

    def __del__(self) -> None:
        if hasattr(self, "address"):
            self._free(self.address)


class ImageReader(NamedTuple):
    """``reader``: ``None`` reads image by image in Python. ``reason``: a line for the log."""

    reader: NativeReader | None
    reason: str


def choose_image_reader(name: str) -> ImageReader:
    """Return the reader for ``--image-reader``: auto, native or python.

    ``auto`` takes ``native`` where it can be built.

    Raises:
      DeviceError: ``native`` was asked for and cannot be had.
    """
    if name == "python":
        return ImageReader(None, "image reader python: asked for")
    try:
        reader = NativeReader(functions())
    except DeviceError as error:
        if name == "native":
            raise
        # Without the compiler's output, and without the advice for ``native``.
        why = str(error).splitlines()[0].split(". ")[0].removesuffix(".")
        return ImageReader(None, f"image reader python: not native, {why}")
    reason = "asked for" if name == "native" else "decodes only what a crop needs, without Python's lock"
    return ImageReader(reader, f"image reader native: {reason}")

"""A reader of many samples in one call, for any number of threads, and its choice for a run."""

from __future__ import annotations

import ctypes
import math
import threading
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from shufflenet_fn.data.dataset import Stored
from shufflenet_fn.data.native.library import Functions, functions
from shufflenet_fn.data.transforms import TRAIN_DRAWS, EvalTransform, TrainTransform
from shufflenet_fn_backends.support.errors import DeviceError

Images = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]
STAGES = ("read", "decode", "resize", "jitter")


class Crop(ctypes.Structure):
    """``CropRule`` of ``kernels/box.hpp``."""

    _fields_ = tuple(
        (name, ctypes.c_double)
        for name in ("scale_low", "scale_high", "ratio_low", "ratio_high", "log_low", "log_high")
    )


class _Training(ctypes.Structure):
    _fields_ = (
        ("size", ctypes.c_int64),
        ("crop", Crop),
        ("jitter", ctypes.c_double),
        ("flip", ctypes.c_double),
        ("seed", ctypes.c_uint64),
        ("epoch", ctypes.c_uint64),
    )


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
          indices, repeats: int64 (N,), the samples and which showing of each it is.
          out: C-contiguous uint8 (N, size, size, 3) to fill.

        Returns:
          bool (N,), which samples were read. The other parts of ``out`` are undefined.
        """
        count, size = len(stored), transform.size
        _check_images(out, count, size)
        # The library gets their addresses, so the arrays must stay alive until it returns.
        indices = _numbers("indices", indices, count)
        repeats = _numbers("repeats", repeats, count)
        draws = np.empty((count, TRAIN_DRAWS), dtype=np.float64)
        done = np.zeros(count, dtype=np.bool_)
        jitters: bool = self._functions.jitters
        jitter = transform.jitter if jitters else 0.0
        how = _Training(size, crop_rule(transform), jitter, transform.flip, seed, epoch)
        self._functions.train(
            self._reader(),
            ctypes.addressof(how),
            stored.ctypes.data,
            count,
            indices.ctypes.data,
            repeats.ctypes.data,
            draws.ctypes.data,
            TRAIN_DRAWS,
            out.ctypes.data,
            done.ctypes.data,
        )
        if not jitters:
            for slot in np.flatnonzero(done):
                transform.colours(out[slot], draws[slot])
        return done

    def eval(self, stored: Stored, transform: EvalTransform, *, out: Images) -> Flags:
        """Read samples, resized and cropped by ``transform``. Args and result as ``train``."""
        count = len(stored)
        _check_images(out, count, transform.size)
        done = np.zeros(count, dtype=np.bool_)
        self._functions.eval(
            self._reader(),
            stored.ctypes.data,
            count,
            transform.resize,
            transform.size,
            out.ctypes.data,
            done.ctypes.data,
        )
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
        self._functions.reader_seconds(self._reader(), found.ctypes.data)
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


def crop_rule(transform: TrainTransform) -> Crop:
    """Return the ranges of a random-resized crop."""
    (low, high), ratio = transform.scale, transform.ratio
    return Crop(low, high, *ratio, math.log(ratio[0]), math.log(ratio[1]))


def _numbers(name: str, values: npt.NDArray[np.integer[Any]], count: int) -> npt.NDArray[np.int64]:
    """Return ``values`` as int64 and C-contiguous."""
    if values.shape != (count,):
        raise ValueError(f"{name} has the shape {values.shape}, not {(count,)}")
    return np.ascontiguousarray(values, dtype=np.int64)


def _check_images(out: Images, count: int, size: int) -> None:
    if out.shape != (count, size, size, 3) or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise ValueError(f"out is {out.dtype} {out.shape}, not contiguous uint8 {(count, size, size, 3)}")


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
        return ImageReader(None, f"image reader python: not native, {_why(error)}")
    reason = "asked for" if name == "native" else "decodes only what a crop needs, without Python's lock"
    return ImageReader(reader, f"image reader native: {reason}")


def _why(error: DeviceError) -> str:
    """Return the first sentence, without the compiler's output and the advice for ``native``."""
    return str(error).splitlines()[0].split(". ")[0].removesuffix(".")

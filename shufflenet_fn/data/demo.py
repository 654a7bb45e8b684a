"""The demo data set: an image folder that is generated on first use and learnable in a minute.

Each image is a shape or pattern in random colours over a cluttered, noisy background. Only the form tells
classes apart: position, size, angle, colours, light, clutter and noise are random, and no class turns into
another when mirrored or rotated. Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.decode import RgbImage
from shufflenet_fn.data.randomness import sample_rng
from shufflenet_fn.io import explained
from shufflenet_fn_backends.support.compiler import cache_root
from shufflenet_fn_backends.support.errors import UserError

DEMO_VERSION = 1
DEMO_CLASSES = (
    *("checker", "crescent", "cross", "disc", "dots"),
    *("ring", "square", "star", "stripes", "triangle"),
)
TRAIN_PER_CLASS = 300
VAL_PER_CLASS = 50
MANIFEST = "demo.json"
_JPEG_QUALITY = 90


def ensure_demo() -> Path:
    """Return the demo set's folder in the cache, which the first call writes.

    Raises:
      UserError: the cache cannot be written.
    """
    folder = cache_root() / f"demo-v{DEMO_VERSION}-seed0"
    return folder if is_complete(folder) else write_demo(folder)


def write_demo(
    folder: Path, *, train_per_class: int = TRAIN_PER_CLASS, val_per_class: int = VAL_PER_CLASS
) -> Path:
    """Write a demo set: ``folder/{train,val}/CLASS/*.jpg`` and a manifest.

    The same arguments give the same bytes. The set is written to a temporary folder next to ``folder`` and
    renamed, so ``folder`` is always complete or absent, even if this process is killed. If several processes
    start at once, one writes and the others wait. A complete set is kept, a damaged one is replaced.

    Raises:
      UserError: ``folder`` is something other than a demo set, or cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / MANIFEST).is_file():
        raise UserError(
            f"cannot write the demo set to {folder}: it exists and has no {MANIFEST}, so it is "
            "something else. Name another folder, or remove this one."
        )
    fix = "Free some space (it takes 10 MB), make the folder writable, or set XDG_CACHE_HOME to one that is."
    with explained(f"write the demo set to {folder}", fix), _workspace(folder) as workspace:
        if is_complete(folder):  # another process wrote it while this one waited
            return folder
        fresh = workspace / "new"
        _write_split(fresh / "train", 0, train_per_class)
        _write_split(fresh / "val", 1, val_per_class)
        files, size = _measure(fresh)
        manifest = {"version": DEMO_VERSION, "files": files, "bytes": size}
        (fresh / MANIFEST).write_text(json.dumps(manifest) + "\n", encoding="utf-8")
        with contextlib.suppress(FileNotFoundError):
            os.rename(folder, workspace / "old")
        os.rename(fresh, folder)
    return folder


def is_complete(folder: Path) -> bool:
    """Return whether ``folder`` holds a demo set with the number of files and bytes in its manifest."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        found = (manifest["version"], manifest["files"], manifest["bytes"])
        return found == (DEMO_VERSION, *_measure(folder))
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_split(folder: Path, split: int, per_class: int) -> None:
    import simplejpeg

    for label, name in enumerate(DEMO_CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            image = draw_image(label, sample_rng(0, split, label * per_class + number))
            data = simplejpeg.encode_jpeg(image, quality=_JPEG_QUALITY)
            (folder / name / f"{name}_{number:04d}.jpg").write_bytes(data)


def _measure(folder: Path) -> tuple[int, int]:
    """Return the number and total size of the images in a demo set."""
    sizes = [path.stat().st_size for path in folder.glob("*/*/*.jpg")]
    return len(sizes), sum(sizes)


@contextlib.contextmanager
def _workspace(folder: Path) -> Iterator[Path]:
    """Create a temporary folder on the file system of ``folder``, and remove it at the end.

    Meanwhile a lock, which the system releases if this process is killed, keeps other processes waiting.
    """
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{folder.name}."
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        for left_over in folder.parent.glob(f"{prefix}*"):  # left by a process that was killed
            shutil.rmtree(left_over, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=prefix, dir=folder.parent) as workspace:
            yield Path(workspace)


_SIDE = 64
_STENCIL_SIDE = 128
_FINE = 2  # masks are drawn at twice the size and averaged, which smooths their edges

Mask = npt.NDArray[np.uint8]
Pixels = npt.NDArray[np.float32]


def draw_image(label: int, rng: np.random.Generator) -> RgbImage:
    """Draw a uint8 (64, 64, 3) image of class ``DEMO_CLASSES[label]``."""
    mask = _placed(stencil(DEMO_CLASSES[label]), rng)
    back, front = _two_colours(rng)
    image = _background(back, rng)
    image += mask[:, :, None] * (front + _ripple(rng) - image)
    image += rng.normal(0.0, rng.uniform(2.0, 9.0), size=image.shape).astype(np.float32)
    return np.clip(image, 0.0, 255.0).round().astype(np.uint8)


def stencil(name: str) -> Mask:
    """Draw the shape ``name``, 255 inside and 0 outside, centred in a (128, 128) array."""
    import cv2

    canvas = np.zeros((_STENCIL_SIDE, _STENCIL_SIDE), dtype=np.uint8)

    def circle(x: int, y: int, radius: int, value: int = 255) -> None:
        cv2.circle(canvas, (x, y), radius, value, thickness=-1)

    def polygon(*radii: float) -> None:
        """Draw a polygon about the centre, its corners at equal angles."""
        angles = np.arange(len(radii)) * (2 * np.pi / len(radii))
        corners = 64 + np.array(radii)[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        cv2.fillPoly(canvas, [corners.round().astype(np.int32)], 255)

    match name:
        case "checker":
            for row in range(4):
                for column in range(row % 2, 4, 2):
                    canvas[12 + 26 * row : 38 + 26 * row, 12 + 26 * column : 38 + 26 * column] = 255
        case "crescent":
            circle(64, 64, 54)
            circle(89, 64, 45, 0)
        case "cross":
            canvas[50:78, 8:120] = 255
            canvas[8:120, 50:78] = 255
        case "disc":
            circle(64, 64, 50)
        case "dots":
            for x in (37, 91):
                circle(x, 37, 22)
                circle(x, 91, 22)
        case "ring":
            circle(64, 64, 54)
            circle(64, 64, 31, 0)
        case "square":
            canvas[20:108, 20:108] = 255
        case "star":
            polygon(*[62.0, 25.0] * 5)
        case "stripes":
            for top in range(14, 114, 28):
                canvas[top : top + 15, 14:114] = 255
        case "triangle":
            polygon(*[62.0] * 3)
    return canvas


def _placed(shape: Mask, rng: np.random.Generator) -> Pixels:
    """Place ``shape`` at a random position, size and angle, as opacity (64, 64) in 0..1."""
    import cv2

    fine = _SIDE * _FINE
    share = rng.uniform(0.60, 0.88)  # of the image's side
    matrix = cv2.getRotationMatrix2D(
        (_STENCIL_SIDE / 2, _STENCIL_SIDE / 2), rng.uniform(0.0, 360.0), share * fine / _STENCIL_SIDE
    )
    play = (1.0 - share) / 2
    centre = fine * (0.5 + rng.uniform(-play, play, size=2))
    matrix[:, 2] += centre - _STENCIL_SIDE / 2
    placed = cv2.warpAffine(shape, matrix, (fine, fine))
    small = np.asarray(cv2.resize(placed, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA))
    return small.astype(np.float32) / np.float32(255)


def _two_colours(rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Draw the colours of background and shape. The shape is brighter."""
    back = rng.uniform(20.0, 130.0, size=3)
    direction = rng.normal(size=3) * 0.6 + 1.2
    direction /= np.linalg.norm(direction)
    front = back + direction * rng.uniform(110.0, 190.0)
    return back.astype(np.float32), front.astype(np.float32)


def _background(colour: Pixels, rng: np.random.Generator) -> Pixels:
    """Return ``colour`` with uneven light and some strokes, (64, 64, 3)."""
    import cv2

    image = colour + _ripple(rng)
    for _ in range(int(rng.integers(3, 9))):
        start = rng.integers(0, _SIDE, size=2)
        end = start + rng.integers(-_SIDE // 3, _SIDE // 3, size=2)
        stroke = colour + rng.uniform(-40.0, 40.0, size=3)
        thickness = int(rng.integers(1, 4))
        cv2.line(image, start.tolist(), end.tolist(), stroke.tolist(), thickness, cv2.LINE_AA)
    return image


def _ripple(rng: np.random.Generator) -> Pixels:
    """Return smooth colour noise, (64, 64, 3)."""
    import cv2

    coarse = rng.normal(0.0, 10.0, size=(4, 4, 3)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC))

"""Image files to damage: JPEGs of every encoding, and a few of other formats."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.formats import IMAGE_EXTENSIONS

_CODINGS = (
    {"quality": 90, "subsampling": "4:2:0"},
    {"quality": 75, "subsampling": "4:2:2"},
    {"quality": 95, "subsampling": "4:4:4"},
    {"quality": 85, "progressive": True},
    {"quality": 85, "optimize": True, "restart_marker_blocks": 4},
    {"quality": 60, "progressive": True, "subsampling": "4:4:4"},
)
_SIZES = ((375, 500), (224, 300), (60, 90), (33, 17))
_LIMIT = 200


def made_pictures() -> list[bytes]:
    """Return photo-like images: JPEGs of all encodings, sizes and colour spaces, and PNG, WebP and TIFF."""
    from PIL import Image

    def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        return buffer.getvalue()

    images = [Image.fromarray(_drawn(*size, seed=n)) for n, size in enumerate(_SIZES)]
    files = [encoded(image, "JPEG", **coding) for image in images for coding in _CODINGS]
    for image in images[1:3]:
        files += [encoded(image.convert(mode), "JPEG", quality=90) for mode in ("L", "CMYK")]
    small = images[2]
    return [*files, *(encoded(small, kind) for kind in ("PNG", "WEBP", "TIFF", "BMP"))]


def pictures_in(folder: Path) -> list[bytes]:
    """Return the first image files below ``folder``, sorted by path."""
    paths = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_EXTENSIONS)
    return [path.read_bytes() for path in paths[:_LIMIT]]


def _drawn(height: int, width: int, *, seed: int) -> npt.NDArray[np.uint8]:
    """Draw smooth shades, edges and grain, so that a JPEG of it has coefficients of every kind."""
    import cv2

    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, size=(6, 8, 3)).astype(np.float32)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(12):
        centre = int(rng.integers(width)), int(rng.integers(height))
        colour = rng.uniform(0, 255, size=3).tolist()
        cv2.circle(image, centre, int(rng.integers(2, 30)), colour, -1, cv2.LINE_AA)
    image += rng.normal(0, 6, size=image.shape)
    drawn: npt.NDArray[np.uint8] = np.clip(image, 0, 255).astype(np.uint8)
    return drawn

"""Images and folders made on the spot for the data tests."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

Array = npt.NDArray[Any]
WriteTree = Callable[..., Path]


@pytest.fixture
def picture() -> Callable[..., Array]:
    """``picture(height, width, seed=0)``: a photo-like uint8 RGB image."""
    return draw_picture


def draw_picture(height: int, width: int, seed: int = 0) -> Array:
    """Smooth shades, sharp edges and a little grain, as in a photo."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 255, size=(6, 8, 3)).astype(np.float32)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    for _ in range(12):
        x, y = rng.integers(0, width), rng.integers(0, height)
        colour = rng.uniform(0, 255, size=3).tolist()
        cv2.circle(image, (int(x), int(y)), int(rng.integers(2, 30)), colour, -1, cv2.LINE_AA)
    image += rng.normal(0, 3, size=image.shape)
    return np.asarray(np.clip(image, 0, 255), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of ``image`` as a file of format ``kind``."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def tree(tmp_path: Path) -> WriteTree:
    """``tree({"train/a/1.jpg": data, ...})`` writes files under a data folder and returns it."""

    def write(files: dict[str, bytes]) -> Path:
        root = tmp_path / "data"
        root.mkdir(exist_ok=True)
        for name, data in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return root

    return write


@pytest.fixture(scope="session")
def photo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of small JPEGs of many sizes: 23 to train in 3 classes, 11 to validate in 2."""
    root = tmp_path_factory.mktemp("photos")
    counts = {"train": {"ant": 9, "bee": 8, "cat": 6}, "val": {"ant": 5, "cat": 6}}
    for split, classes in counts.items():
        for name, count in classes.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                seed = 100 * len(name) + 10 * number + ord(name[0])
                image = draw_picture(40 + 7 * number, 90 - 6 * number, seed)
                Image.fromarray(image).save(folder / f"{number}.jpg", quality=90)
    return root

"""A small image folder to train on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def make_images(root: Path, *, per_class: int = 8, side: int = 40) -> Path:
    """Create three classes of different colours: ``per_class`` training images, half as many to validate."""
    rng = np.random.default_rng(0)
    for split, count in (("train", per_class), ("val", max(1, per_class // 2))):
        for label, name in enumerate(("blue", "green", "red")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 90, (side, side, 3), dtype=np.uint8)
                pixels[..., 2 - label] += 150
                Image.fromarray(pixels).save(folder / f"{number:03d}.jpg", quality=95)
    return root

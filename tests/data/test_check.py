"""Inspecting a file never fails, and finds a problem exactly where the loader would."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from drills.fuzz.mutations import mutate
from drills.fuzz.pictures import made_pictures
from shufflenet_fn.data.bad_images import BadImage
from shufflenet_fn.data.check import inspect
from shufflenet_fn.data.dataset import Encoded
from shufflenet_fn.data.decode import open_image
from shufflenet_fn.data.folder import ImageFolder
from shufflenet_fn.data.listing import list_split

KINDS = {
    *("truncated", "corrupt", "not an image", "format not read"),
    *("too many pixels", "over a limit", "unknown range", "empty file"),
}


def test_files_that_the_loader_refuses_are_problems(tmp_path: Path) -> None:
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    pictures = made_pictures()
    for number in range(150):
        rng = np.random.default_rng([11, number])
        _, data = mutate(pictures[rng.integers(len(pictures))], rng)
        (folder / f"{number}.jpg").write_bytes(data)
    listing = list_split(folder.parent)
    samples = ImageFolder(tmp_path, "train", listing.classes, listing.paths, listing.labels)
    refused = 0
    for index in range(len(samples)):
        found = inspect(samples, index)
        data = samples.read(index).data
        try:
            open_image(Encoded(data), name="x").decode(1)
        except BadImage as error:
            refused += 1
            assert found.problem is not None
            assert found.problem.kind in KINDS
            assert (found.problem.name, found.problem.text) == (samples.name(index), error.reason)
        else:
            assert found.problem is None
    assert 20 < refused < 140

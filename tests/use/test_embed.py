"""``embed`` writes the features of images with their paths and classes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from shufflenet_fn.data.device_ops import normalizer
from shufflenet_fn.data.transforms import EvalTransform
from shufflenet_fn.model.config import FEATURES
from shufflenet_fn.model.network import features
from shufflenet_fn.use.embed import embed
from shufflenet_fn.use.model import open_model
from shufflenet_fn.use.sources import open_sources

Command = Callable[..., Any]


@pytest.mark.parametrize("at", FEATURES)
def test_features_are_those_of_the_function(weights: Path, image_folder: Path, at: str) -> None:
    model = open_model(weights, arch="x0_5", image_size=32)
    images = open_sources([str(image_folder / "val")], None)
    found = embed(model, images, at=at, batch_size=4, device="cpu")
    pixels = [EvalTransform(model.resize, 32)(np.asarray(Image.open(path))) for path in found.paths]
    x = normalizer()(torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2))
    expected = features(model.config, model.variables, x, at=at)[at]
    torch.testing.assert_close(torch.from_numpy(found.features), expected, rtol=1e-3, atol=1e-3)
    assert [found.classes[label] for label in found.labels] == [
        Path(path).parent.name for path in found.paths
    ]


@pytest.mark.parametrize("suffix", ["npz", "parquet"])
def test_file_has_features_paths_and_classes(
    command: Command, weights: Path, image_folder: Path, tmp_path: Path, suffix: str
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    Image.new("RGB", (40, 40)).save(tmp_path / "alone.png")
    sources = (image_folder / "val" / "red", image_folder / "val" / "blue", "broken.jpg", "alone.png")
    if suffix == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
    outcome = command("embed", weights, *sources, "--arch", "x0_5", "-o", f"e.{suffix}")
    assert outcome.code == 0, outcome.err
    assert "pooled (8, 1024), 2 classes" in outcome.out and "1 unreadable: broken.jpg" in outcome.err
    if suffix == "npz":
        content = np.load(tmp_path / "e.npz")  # without pickles
        paths, rows, about = content["paths"], content["features"], str(content["description"])
        names = [None if label < 0 else content["classes"][label] for label in content["labels"]]
    else:
        table = parquet.read_table(tmp_path / "e.parquet")
        paths, names, rows = (table[name].to_pylist() for name in ("path", "class", "features"))
        about = table.schema.metadata[b"shufflenet_fn"]
    assert names == 3 * ["red"] + 4 * ["blue"] + [None]
    assert [Path(path).name for path in paths][-2:] == ["03.jpg", "alone.png"]
    assert np.shape(rows) == (8, 1024) and np.std(rows, 0).any()
    assert json.loads(about)["at"] == "pooled"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-o", "e.csv"), ("e.csv", ".npz or .parquet")),
        (("-o", "nowhere/e.npz"), ("nowhere/e.npz", "no folder")),
        (("-o", "e.npz", "--at", "stage5"), ("'stage5' is not valid (did you mean 'stage4'?)", "pooled")),
        (("-o", "e.parquet"), ("pip install 'shufflenet-fn[parquet]'",)),
        (("-o", "e.npz", "nowhere.jpg"), ("nowhere.jpg",)),
    ],
)
def test_bad_request_is_one_message(
    command: Command,
    weights: Path,
    image_folder: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    words: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    outcome = command("embed", weights, image_folder / "val", "--arch", "x0_5", *arguments)
    assert outcome.code == 2 and all(word in outcome.err for word in words), outcome.err
    assert not list(tmp_path.iterdir())


def test_file_is_written_whole_or_not_at_all(
    command: Command, weights: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **arrays: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "e.npz").write_bytes(b"before")
    monkeypatch.setattr("numpy.savez", full)
    outcome = command("embed", weights, image_folder / "val", "--arch", "x0_5", "-o", "e.npz")
    assert outcome.code == 1 and "cannot write e.npz: No space left" in outcome.err
    assert [file.name for file in tmp_path.iterdir()] == ["e.npz"]
    assert (tmp_path / "e.npz").read_bytes() == b"before"

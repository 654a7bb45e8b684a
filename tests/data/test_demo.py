"""The demo set: the same bytes for a seed, a loadable folder, never half a set in its place."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from shufflenet_fn.data import demo
from shufflenet_fn.data.decode import decode_rgb
from shufflenet_fn.data.demo import (
    DEMO_CLASSES,
    TRAIN_PER_CLASS,
    VAL_PER_CLASS,
    ensure_demo,
    is_complete,
    stencil,
    write_demo,
)
from shufflenet_fn.data.folder import ImageFolder, open_train_val
from shufflenet_fn_backends.support.compiler import cache_root as default_cache_root
from shufflenet_fn_backends.support.errors import UserError

from .conftest import Array


def small(folder: Path, seed: int = 0) -> Path:
    return write_demo(folder, seed=seed, train_per_class=3, val_per_class=2)


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            total.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return total.hexdigest()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with the full demo set in it."""
    root = tmp_path_factory.mktemp("cache")
    ensure_demo(root)
    return root


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes ``ensure_demo`` write three images a class."""

    def write(folder: Path, *, seed: int) -> Path:
        return small(folder, seed)

    monkeypatch.setattr(demo, "write_demo", write)


def test_the_full_set_is_an_image_folder(cache: Path) -> None:
    folder = ensure_demo(cache)
    assert folder == cache / "demo-v1-seed0"
    train, val = open_train_val(folder)
    assert train.classes == val.classes == DEMO_CLASSES
    assert np.bincount(train.labels).tolist() == [TRAIN_PER_CLASS] * 10
    assert np.bincount(val.labels).tolist() == [VAL_PER_CLASS] * 10
    for index in range(0, len(train), 97):
        assert decode_rgb(train.read(index).data, path="x").shape == (64, 64, 3)
    assert contents(cache) == ["demo-v1-seed0"]


def test_no_two_images_are_equal(cache: Path) -> None:
    files = [path.read_bytes() for path in ensure_demo(cache).glob("*/*/*.jpg")]
    assert len(files) == 10 * (TRAIN_PER_CLASS + VAL_PER_CLASS)
    assert len(set(files)) == len(files)


def test_colour_does_not_tell_the_class(cache: Path) -> None:
    """A nearest-mean classifier on the average colour is close to chance (0.1)."""
    train, val = open_train_val(ensure_demo(cache))

    def colours(folder: ImageFolder, step: int) -> tuple[Array, Array]:
        picked = range(0, len(folder), step)
        means = [decode_rgb(folder.read(i).data, path="x").mean((0, 1)) for i in picked]
        return np.stack(means), folder.labels[list(picked)]

    features, labels = colours(train, 5)
    centres = np.stack([features[labels == label].mean(0) for label in range(10)])
    features, labels = colours(val, 1)
    nearest = ((features[:, None] - centres) ** 2).sum(2).argmin(1)
    assert (nearest == labels).mean() < 0.3


def test_no_class_is_anothers_mirror_image() -> None:
    """Stencils, mirrored or turned, differ from each other by a twentieth of the canvas."""
    shapes = {name: stencil(name).astype(float) / 255 for name in DEMO_CLASSES}
    for name, shape in shapes.items():
        for other in DEMO_CLASSES:
            if name != other:
                views = [np.rot90(view, k) for view in (shape, shape[:, ::-1]) for k in range(4)]
                assert min(abs(view - shapes[other]).mean() for view in views) > 0.05


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    first, again = small(tmp_path / "a"), small(tmp_path / "b")
    assert digest(first) == digest(again)
    assert digest(small(tmp_path / "c", seed=1)) != digest(first)


def test_a_finished_set_is_not_written_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "write_demo", None)
    ensure_demo(cache)


@pytest.mark.parametrize("damage", ["remove", "truncate", "garble the manifest"])
def test_a_damaged_set_is_replaced(tmp_path: Path, quick: None, damage: str) -> None:
    folder = ensure_demo(tmp_path)
    before = digest(folder)
    victim = folder / "train" / "star" / "star_0001.jpg"
    if damage == "remove":
        victim.unlink()
    elif damage == "truncate":
        victim.write_bytes(victim.read_bytes()[:100])
    else:
        (folder / "demo.json").write_text("{")
    assert not is_complete(folder)
    assert digest(ensure_demo(tmp_path)) == before
    assert contents(tmp_path) == ["demo-v1-seed0"]


def test_killed_run_leaves_no_partial_set(tmp_path: Path) -> None:
    code = f"""
import sys; sys.path[:] = {sys.path!r}
from pathlib import Path
from shufflenet_fn.data.demo import write_demo
write_demo(Path({str(tmp_path / "set")!r}), train_per_class=100000)
"""
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 20
    while not list(tmp_path.glob(".set.*/new/train/*/*.jpg")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not (tmp_path / "set").exists()
    small(tmp_path / "set")
    assert is_complete(tmp_path / "set")
    assert contents(tmp_path) == ["set"]


def test_a_failed_run_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "_measure", interrupt)
    with pytest.raises(KeyboardInterrupt):
        small(tmp_path / "set")
    assert contents(tmp_path) == []


def contents(folder: Path) -> list[str]:
    """What a user sees in a folder; the lock file stays, as locks do."""
    return sorted(name for name in os.listdir(folder) if not name.endswith(".lock"))


def test_several_first_runs_at_once(tmp_path: Path) -> None:
    code = f"""
import sys; sys.path[:] = {sys.path!r}
from pathlib import Path
from shufflenet_fn.data.demo import write_demo
write_demo(Path({str(tmp_path / "set")!r}), train_per_class=3, val_per_class=2)
"""
    runs = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(6)]
    assert [run.wait(60) for run in runs] == [0] * 6
    assert is_complete(tmp_path / "set")
    assert contents(tmp_path) == ["set"]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"mine: it exists and has no demo\.json.*Name another"):
        small(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_an_unwritable_cache_is_explained(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in the cache's place")
    with pytest.raises(UserError, match=r"cannot write the demo set to .*set XDG_CACHE_HOME"):
        ensure_demo(tmp_path / "cache")


def test_the_default_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache_root() == tmp_path / "shufflenet-fn"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert default_cache_root() == tmp_path / "home" / ".cache" / "shufflenet-fn"

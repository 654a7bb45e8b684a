"""The demo set: a loadable folder of the same bytes each time, never half a set in its place."""

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
from shufflenet_fn_backends.support.compiler import cache_root
from shufflenet_fn_backends.support.errors import UserError

from .conftest import Array


def small(folder: Path) -> Path:
    return write_demo(folder, train_per_class=3, val_per_class=2)


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            total.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return total.hexdigest()


def contents(folder: Path) -> list[str]:
    """What a user sees in a folder; the lock file stays, as locks do."""
    return sorted(name for name in os.listdir(folder) if not name.endswith(".lock"))


def test_the_full_set_is_an_image_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ensure_demo()
    assert folder == cache_root() / "demo-v1-seed0"
    train, val = open_train_val(folder)
    assert train.classes == val.classes == DEMO_CLASSES
    assert np.bincount(train.labels).tolist() == [TRAIN_PER_CLASS] * 10
    assert np.bincount(val.labels).tolist() == [VAL_PER_CLASS] * 10
    for index in range(0, len(train), 97):
        assert decode_rgb(train.read(index).data, path="x").shape == (64, 64, 3)
    files = {path.read_bytes() for path in folder.glob("*/*/*.jpg")}
    assert len(files) == 10 * (TRAIN_PER_CLASS + VAL_PER_CLASS), "two images are equal"
    monkeypatch.setattr(demo, "write_demo", None)
    ensure_demo()  # does not write it again


def test_colour_does_not_tell_the_class() -> None:
    """A nearest-mean classifier on the average colour is close to chance (0.1)."""
    train, val = open_train_val(ensure_demo())

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


@pytest.mark.parametrize("damage", ["remove", "truncate", "garble the manifest"])
def test_a_damaged_set_is_replaced_by_the_same_bytes(tmp_path: Path, damage: str) -> None:
    folder = small(tmp_path / "set")
    before = digest(folder)
    victim = folder / "train" / "star" / "star_0001.jpg"
    if damage == "remove":
        victim.unlink()
    elif damage == "truncate":
        victim.write_bytes(victim.read_bytes()[:100])
    else:
        (folder / "demo.json").write_text("{")
    assert not is_complete(folder)
    assert digest(small(folder)) == before
    assert contents(tmp_path) == ["set"]


def start(folder: Path, train_per_class: int) -> subprocess.Popen[bytes]:
    code = f"""
import sys; sys.path[:] = {sys.path!r}
from pathlib import Path
from shufflenet_fn.data.demo import write_demo
write_demo(Path({str(folder)!r}), train_per_class={train_per_class}, val_per_class=2)
"""
    return subprocess.Popen([sys.executable, "-c", code])


def test_killed_run_leaves_no_partial_set(tmp_path: Path) -> None:
    process = start(tmp_path / "set", 100_000)
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


def test_several_first_runs_at_once(tmp_path: Path) -> None:
    runs = [start(tmp_path / "set", 3) for _ in range(6)]
    assert [run.wait(60) for run in runs] == [0] * 6
    assert is_complete(tmp_path / "set")
    assert contents(tmp_path) == ["set"]


def test_places_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(UserError, match=r"mine: it exists and has no demo\.json.*Name another"):
        small(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").exists()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine" / "thesis.tex"))
    with pytest.raises(UserError, match=r"cannot write the demo set to .*set XDG_CACHE_HOME"):
        ensure_demo()


def test_the_default_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_root() == tmp_path / "shufflenet-fn"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_root() == tmp_path / "home" / ".cache" / "shufflenet-fn"

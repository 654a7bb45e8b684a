"""A real ``data pack`` process, killed at random moments or out of space, and what comes after."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shufflenet_fn.data.packed import destination
from shufflenet_fn.data.packed.index import PackSettings
from shufflenet_fn.data.packed.verify import verify
from shufflenet_fn.data.packed.write import pack
from shufflenet_fn_backends.support.errors import UsageError, UserError

from .test_write import same_set

SETTINGS = PackSettings("raw", 0, None, shard_bytes=1 << 19)
OPTIONS = ("--format", "raw", "--short-side", "0", "--shard-size", "0.5", "--workers", "2")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 JPEGs of 160×160: 75 kB each as raw pixels, so 43 shards."""
    root = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(0)
    for split, count in (("train", 240), ("val", 60)):
        (root / split / "noise").mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 255, (160, 160, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / split / "noise" / f"{number:03d}.jpg")
    return root


@pytest.fixture(scope="module")
def uninterrupted(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "set"
    pack(source, folder, SETTINGS, workers=2)
    return folder


def start(source: Path, folder: Path, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "shufflenet_fn_cli.main", "data", "pack", source, folder, *OPTIONS]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


def disk_full(path: Path, fields: object) -> None:
    raise OSError(f"disk full: {path}")


def shards_in(folder: Path) -> int:
    return len(list(folder.glob("*.tar")))


@pytest.mark.parametrize(("how", "times"), [(signal.SIGKILL, 2), (signal.SIGINT, 1)])
def test_killed_run_continues_to_the_same_bytes(
    source: Path,
    uninterrupted: Path,
    tmp_path: Path,
    how: signal.Signals,
    times: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "packed"
    rng = np.random.default_rng(int(how))
    before = 0
    for moment in sorted(rng.integers(1, 30, times).tolist()):  # in finished shards
        process = start(source, folder)
        while process.poll() is None and shards_in(folder) < moment:
            time.sleep(0.005)
        process.send_signal(how)
        out, err = process.communicate(timeout=300)
        assert process.returncode != 0, (out, err)
        assert "Traceback" not in err
        assert (how == signal.SIGINT) == ("interrupted: run the same command again" in err)
        assert before <= shards_in(folder) < 43
        before = shards_in(folder)
        with pytest.raises(UsageError, match="half packed"):
            verify(folder, workers=1)
        with monkeypatch.context() as full, pytest.raises(UserError, match="disk full"):
            full.setattr(destination, "write_sealed", disk_full)
            pack(source, folder, SETTINGS, workers=2)
        before = shards_in(folder)
        assert before > 0
    packed = pack(source, folder, SETTINGS, workers=2)
    assert packed.images_resumed > 0
    same_set(folder, uninterrupted)


def test_full_disk_is_explained_and_recoverable(source: Path, uninterrupted: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: the same failing write, other wording."""
    folder = tmp_path / "packed"
    limit = (100_000, resource.RLIM_INFINITY)
    process = start(source, folder, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    _, err = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "Traceback" not in err
    assert "cannot write packed data" in err
    assert "File too large" in err
    assert "run the same command again" in err
    assert not list(folder.glob("*.tmp"))
    assert shards_in(folder) == 0
    pack(source, folder, SETTINGS, workers=2)
    same_set(folder, uninterrupted)

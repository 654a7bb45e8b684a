"""A small folder packed both ways, in several shards each."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from shufflenet_fn.data.packed.index import PackSettings
from shufflenet_fn.data.packed.write import pack

JPEG = PackSettings(short_side=64, shard_bytes=12_000)
RAW = PackSettings(format="raw", short_side=64, quality=None, shard_bytes=60_000)


@pytest.fixture(scope="session", params=[JPEG, RAW], ids=["jpeg", "raw"])
def settings(request: pytest.FixtureRequest) -> PackSettings:
    """How ``packed_once`` is packed."""
    result: PackSettings = request.param
    return result


@pytest.fixture(scope="session")
def packed_once(photo_root: Path, settings: PackSettings, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``photo_root``, packed. Not to be written to."""
    folder = tmp_path_factory.mktemp("packed") / "set"
    pack(photo_root, folder, settings, workers=2)
    return folder


@pytest.fixture
def packed(packed_once: Path, tmp_path: Path) -> Path:
    """A copy of ``packed_once`` that a test may damage."""
    return Path(shutil.copytree(packed_once, tmp_path / "packed"))

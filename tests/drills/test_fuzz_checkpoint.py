"""``drills/fuzz_checkpoint.py`` on a small network, and that it would see what is not detected."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

from drills.fuzz_checkpoint import appended, flips, fuzz, tried, write_two
from shufflenet_fn.checkpoint.format import WEIGHTS, StoredFile, encode_manifest, sha256
from shufflenet_fn.checkpoint.read import read_checkpoint
from tests.model.support import TINY


def test_every_damage_is_detected() -> None:
    counts = {count.kind: count for count in fuzz(TINY, 150, seed=1)}
    assert all(count.tried == count.detected for count in counts.values())
    assert all(count.fell_back and not count.violations for count in counts.values())
    assert counts["a bit flipped"].tried == 150
    assert counts["truncated at every 4 KiB"].tried > 20
    assert len(counts) == 6


def test_every_damage_changes_files_and_is_undone(tmp_path: Path) -> None:
    _, newer = write_two(tmp_path, TINY, seed=0)
    before = {file.name: file.read_bytes() for file in newer.iterdir()}
    for damages in (flips(newer, 5, random.Random(0)), appended(newer, random.Random(0))):
        for _ in damages:
            assert {file.name: file.read_bytes() for file in newer.iterdir()} != before
        assert {file.name: file.read_bytes() for file in newer.iterdir()} == before


def test_a_wrong_load_is_counted(tmp_path: Path) -> None:
    """A manifest that vouches for the damaged file stands in for a check that fails."""
    _, newer = write_two(tmp_path, TINY, seed=0)
    saved = read_checkpoint(newer)
    files = {file.name: file.read_bytes() for file in newer.iterdir()}

    def vouched_for() -> Iterator[str]:
        content = bytearray(files[WEIGHTS])
        content[-1] ^= 1
        stored = {
            name: StoredFile(sha256(data), len(data))
            for name, data in {**files, WEIGHTS: bytes(content)}.items()
            if name != "manifest.json"
        }
        (newer / WEIGHTS).write_bytes(content)
        (newer / "manifest.json").write_bytes(encode_manifest({}, 2, stored))
        yield "vouched for"
        for name, data in files.items():
            (newer / name).write_bytes(data)

    count = tried("vouched for", vouched_for(), newer, saved)
    assert (count.tried, count.detected, count.wrong) == (1, 0, 1) and count.violations

"""The fuzzing of input: its small version, and that it would notice what it is there for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drills.fuzz import images
from drills.fuzz.images import ERROR, PIXELS, Wrong, outcome_of
from drills.fuzz.mutations import MUTATIONS, mutate
from drills.fuzz.pictures import made_pictures
from drills.fuzz.supervised import Ended, supervised
from drills.fuzz.trials import DETECTED, make_trials
from drills.fuzz_checkpoint import fuzz, tried, write_two
from shufflenet_fn.checkpoint.format import WEIGHTS, StoredFile, encode_manifest, sha256
from shufflenet_fn.checkpoint.read import read_checkpoint
from shufflenet_fn.data.bad_images import BadImage
from shufflenet_fn.data.decode import LazyImage, Scratch, as_lazy_image
from tests.model.support import TINY

from . import fuzz_trials


def test_200_damaged_files_give_errors_or_right_pixels(tmp_path: Path) -> None:
    trial = make_trials(7, None, str(tmp_path))
    trials = [trial(number) for number in range(200)]
    assert [result for result in trials if result.violation] == []
    counts = Counter(result.outcome for result in trials)
    assert min(counts[outcome] for outcome in (ERROR, PIXELS, DETECTED)) > 10
    assert {result.mutation for result in trials} == set(MUTATIONS)
    assert trials[13] == make_trials(7, None, str(tmp_path))(13)


@pytest.fixture(scope="module")
def damaged() -> list[bytes]:
    """JPEGs that the decoder refuses because libjpeg-turbo warns about them."""
    found = []
    for number, data in enumerate(made_pictures()[:12]):
        broken = data[: len(data) * 9 // 10]
        assert outcome_of(broken, number, Scratch()) == ERROR
        found.append(broken)
    return found


def lenient(encoded: Any, *, name: str, scratch: Scratch) -> LazyImage:
    """A loader that takes what libjpeg-turbo makes of a damaged file."""
    import simplejpeg

    return as_lazy_image(simplejpeg.decode_jpeg(encoded.data, colorspace="RGB", strict=False))


def test_pixels_of_a_damaged_file_are_a_violation(
    damaged: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "open_image", lenient)
    for number, data in enumerate(damaged):
        with pytest.raises(Wrong, match="pixels, but the reference has none"):
            outcome_of(data, number, Scratch())


@pytest.mark.parametrize("offset", [1, 255])
def test_other_pixels_are_a_violation(monkeypatch: pytest.MonkeyPatch, offset: int) -> None:
    real = images.open_image

    def off(encoded: Any, **options: Any) -> LazyImage:
        return as_lazy_image(real(encoded, **options).decode(1) + np.uint8(offset))

    monkeypatch.setattr(images, "open_image", off)
    with pytest.raises(Wrong, match="other pixels, by up to"):
        outcome_of(made_pictures()[12], 0, Scratch())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError("no memory"), "MemoryError: no memory"),
        (BadImage("another.jpg", "bad"), "does not name the file"),
        (BadImage("mutation 5", ""), "does not name the file"),
    ],
)
def test_an_error_without_the_name_is_a_violation(
    monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def failing(encoded: Any, **options: Any) -> LazyImage:
        raise error

    monkeypatch.setattr(images, "open_image", failing)
    with pytest.raises(Wrong, match=message):
        outcome_of(made_pictures()[0], 5, Scratch())


def test_crash_and_hang_do_not_end_the_trials() -> None:
    ended = list(supervised(fuzz_trials.make, (1, 3), range(5), limit_s=1.0))
    assert [(item.number, item.result) for item in ended] == [(0, 0), (1, None), (2, 4), (3, None), (4, 16)]
    assert ended[1].reason == "crash: the process ended with code -11"
    assert ended[3] == Ended(3, None, "hang: it took more than 1 s")


@pytest.mark.parametrize("kind", MUTATIONS)
def test_mutations_are_of_any_file_and_seeded(kind: str) -> None:
    for data in (b"\xff", b"\xff\xd8\xff\xe0", bytes(range(256)) * 40):
        for seed in range(30):
            once, again = bytearray(data), bytearray(data)
            MUTATIONS[kind](once, np.random.default_rng(seed))
            MUTATIONS[kind](again, np.random.default_rng(seed))
            assert once == again
    assert mutate(b"abc", np.random.default_rng(1)) == mutate(b"abc", np.random.default_rng(1))


# ---- ``drills/fuzz_checkpoint.py`` on a small network, and that it would see what is not detected ----


def test_every_damage_is_detected() -> None:
    counts = {count.kind: count for count in fuzz(TINY, 150, seed=1)}
    assert all(count.tried == count.detected for count in counts.values())
    assert all(count.fell_back and not count.violations for count in counts.values())
    assert counts["a bit flipped"].tried == 150
    assert counts["truncated at every 4 KiB"].tried > 20
    assert len(counts) == 6


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

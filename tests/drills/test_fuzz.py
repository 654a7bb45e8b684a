"""The fuzzing of input: its small version, and that it would notice what it is there for."""

from __future__ import annotations

from collections import Counter
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
from shufflenet_fn.data.bad_images import BadImage
from shufflenet_fn.data.lazy_image import LazyImage, Scratch, as_lazy_image

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

"""How a resumed run counts epochs, and what it says of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from shufflenet_fn.checkpoint.read import Content
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.run.build import build_schedule
from shufflenet_fn.run.epochs import Epochs, count_epochs, epochs_of, rate_jump
from shufflenet_fn_backends.support.errors import UsageError

SETTINGS = TrainSettings(batch_size=6, epochs=4, learning_rate=0.1)


def manifest(step: int, epoch: int, within: int | None = None) -> dict[str, Any]:
    """Of a run of 36 images, 6 in an update; ``within``: updates of an epoch that is not over."""
    unfinished = None if within is None else {"steps": within}
    return {
        **dict(step=step, epoch=epoch, unfinished=unfinished, steps_per_epoch=6, global_batch=6),
        "identity": {"training images": 36},
        "settings": {},
    }


def counted(about: dict[str, Any], *, images: int = 36, world: int = 1, **changes: Any) -> Epochs:
    settings = TrainSettings(**{"batch_size": 6, **changes})
    resume = Content(Path("step-00000099"), about, {})
    return count_epochs(settings, world, images, resume)


@pytest.mark.parametrize(
    ("about", "changes", "expected"),
    [
        (manifest(12, 1), {}, Epochs(6)),
        (manifest(8, 1, 2), {}, Epochs(6)),
        (manifest(8, 1, 2), {"world": 3}, Epochs(6)),  # the same updates on other devices
        (manifest(12, 1), {"batch_size": 12}, Epochs(3, -6)),
        (manifest(12, 1), {"batch_size": 4}, Epochs(9, 6)),
        (manifest(12, 1), {"accumulate": 3}, Epochs(2, -8)),
        (manifest(12, 1), {"images": 48}, Epochs(8, 4)),
        (manifest(12, 1), {"repeats": 2}, Epochs(6)),
        (manifest(9, 1), {"batch_size": 12}, Epochs(3, -3)),  # changed once before
        (manifest(11, 2, 2), {}, Epochs(6, 3)),
        (manifest(0, 0), {"batch_size": 12}, Epochs(3)),  # before the first update
    ],
)
def test_epochs_done_stay_done(about: dict[str, Any], changes: dict[str, Any], expected: Epochs) -> None:
    found = counted(about, **changes)
    assert found == expected
    before = epochs_of(about)
    assert found.place(about["step"])[0] == before.place(about["step"])[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 12}, "12 images per update instead of 6"),
        ({"batch_size": 5, "images": 30}, "5 images per update instead of 6 and 30 training"),
        ({"accumulate": 2}, "12 images per update instead of 6"),
        ({"images": 30}, "30 training images instead of 36.*Restore the data"),
        ({"repeats": 2}, "2 showings of an image instead of 1"),
    ],
)
def test_a_change_within_an_epoch_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=rf"after update 2 of 6 .*{words}.*--max-steps 12,"):
        counted(manifest(8, 1, 2), **changes)
    # One image more makes no other number of updates; that the data changed is said elsewhere.
    assert counted(manifest(8, 1, 2), images=37) == Epochs(6)


@pytest.mark.parametrize(
    ("about", "changes", "length", "words"),
    [
        (manifest(6, 0), {}, 6, None),
        (manifest(6, 0), {}, 3, None),
        (manifest(6, 0), {"epochs": 8}, 6, "from 0.1 to 0.09619 at update 6.*it would be 0.08536"),
        (manifest(6, 0), {"learning_rate": 0.2}, 6, "from 0.1 to 0.1707"),
        (manifest(6, 0), {"schedule": "linear"}, 6, "from 0.1 to 0.075"),
        (manifest(6, 0), {"schedule": "constant"}, 6, None),  # as in the update before
        (manifest(6, 0), {"warm_up_epochs": 2}, 6, "from 0.1 to 0.06667"),
        (manifest(24, 3), {"epochs": 8}, 6, "from 0.01464 to 0.05 at update 24"),
    ],
)
def test_a_jump_of_the_learning_rate_is_named(
    about: dict[str, Any], changes: dict[str, Any], length: int, words: str | None
) -> None:
    now = TrainSettings(**{"batch_size": 6, "epochs": 4, "learning_rate": 0.1, **changes})
    found = rate_jump(about, SETTINGS, now, Epochs(length, length - 6))
    assert bool(found) == bool(words) and (not words or re.search(words, found[0]))


@pytest.mark.parametrize("schedule", ["epoch-cosine", "cosine", "linear"])
def test_the_schedule_goes_by_position(schedule: str) -> None:
    settings = TrainSettings(epochs=4, schedule=schedule)
    plain, shifted = build_schedule(settings, 3), build_schedule(settings, *Epochs(3, -6))
    for step in (12, 13, 17):
        assert torch.equal(shifted(torch.tensor(step)), plain(torch.tensor(step - 6)))

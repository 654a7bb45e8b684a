"""What a resume compares, what it keeps, and how a difference is told."""

from __future__ import annotations

from typing import Any

import pytest

from shufflenet_fn.config.derived import microbatches_of, microbatches_per_device
from shufflenet_fn.config.resolve import Resolved
from shufflenet_fn.config.settings import TrainSettings
from shufflenet_fn.run.epochs import Epochs
from shufflenet_fn.run.fingerprint import differences
from shufflenet_fn.run.resumed_settings import KEPT, idle_cores, pin_backend, pin_choices
from shufflenet_fn_backends.support.errors import UsageError

STORED: dict[str, Any] = {
    "world size": 2,
    "lanes": 2,
    "compute threads": 4,
    "torch": "2.9",
    "simplejpeg": "1.8",
    "training files": "aa",
    "torch_npu": None,
}


def told(changes: dict[str, Any], *, length: int = 3, bn_stats: str = "mean") -> list[str]:
    about = {"identity": STORED, "steps_per_epoch": 3, "step": 6}
    return differences(about, {**STORED, **changes}, epochs=Epochs(length), bn_stats=bn_stats)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("compute threads", 8, "compute threads is 8 and was 4"),
        ("torch", "2.10", "torch is 2.10 and was 2.9"),
        ("simplejpeg", "1.9", "slightly other pixels"),
        ("training files", "bb", "training files differ"),
        ("lanes", 4, "batch norms see other groups"),
        ("world size", 1, "the groups of batch norms are kept"),
        ("torch_npu", "2.9", "torch_npu is 2.9 and was absent"),
    ],
)
def test_each_difference_is_named_with_what_it_means(name: str, value: Any, words: str) -> None:
    (line,) = told({name: value})
    assert words in line and "since the checkpoint was written" in line


def test_equal_or_unrecorded_values_are_not_reported() -> None:
    assert told({"new": 1}) == []


def test_another_epoch_length_is_named() -> None:
    (line,) = told({}, length=4)
    assert line.startswith("steps_per_epoch is 4, and was 3 when")


def test_statistics_of_rank_0_change_with_the_ranks() -> None:
    (line,) = told({"world size": 1}, bn_stats="rank0")
    assert "--bn-stats rank0" in line


def resolved(**values: Any) -> Resolved:
    return Resolved(TrainSettings(**values), {}, None)


def manifest(**values: Any) -> dict[str, Any]:
    stored = {"lanes": 4, "global_batch": 512, "threads": 3, "settings": {"batch_size": 256}}
    return {**stored, "backend": "gather", "device": "cpu", **values}


def test_microbatches_and_threads_are_pinned_unless_given() -> None:
    kept, notes = pin_choices(resolved(), manifest(), {})
    assert (kept.settings.microbatches, kept.settings.threads) == (4, 3)
    assert kept.origin == {"microbatches": KEPT, "threads": KEPT} and len(notes) == 2
    kept, _ = pin_choices(resolved(microbatches=8, threads=1), manifest(), {"microbatches": 8, "threads": 1})
    assert (kept.settings.microbatches, kept.settings.threads) == (8, 1)
    kept, _ = pin_choices(resolved(microbatches=4, accumulate=3), manifest(), {"accumulate": 3})
    assert kept.settings.microbatches is None


def test_the_accumulation_of_the_originals_switch_is_kept() -> None:
    """It depends on the number of devices at the start."""
    kept, _ = pin_choices(resolved(benchmark=1), manifest(), {})
    assert (kept.settings.benchmark, kept.settings.accumulate) == (0, 2)


def test_auto_backend_is_pinned_on_same_device() -> None:
    kept, notes = pin_backend(resolved(), manifest(), "cpu")
    assert kept.settings.backend == "gather" and notes
    for other in (resolved(backend="native"), resolved()):
        device = "cpu" if other.settings.backend == "native" else "cuda"
        assert pin_backend(other, manifest(), device) == (other, [])


def test_microbatches_split_over_any_divisor_of_devices() -> None:
    settings = TrainSettings(batch_size=48, microbatches=12)
    assert [microbatches_per_device(settings, n) for n in (1, 2, 3, 4, 6, 12)] == [12, 6, 4, 3, 2, 1]
    with pytest.raises(UsageError, match=r"may be one of: 1, 2, 3, 4, 6, 12\. .*--microbatches 15"):
        microbatches_of(settings, 5)
    with pytest.raises(UsageError, match="does not divide into 7 microbatches"):
        microbatches_of(TrainSettings(batch_size=48, microbatches=7), 1)
    assert microbatches_of(TrainSettings(batch_size=48, accumulate=3), 4) == 12


def test_unsuitable_pinned_threads_are_reported() -> None:
    assert idle_cores(KEPT, 2, 2) == idle_cores("command line", 2, 8) == []
    assert "--threads 8" in idle_cores(KEPT, 2, 8)[0]

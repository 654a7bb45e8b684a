"""How many loader threads a process has."""

from __future__ import annotations

import pytest

from shufflenet_fn.config.presets import PRESETS
from shufflenet_fn.run.training import loader_threads
from shufflenet_fn_backends.runtimes.cpu import usable_cores


@pytest.mark.parametrize(
    ("workers", "devices", "threads"), [(0, 1, 0), (0, 8, 0), (1, 8, 1), (7, 2, 4), (4096, 8, 512)]
)
def test_given_thread_count_is_used(workers: int, devices: int, threads: int) -> None:
    assert loader_threads(workers, devices) == threads


def test_the_default_is_a_share_of_the_cores() -> None:
    assert loader_threads(None, 1) == usable_cores()
    assert loader_threads(None, 10_000) == 1


@pytest.mark.parametrize("name", ["ascend-1p", "ascend-8p"])
def test_presets_do_not_set_loader_threads(name: str) -> None:
    """A thread holds two batches: 128 on a laptop would fill its memory."""
    assert "workers" not in PRESETS[name].values

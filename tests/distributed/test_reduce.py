"""Two processes over gloo against one process and against DistributedDataParallel."""

from __future__ import annotations

import pytest
import torch

from shufflenet_fn.distributed.launch import launch
from tests.distributed.rank_functions import Report, everything


@pytest.fixture(scope="module")
def report() -> Report:
    return launch(everything, [1, 2], processes=2)


def test_launch_returns_result_of_rank_0(report: Report) -> None:
    assert (report.written_by, report.argument) == (0, [1, 2])


def test_gradients_are_the_mean_of_the_halves(report: Report) -> None:
    """Measured: 3e-16 in float64."""
    assert 0.0 <= report.gradients_against_one_process < 1e-12


def test_running_statistics_are_the_mean_of_the_ranks(report: Report) -> None:
    assert 0.0 <= report.statistics_against_one_process < 1e-12


def test_metrics_are_the_mean_of_the_ranks(report: Report) -> None:
    assert 0.0 <= report.metrics_against_one_process < 1e-6


def test_two_ranks_equal_two_microbatches(report: Report) -> None:
    assert 0.0 <= report.microbatches_against_ranks < 1e-6


def test_gradients_are_those_of_distributed_data_parallel(report: Report) -> None:
    pytest.importorskip("torchvision")
    assert report.gradients_against_ddp is not None
    assert 0.0 <= report.gradients_against_ddp < 1e-11


def test_rank0_mode_broadcasts_statistics_of_rank_0(report: Report) -> None:
    assert report.statistics_against_rank0 == 0.0
    assert 0.0 <= report.gradients_in_rank0_mode < 1e-12


@pytest.mark.parametrize("bn_stats", ["mean", "rank0"])
def test_training_leaves_every_rank_with_the_same_bytes(report: Report, bn_stats: str) -> None:
    first, second = report.digests[bn_stats]
    assert first == second
    assert len({first, report.digests["mean"][0], report.digests["start"][0]}) >= 2
    assert first != report.digests["start"][0]


def test_the_two_modes_differ(report: Report) -> None:
    assert report.digests["mean"] != report.digests["rank0"]


def test_one_collective_per_dtype(report: Report) -> None:
    assert report.collectives == {"float32": ["float32"], "float16": ["float16", "float32"]}
    assert report.collectives_timed == 3


def test_mixed_dtypes_and_shapes(report: Report) -> None:
    assert report.mixed == {
        "half": ("float16 2x3", [2.0] * 6),
        "single": ("float32 ", [2.0]),
        "again.0": ("float32 4", [20.0] * 4),
        "brain": ("bfloat16 1x1x2", [2.0] * 2),
        "double": ("float64 3", [2.0] * 3),
        "empty": ("float32 0", []),
        "strided": ("float32 3x2", [0.0, 6.0, 2.0, 8.0, 4.0, 10.0]),
    }


def test_a_stop_on_one_rank_reaches_all(report: Report) -> None:
    assert report.stop_flags == [0.5, 0.5]


def test_overflow_on_one_rank_skips_all(report: Report) -> None:
    assert report.skipped_flags == [1.0] * 4
    assert report.unchanged_by_skip == [True] * 4


def test_gather_and_world(report: Report) -> None:
    (first, pid, a), (second, other_pid, aa) = report.ranks
    assert (first.rank, second.rank, first.local_rank, second.local_rank) == (0, 1, 0, 1)
    assert first.size == second.size == first.local_size == second.local_size == 2
    assert first.is_main and not second.is_main
    assert pid != other_pid and (a, aa) == ("a", "aa")


def test_the_check_for_equality(report: Report) -> None:
    assert report.equal_check == "passed"
    first, second = report.unequal_check
    assert first == second
    assert "the weights differs between ranks: ranks [1] do not hold what rank 0 holds" in first


def test_no_group_is_left_behind_in_this_process(report: Report) -> None:
    assert not torch.distributed.is_initialized()

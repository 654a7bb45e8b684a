"""``torch.distributed`` with backend hccl: the real torch_npu, on HCCL emulated over shared memory."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from ascend_emulator.environment import Machine, variables
from ascend_emulator.forks import Forks
from tests import hccl_cases
from tests.conftest import REPOSITORY

Answers = list[dict[str, Any]]
OnRanks = Callable[..., Answers]

FAULTS = "ASCEND_EMULATOR_FAULTS"
REMOTE = "EI0013: rank {rank} (process {pid}) of communicator {name} has ended"
# Ranks start in a second or two where nothing else runs; a death is noticed within 0.1 s. Without the
# emulator's look at its peers it would be half an hour (HCCL_EXEC_TIMEOUT).
SOON_S = 60.0
RANK = """
import json, os, sys
from tests import hccl_scenarios
rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
print(json.dumps(getattr(hccl_scenarios, sys.argv[1])(rank, size, sys.argv[2])))
"""


@pytest.fixture(scope="module")
def on_ranks(forks: Forks, libraries: Path, tmp_path_factory: pytest.TempPathFactory) -> OnRanks:
    """Run a function of ``hccl_scenarios.py`` in some ranks, each a process with a device of its own."""
    base = {**os.environ, **variables(libraries, Machine(devices=8))}

    def run(do: str, size: int, within: float = SOON_S, **environ: str) -> Answers:
        store = f"file://{tmp_path_factory.mktemp('ranks')}/store"
        environs = [
            {**base, **environ, "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
            for rank in range(size)
        ]
        ended = forks.run(RANK, [do, store], environs, cwd=REPOSITORY, within=within)
        return [{**one._asdict(), "value": json.loads(one.out or "null")} for one in ended]

    return run


@pytest.fixture(scope="module")
def wrong(on_ranks: OnRanks, shared_folder: Path) -> dict[str, str]:
    """What is wrong in each case, in all ranks that took part in it. Run once for all workers."""
    kept = shared_folder / "hccl_values.json"
    with FileLock(kept.with_suffix(".lock")):
        if not kept.is_file():
            answers = on_ranks("values", 4, within=180.0, HCCL_EXEC_TIMEOUT="60")
            for answer in answers:
                assert answer["code"] == 0, answer["err"]
            together: dict[str, str] = {}
            for answer in answers:
                for case, text in answer["value"].items():
                    together[case] = together.get(case, "") + text
            kept.write_text(json.dumps(together))
    found: dict[str, str] = json.loads(kept.read_text())
    return found


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("case", [case.__name__ for case in hccl_cases.CASES])
def test_values(wrong: dict[str, str], case: str, size: int) -> None:
    """Every collective in every dtype it takes, in groups of 2 and 3 of the 4 ranks and in all."""
    assert wrong[f"{case}-{size}"] == ""


def last_error(answer: dict[str, Any]) -> str:
    """What Python's traceback ended with, without torch_npu's notes and CANN's prefix."""
    text = str(answer["err"])
    assert "\nRuntimeError: " in text, text
    return text[text.rindex("\nRuntimeError: ") :]


def test_killed_rank_ends_the_others_by_name(on_ranks: OnRanks) -> None:
    answers = on_ranks("die", 3)
    assert [answer["code"] for answer in answers] == [1, -9, 1]
    for rank in (0, 2):
        error = last_error(answers[rank])
        assert REMOTE.format(rank=1, pid=answers[1]["pid"], name="group_name_0") in error
        assert "the current working operator name is HcclAllreduce" in error
        # Most of it is what the end of a process takes.
        assert answers[rank]["took"] - answers[1]["took"] < 20.0


def test_fault_kills_rank_at_nth_collective(on_ranks: OnRanks) -> None:
    answers = on_ranks("train", 2, **{FAULTS: "hccl:kill@3#1"})
    assert [answer["code"] for answer in answers] == [1, -9]
    assert "(collective 3)" in last_error(answers[0])


def test_hung_rank_times_out_the_others_by_name(on_ranks: OnRanks) -> None:
    answers = on_ranks("train", 3, HCCL_EXEC_TIMEOUT="3", **{FAULTS: "hccl:hang@3#2"})
    assert [answer["code"] for answer in answers] == [1, 1, 1]
    for rank in (0, 1):
        error = last_error(answers[rank])
        assert f"EI0002: HcclAllReduce (collective 3) on rank {rank} of communicator" in error
        assert "timed out after 3 s (HCCL_EXEC_TIMEOUT)" in error
        assert f"rank 2 (process {answers[2]['pid']}) still runs but did not come to it" in error


def test_missing_rank_times_out_the_others(on_ranks: OnRanks) -> None:
    answers = on_ranks("absent", 2, HCCL_CONNECT_TIMEOUT="1")
    error = last_error(answers[0])
    assert (
        "EI0006: the set-up of communicator group_name_0 timed out after 1 s (HCCL_CONNECT_TIMEOUT)" in error
    )
    assert "of 2 ranks, rank 1 did not come" in error


def test_calls_that_differ_are_named_on_all_ranks(on_ranks: OnRanks) -> None:
    answers = on_ranks("differ", 2)
    assert [answer["code"] for answer in answers] == [1, 1]
    for answer in answers:
        error = last_error(answer)
        assert "EI0005: the ranks of communicator group_name_0 do not call the same" in error
        assert re.search(
            r"float32 x 10, sum\) on rank 0 .* \(float32 x 11|float32 x 11, sum\) on rank 1", error
        )


def test_ranks_that_set_no_device_are_told_to(on_ranks: OnRanks) -> None:
    for answer in on_ranks("same_device", 2):
        error = last_error(answer)
        assert "EI0004: rank 0" in error
        assert "use the same device 0; call torch.npu.set_device(LOCAL_RANK)" in error


def test_asynchronous_error_ends_the_process(on_ranks: OnRanks) -> None:
    """What ``TORCH_HCCL_ASYNC_ERROR_HANDLING`` is for: the process ends though no call failed."""
    answers = on_ranks("linger", 2, **{FAULTS: "hccl:async@2#1"})
    assert [answer["code"] for answer in answers] == [0, -6]
    assert "got an asynchronous error, as was asked for by a fault" in answers[1]["err"]
    assert "we are taking the entire process down" in answers[1]["err"]
    answers = on_ranks("linger", 2, TORCH_HCCL_ASYNC_ERROR_HANDLING="0", **{FAULTS: "hccl:async@2#1"})
    assert [answer["code"] for answer in answers] == [0, 0]


def test_what_is_refused_and_what_bool_becomes(on_ranks: OnRanks) -> None:
    for answer in on_ranks("refused", 2):
        assert answer["code"] == 0, answer["err"]
        double, either = answer["value"]
        assert "HCCL allreduce: Unsupported data type at::kDouble" in double
        assert either == [True, True, False]


def test_nothing_is_left_of_ranks_that_were_killed(on_ranks: OnRanks, tmp_path: Path) -> None:
    shared = Path("/dev/shm")
    before = set(os.listdir(shared)) if shared.is_dir() else set()
    answers = on_ranks("all_die", 3, TMPDIR=str(tmp_path))
    assert [answer["code"] for answer in answers] == [-9, -9, -9]
    assert list(tmp_path.iterdir()) == []
    after = set(os.listdir(shared)) if shared.is_dir() else set()
    assert {name for name in after - before if "hccl" in name.lower()} == set()

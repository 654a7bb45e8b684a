"""Ranks that fail, hang, are killed or are asked to stop: the launcher ends them, and nothing is left."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import pytest

from shufflenet_fn.distributed import elastic
from shufflenet_fn.distributed import launch as launching
from shufflenet_fn.distributed.heartbeats import Heartbeat, Phase
from shufflenet_fn.distributed.launch import Launch, RankFailed, StoppedWaiting, launch
from shufflenet_fn.distributed.world import Nodes
from shufflenet_fn.errors import UsageError, UserError
from shufflenet_fn_backends.runtimes.base import Settling
from tests.distributed.rank_functions import (
    fails_in_exit_handlers,
    fails_on_rank_1,
    killed_once,
    refused_at_first,
    says_when_it_was_told_to_stop,
    steps_that_hang_at_three,
)

SETTLING = Settling(0.2, re.compile("EJ0001"), "it was killed")


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ranks write in a temporary folder of this test; it is empty in the end."""
    own = tmp_path / "tmp"
    own.mkdir()
    monkeypatch.setenv("TMPDIR", str(own))
    monkeypatch.setattr(tempfile, "tempdir", None)
    # One machine must not depend on its own name, which may not resolve.
    monkeypatch.setattr(socket, "getfqdn", lambda *name: pytest.fail("looked up this host"))
    yield
    assert not list(own.iterdir())


@pytest.mark.parametrize(
    ("how", "waiting", "words", "code"),
    [
        ("user error", "in a collective", r"^the folder /nowhere is missing \(rank 1\)$", 2),
        ("user error", "asleep", r"^the folder /nowhere is missing \(rank 1\)$", 2),
        ("killed", "in a collective", "rank 1 was killed by SIGKILL.* memory", 1),
        ("bug", "in a collective", "rank 1 failed with ZeroDivisionError.*its traceback is above", 1),
        ("lost peer", "asleep", "Connection closed by peer.*Look for the first error of all ranks", 1),
    ],
)
def test_failing_rank_gives_message_and_exit_code(
    how: str, waiting: str, words: str, code: int, capfd: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    # What the user can fix is not tried again.
    watching = Launch(max_restarts=5 if how == "user error" else 0, say=said.append)
    with pytest.raises(RankFailed, match=words) as error:
        launch(fails_on_rank_1, (how, waiting), processes=2, watching=watching)
    assert isinstance(error.value, UserError) and error.value.exit_code == code
    assert not said
    shown = capfd.readouterr().err
    if how == "bug":
        assert "in fails_on_rank_1" in shown and "ZeroDivisionError: a bug, not the user's to mend" in shown
        assert "SIGTERM" not in shown and shown.count("Traceback") == 1
    else:
        assert shown == ""


@pytest.mark.parametrize("how", ["in its own work", "stopped"])
def test_hanging_rank_is_named(how: str) -> None:
    watching = Launch(hang_timeout_s=3.0)
    with pytest.raises(RankFailed) as error:
        launch(steps_that_hang_at_three, how, processes=2, watching=watching)
    said = str(error.value)
    assert said.startswith("rank 1 at step 3 hangs in its own work: no progress for 3 s")
    assert ("SIGSTOP" in said) == (how == "stopped")
    assert "\n" not in said and error.value.failure.restartable


def test_restarts_are_limited_and_failures_kept() -> None:
    said: list[str] = []
    watching = Launch(max_restarts=1, say=said.append)
    with pytest.raises(RankFailed, match="rank 1 was killed") as error:
        launch(fails_on_rank_1, ("killed", "asleep"), processes=2, watching=watching)
    assert len(said) == 1
    assert said[0].startswith("rank 1 was killed by SIGKILL") and "Restart 1 of 1" in said[0]
    assert [failure.rank for failure in error.value.failures] == [1, 1]


def test_restart_waits_for_devices(tmp_path: Path) -> None:
    said: list[str] = []
    watching = Launch(max_restarts=1, settling=SETTLING, say=said.append)
    assert launch(killed_once, str(tmp_path), processes=2, watching=watching) == 1
    wait, restart = said
    assert wait.startswith("rank 1 was killed by SIGKILL")
    assert wait.endswith("Waiting 0.2 s until the devices are free: it was killed.")
    assert restart == "Restart 1 of 1, from the last good checkpoint."


@pytest.mark.parametrize("refused", [1, 9])
def test_refused_start_is_tried_again_twice(refused: int) -> None:
    said: list[str] = []
    watching = Launch(max_restarts=0, settling=SETTLING, say=said.append)
    if refused == 1:
        assert launch(refused_at_first, refused, processes=2, watching=watching) == 1
    else:
        with pytest.raises(RankFailed, match="EJ0001") as error:
            launch(refused_at_first, refused, processes=2, watching=watching)
        assert len(error.value.failures) == 3
    assert said[1::2] == ["Trying again (1 of 2).", "Trying again (2 of 2)."][:refused]


@pytest.mark.parametrize(
    ("code", "phase", "failed"),
    [
        (None, Phase.COMPUTING, False),
        (0, Phase.COMPUTING, True),
        (1, Phase.ENDED, True),
        (0, Phase.ENDED, False),
        (-15, Phase.COMPUTING, True),
        (-15, Phase.ENDED, False),  # sent by elastic after another's failure
        (-9, Phase.ENDED, True),
        (0, None, False),
        (-15, None, True),
    ],
)
def test_which_ends_are_failures(code: int | None, phase: Phase | None, failed: bool) -> None:
    phases = {} if phase is None else {7: phase}
    assert launching._failed({7: code}, phases) == ([7] if failed else [])


def test_signal_to_one_rank_reaches_all() -> None:
    assert launch(says_when_it_was_told_to_stop, None, processes=2) == [15, 15]


@pytest.mark.parametrize(
    ("phase", "waited_s", "machines", "ends"),
    [
        (Phase.STARTING, 31.0, 1, True),
        (Phase.STARTING, 1.0, 1, False),
        (Phase.COMPUTING, 31.0, 1, False),
        (Phase.STARTING, 1.0, 2, True),
    ],
)
def test_stop_request_ends_ranks_that_start(phase: Phase, waited_s: float, machines: int, ends: bool) -> None:
    ranks = Mock(processes=dict)
    beats, asked_at = [Heartbeat(0, phase, 0.0)], time.monotonic() - waited_s
    with pytest.raises(StoppedWaiting, match="SIGTERM") if ends else nullcontext():
        launching._stop_waiting(ranks, beats, Nodes(machines), 15, asked_at)
    assert ranks.kill_now.called == (ends and machines == 1)


def test_rank_ends_without_finalization() -> None:
    assert launch(fails_in_exit_handlers, None, processes=2) == 0


def test_machine_that_waits_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elastic, "_TELL_S", -1.0)
    said: list[str] = []
    nodes = Nodes(2, 1, "nowhere.invalid:29500", 0.0)
    ranks = elastic.ElasticRanks(print, (), processes=1, nodes=nodes, say=said.append)
    with pytest.raises(UserError, match="machine 0 did not answer at nowhere"):
        ranks._wait_for_machine_0()
    assert len(said) == 1 and "Waiting for machine 0 at nowhere.invalid:29500" in said[0]


def test_other_service_at_the_endpoint_is_named() -> None:
    ranks = elastic.ElasticRanks(print, (), processes=1, nodes=Nodes(2, 1, "host:1", 0.0), say=print)
    answered = RuntimeError("Ping failed, invalid value returned from server. Expected: 1, Got: 1347703880")
    assert "something else than a launcher answers at --rdzv-endpoint host:1" in str(
        ranks.explained(answered)
    )


# ---- the end of a rank that torchrun started ----


RANK = """
import atexit, sys
import torch.distributed as dist
from shufflenet_fn.distributed.worker import leaving_groups_at_once
from shufflenet_fn.errors import UsageError

atexit.register(print, "an ordinary end")
with leaving_groups_at_once():
    if sys.argv[1] == "inside":
        store = dist.FileStore(sys.argv[2], 1)
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    print("not flushed yet", end="")
    raise {error}
"""


@pytest.mark.parametrize(
    ("where", "error", "code", "said"),
    [
        ("inside", "UsageError('no such thing.')", 2, "error: no such thing.\n"),
        ("inside", "KeyError('lost')", 1, "KeyError: 'lost'\n"),
        ("outside", "KeyError('lost')", 1, ""),
    ],
)
def test_failed_rank_exits_without_destroying_group(
    tmp_path: Path, where: str, error: str, code: int, said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RANK.format(error=error), where, tmp_path / "store"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("not flushed yet")
    assert ("an ordinary end" in done.stdout) is (where == "outside")
    if where == "inside":
        assert done.returncode == code and done.stderr.endswith(said)
        assert ("Traceback" in done.stderr) is (code == 1)
    else:  # the command line tells it, as any other error
        assert done.returncode == 1 and "Traceback" in done.stderr


def test_failed_rank_exits_with_full_output(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RANK.format(error="UsageError('no such thing.')"), "inside"]
    # What is printed must be left to be written at the end.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = subprocess.run([*command, tmp_path / "store"], stdout=full, stderr=full, env=env, check=False)
    assert done.returncode == UsageError.exit_code

"""Lengths of time, the wish to stop, and what is kept of the time for it."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from shufflenet_fn.config.options import parse_duration
from shufflenet_fn.distributed.heartbeats import Phase, open_slot
from shufflenet_fn.errors import UsageError
from shufflenet_fn.run.stopping import Stopped, Stopping


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("30m", 1800),
        ("2h", 7200),
        ("11h30m", 41400),
        (" 1D12H ", 129600),
        ("01:30", 90),
        ("12:00:00", 43200),
        ("1-12", 129600),
        ("2-3:04", 183840),
        ("1-12:00:00", 129600),
    ],
)
def test_a_length_of_time(text: str, seconds: int) -> None:
    assert parse_duration(text, "--max-time") == seconds


@pytest.mark.parametrize("text", ["", "0", "-5", "1.5h", "h", "10m5h", "1h30", "1:2:3:4", "0:00"])
def test_what_is_no_length_of_time(text: str) -> None:
    with pytest.raises(UsageError, match=r"--max-time .* is not a length of time: .*11h30m"):
        parse_duration(text, "--max-time")


def test_signal_in_heartbeat_slot_requests_stop() -> None:
    slot = open_slot(None, 0)
    stopping = Stopping(slot)
    assert not stopping.asked() and stopping.reason is None
    slot.request_stop(signal.SIGUSR1)
    assert stopping.asked() and stopping.reason == "SIGUSR1"
    told = str(Stopped(7, "SIGUSR1", Path("runs/a")))
    assert told.endswith("Go on with: shufflenet-fn train --resume runs/a") and "step 7" in told


def test_stop_margin_follows_step_and_save_times() -> None:
    stopping = Stopping(open_slot(None, 0), deadline=time.monotonic() + 4.0, limit="4s")
    assert stopping.margin_s == 10.0 and stopping.asked()  # nothing is known yet of a save
    stopping.saved(0.6)
    assert stopping.margin_s == pytest.approx(1.2) and not stopping.asked()
    stopping.step_begins(1)
    time.sleep(0.2)
    stopping.step_begins(2)
    assert 1.2 + 4 * 0.2 <= stopping.margin_s < 3.0 and not stopping.asked()
    stopping.saved(2.0)
    assert stopping.asked() and stopping.reason == "--max-time 4s"


def test_evaluation_does_not_count_as_step_time() -> None:
    stopping = Stopping(open_slot(None, 0))
    stopping.saved(0.5)
    stopping.step_begins(1)
    stopping.working_on(Phase.EVALUATING)
    time.sleep(0.2)
    stopping.step_begins(2)
    assert stopping.margin_s == 1.0


def test_heartbeats_report_the_current_phase() -> None:
    slot = open_slot(None, 3)
    stopping = Stopping(slot)
    with stopping.waiting():
        assert slot.last_beat().phase is Phase.STARTING  # others may still compile
    stopping.step_begins(4)
    assert slot.last_beat()[:2] == (4, Phase.STARTING)
    stopping.step_begins(5)
    with stopping.waiting():
        assert slot.last_beat()[:2] == (5, Phase.WAITING)
    assert slot.last_beat()[:2] == (5, Phase.COMPUTING)
    stopping.working_on(Phase.SAVING)
    assert slot.last_beat()[:2] == (5, Phase.SAVING)

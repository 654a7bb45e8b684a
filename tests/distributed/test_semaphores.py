"""Semaphores of multiprocessing whose names are gone while they are in use."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from shufflenet_fn.distributed.semaphores import NewSemaphores

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="names are files in /dev/shm")


def names() -> set[str]:
    return {path.name for path in Path("/dev/shm").glob("sem.mp-*")}


def wait_and_answer(asked: Event, answered: Event, opened: Event) -> None:
    opened.set()
    asked.wait(60)
    answered.set()


def test_they_work_without_a_name_and_are_not_missed_at_the_end() -> None:
    context = multiprocessing.get_context("spawn")
    kept = context.Event()
    before = names()
    new = NewSemaphores()
    asked, answered, opened = context.Event(), context.Event(), context.Event()
    own = names() - before
    assert len(own) >= 3
    child = context.Process(target=wait_and_answer, args=(asked, answered, opened))
    child.start()
    assert opened.wait(60)
    new.forget()
    assert not own & names()
    asked.set()
    assert answered.wait(60)
    child.join(60)
    assert child.exitcode == 0
    # What was there before is left alone.
    assert kept._cond._lock._semlock.name[1:] in {name[4:] for name in names()}  # type: ignore[attr-defined]
    new.forget()


PROGRAM = """
import multiprocessing
from shufflenet_fn.distributed.semaphores import NewSemaphores
new = NewSemaphores()
event = multiprocessing.get_context("spawn").Event()
new.forget()
"""


def test_nobody_complains_at_the_end_of_the_process() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")

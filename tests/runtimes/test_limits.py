"""Errors of the system's limits: each is one message with the limit's name and value."""

from __future__ import annotations

import errno
import os
import resource
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shufflenet_fn.errors import UserError
from shufflenet_fn_backends.support import limits
from shufflenet_fn_backends.support.limits import LimitReached, check_threads, limit_reached


def of_system(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def wrapped(cause: Exception) -> UserError:
    error = UserError("cannot write in /data: make it writable")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "names"),
    [
        (RuntimeError("can't start new thread"), ("thread", "RLIMIT_NPROC", "ulimit -u", "pids.max")),
        (of_system(errno.EAGAIN), ("process", "RLIMIT_NPROC", "vm.max_map_count", "--workers")),
        (RuntimeError("Resource temporarily unavailable"), ("thread", "kernel.threads-max")),
        (of_system(errno.EMFILE), ("open file", "RLIMIT_NOFILE", "ulimit -n", "fs.file-max")),
        (RuntimeError("code: -24, message: too many open files"), ("open file", "RLIMIT_NOFILE")),
        (MemoryError(), ("memory", "MemoryError", "RLIMIT_AS", "vm.max_map_count")),
        (of_system(errno.ENOMEM), ("memory", "RLIMIT_AS")),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes\nmore"), ("9 bytes)",)),
        (ImportError("libtorch.so: failed to map segment from shared object"), ("libtorch", "ulimit -v")),
        (wrapped(of_system(errno.ENFILE)), ("open file", "fs.file-max")),
    ],
)
def test_limit_is_named_with_fix(
    error: Exception, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (4321, 4321))
    monkeypatch.setattr(limits, "group_limit", lambda *names: 99)
    told = limit_reached(error)
    assert told is not None and told.exit_code == 1
    assert all(name in str(told) for name in names) and "\n" not in str(told)
    assert "4,321" in str(told) and "writable" not in str(told)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        of_system(errno.ENOENT),
        BlockingIOError(errno.EAGAIN, "write could not complete without blocking"),
        wrapped(of_system(errno.EACCES)),
        wrapped(of_system(errno.EAGAIN)),  # a lock that is held
        UserError("Too many open files in a book"),
    ],
)
def test_other_errors_are_left_alone(error: Exception) -> None:
    assert limit_reached(error) is None


def test_needed_threads_are_tried_first(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    check_threads(5)
    start = threading.Thread.start

    def refused(thread: threading.Thread) -> None:
        if threading.active_count() > before + 2:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refused)
    with pytest.raises(LimitReached, match="5 are needed, 3 can be started"):
        check_threads(5)
    assert threading.active_count() == before


def test_command_without_threads_ends_with_message(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("train/a/1.jpg", "val/a/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(b"not opened")

    def refused(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refused)
    outcome = command("data", "check", tmp_path, "--workers", 2)
    assert outcome.code == 1 and not outcome.out
    assert outcome.err.startswith("error: the system refuses another thread or process (can't start")

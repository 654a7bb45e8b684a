"""Errors of the system's limits: each is one message with the limit's name and value."""

from __future__ import annotations

import errno
import math
import os
import resource
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shufflenet_fn.errors import UserError
from shufflenet_fn.run.rank import WANTED, allow_open_files
from shufflenet_fn_backends.support import limits
from shufflenet_fn_backends.support.limits import (
    LimitReached,
    check_threads,
    cpu_quota,
    group_limit,
    limit_reached,
    usable_cores,
)


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


# ---- limits of cgroups, read from trees as Docker, Kubernetes, Slurm and systemd make them ----


V1, V2 = "cgroup cgroup rw,cpu,cpuacct", "cgroup2 cgroup2 rw,nsdelegate"


POD = "kubepods.slice/pod7.slice"


# Lines of /proc/self/cgroup; root and kind of the mount; files below the mount; the quota.
CPU_CASES = {
    "no limit": (["0::/"], "/", V2, {"cpu.max": "max 100000"}, math.inf),
    "no tree": (["0::/"], "/", V2, {}, math.inf),
    "half": (["0::/"], "/", V2, {"cpu.max": "50000 100000"}, 0.5),
    "four": (["0::/a"], "/", V2, {"a/cpu.max": "400000 100000"}, 4.0),
    "ancestor": (
        [f"0::/{POD}/box"],
        "/",
        V2,
        {f"{POD}/box/cpu.max": "max 100000", f"{POD}/cpu.max": "300000 200000"},
        1.5,
    ),
    "smallest": (["0::/a/b"], "/", V2, {"a/b/cpu.max": "800000 100000", "a/cpu.max": "200000 100000"}, 2.0),
    "version 1": (
        ["3:cpu,cpuacct:/a/b", "0::/"],
        "/",
        V1,
        {
            "a/b/cpu.cfs_quota_us": "-1",
            "a/b/cpu.cfs_period_us": "100000",
            "a/cpu.cfs_quota_us": "25000",
            "a/cpu.cfs_period_us": "50000",
        },
        0.5,
    ),
    "mounted root": (
        ["3:cpu,cpuacct:/docker/12ab"],
        "/docker/12ab",
        V1,
        {"cpu.cfs_quota_us": "400000", "cpu.cfs_period_us": "100000"},
        4.0,
    ),
    "other namespace": (["0::/../../x"], "/", V2, {"cpu.max": "50000 100000"}, 0.5),
    "other controller": (
        ["5:cpuset:/a", "3:cpu:/"],
        "/",
        "cgroup cgroup rw,cpuset",
        {"a/cpu.cfs_quota_us": "1000", "a/cpu.cfs_period_us": "100000"},
        math.inf,
    ),
}


def recorded(tmp_path: Path, groups: list[str], root: str, kind: str, files: dict[str, str]) -> Path:
    mount = tmp_path / "mount"
    for name, content in files.items():
        (mount / name).parent.mkdir(parents=True, exist_ok=True)
        (mount / name).write_text(f"{content}\n")
    (tmp_path / "cgroup").write_text("".join(f"{line}\n" for line in groups))
    (tmp_path / "mountinfo").write_text(
        f"31 23 0:28 / /proc rw - proc  rw\n32 31 0:29 {root} {mount} rw,relatime shared:9 - {kind}\n"
    )
    return tmp_path


@pytest.mark.parametrize("case", CPU_CASES)
def test_cpu_quota_is_smallest_of_ancestors(case: str, tmp_path: Path) -> None:
    groups, root, kind, files, expected = CPU_CASES[case]
    assert cpu_quota(recorded(tmp_path, groups, root, kind, files)) == expected


@pytest.mark.parametrize(
    ("quota", "seen", "usable"), [(0.5, 64, 1), (4.0, 64, 4), (1.5, 64, 2), (math.inf, 3, 3), (8.0, 2, 2)]
)
def test_usable_cores_respect_quota_and_affinity(
    quota: float, seen: int, usable: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "cpu_quota", lambda: quota)
    monkeypatch.setattr(limits, "affinity_cores", lambda: seen)
    assert usable_cores() == usable


def test_limit_of_other_controllers(tmp_path: Path) -> None:
    files = {"a/pids.max": "max", "pids.max": "100"}
    proc = recorded(tmp_path, ["8:pids:/a"], "/", "cgroup cgroup rw,pids", files)
    assert group_limit("pids", "pids.max", proc) == 100
    assert group_limit("memory", "memory.max", proc) is None
    assert cpu_quota(tmp_path / "no proc") == math.inf


@pytest.mark.parametrize(
    ("soft", "hard", "changes"),
    [
        (256, 512, [(512, 512)]),
        (512, 512, []),
        (1024, resource.RLIM_INFINITY, [(WANTED, -1)]),
        (WANTED + 1, -1, []),
    ],
)
def test_open_file_limit_is_raised_and_never_lowered(
    soft: int, hard: int, changes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda which: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda which, new: found.append(new))
    allow_open_files()
    assert found == changes

"""Limits of cgroups, read from trees as Docker, Kubernetes, Slurm and systemd make them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from shufflenet_fn_backends.support import cgroups
from shufflenet_fn_backends.support.cgroups import cpu_quota, group_limit, usable_cores

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
    monkeypatch.setattr(cgroups, "cpu_quota", lambda: quota)
    monkeypatch.setattr(cgroups, "affinity_cores", lambda: seen)
    assert usable_cores() == usable


def test_limit_of_other_controllers(tmp_path: Path) -> None:
    files = {"a/pids.max": "max", "pids.max": "100"}
    proc = recorded(tmp_path, ["8:pids:/a"], "/", "cgroup cgroup rw,pids", files)
    assert group_limit("pids", ("pids.max",), proc) == 100
    assert group_limit("memory", ("memory.max",), proc) is None
    assert cpu_quota(tmp_path / "no proc") == math.inf

"""The parts of the drills: what they stop, what they see, and that they find what is wrong."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from drills.kills.flatness import growths
from drills.kills.launch import Launch
from drills.kills.plan import Setting, draw
from drills.kills.points import CONTROL, Control, Point, name_of
from drills.kills.processes import Use, session, shared_memory, use_of
from drills.kills.run_dir import Ending, differences

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the drills read /proc")

WRITES = """
import os
from pathlib import Path
from drills.kills.points import CONTROL, arm
from shufflenet_fn.io import Disk
arm(Path(os.environ[CONTROL]))
for name in ("one", "two", "one"):
    Disk().write(Path(name), b"0123456789")
"""


@pytest.mark.parametrize(
    ("point", "found"),
    [
        (Point("write two", 1, "before"), None),
        (Point("write two", 1, "half"), b"01234"),
        (Point("write two", 1, "after"), b"0123456789"),
    ],
    ids=lambda value: str(value.moment) if isinstance(value, Point) else "",
)
def test_process_stops_at_point_and_continues(point: Point, found: bytes | None, tmp_path: Path) -> None:
    control = Control(tmp_path / "control")
    control.folder.mkdir()
    control.set(point)
    child = subprocess.Popen(
        [sys.executable, "-c", WRITES],
        cwd=tmp_path,
        env={**os.environ, CONTROL: str(control.folder)},
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while control.reached() is None and time.monotonic() < deadline:
            assert child.poll() is None
            time.sleep(0.01)
        assert control.reached() == child.pid
        two = tmp_path / "two"
        assert (two.read_bytes() if two.exists() else None) == found
        os.kill(child.pid, signal.SIGCONT)
        assert child.wait(30) == 0
        assert two.read_bytes() == b"0123456789"
        assert control.operations() == ["write one", "write two"]
    finally:
        child.kill()
        child.wait()


def test_operations_have_one_name_for_all_steps() -> None:
    assert name_of("rename", Path("a/.step-00000012.partial")) == "rename .step.partial"
    assert name_of("write", Path("step-00000012/weights.safetensors")) == "write weights.safetensors"


LEAVES = """
import multiprocessing, pathlib, socket, subprocess, sys, tempfile, time
held = multiprocessing.get_context("spawn").Lock()
server = socket.create_server(("127.0.0.1", 0))
server.set_inheritable(True)
tempfile.mkstemp()
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
pathlib.Path("ready").touch()
time.sleep(60)
"""


def test_what_a_killed_process_leaves_behind_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("drills.kills.launch.END_S", 0.5)
    with Launch(["-c", LEAVES], tmp_path, Control(tmp_path)) as launch:
        deadline = time.monotonic() + 30
        while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        family = [process.pid for process in session(launch.pid)]
        held = shared_memory(family)
        assert any("/dev/shm/sem." in path for path in held)
        assert launch.kill("launcher", None) == "launcher"
        wrong = "; ".join(launch.end())
    assert "processes are left after 0.5 s" in wrong
    assert "left in the temporary folder" in wrong
    assert not session(launch.pid)
    for path in held:  # the tracker was killed too, as the last of what was left
        Path(path).unlink(missing_ok=True)


def test_plans_are_repeatable_and_cover_victims_and_operations() -> None:
    setting = Setting(2, "fp32", True)
    operations = ["write weights.safetensors", "rename step"]

    def drawn(seed: int) -> list[object]:
        rng = random.Random(seed)
        return [draw(rng, setting, operations, startup_s=3, span_s=1) for _ in range(200)]

    plans = drawn(0)
    assert plans == drawn(0) != drawn(1)
    assert {plan.victim for plan in plans} == {"rank 0", "rank 1", "launcher", "all"}  # type: ignore[attr-defined]
    points = {plan.point for plan in plans if plan.point}  # type: ignore[attr-defined]
    assert {point.operation for point in points} == set(operations)
    assert ("rename step", "half") not in {(p.operation, p.moment) for p in points}


def test_differing_endings_are_reported() -> None:
    files = {name: b"same" for name in ("weights.safetensors", "state.safetensors")}
    files |= {name: b"same" for name in ("ema.safetensors", "generators.safetensors")}
    good = Ending(8, files, [{"kind": "train", "loss": 1.0}])
    assert differences(good, good) == []
    other = good._replace(files={**files, "weights.safetensors": b"Same"})
    assert differences(other, good) == [
        "weights.safetensors is not byte-identical to the uninterrupted run's"
    ]
    assert "metrics.jsonl" in differences(good._replace(records=[]), good)[0]
    assert "after step 7" in differences(good._replace(step=7), good)[0]


def test_growth_is_told_from_noise() -> None:
    rng = random.Random(0)

    def samples(leak: int, threads: int) -> list[tuple[int, Use]]:
        return [
            (step, Use(400_000_000 + rng.randrange(10**6) + leak * step, 10**8, threads, 20))
            for step in range(0, 20_000, 50)
        ]

    assert all(growth.flat for growth in growths(samples(0, 5)))
    leaking = {growth.quantity: growth for growth in growths(samples(500, 5))}
    assert not leaking["resident"].flat and leaking["files"].flat
    assert leaking["resident"].per_1000_steps == pytest.approx(500_000, rel=0.1)
    with_threads = [(step, use._replace(threads=5 + (step > 10_000))) for step, use in samples(0, 5)]
    assert not {g.quantity: g for g in growths(with_threads)}["threads"].flat
    with pytest.raises(ValueError, match="too few"):
        growths(samples(0, 5)[:8])


def test_own_use_is_read() -> None:
    use = use_of(os.getpid())
    assert use is not None
    assert use.resident > use.anonymous > 0 and use.threads >= 1 and use.files > 2
    assert use_of(2**22 + 1) is None

"""How the ranks of a communicator come together, and what they leave behind: nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.hccl.ranks import NOT_FOUND, PARAMETER, REMOTE, RUNTIME, SOON_S, TIMEOUT, bounded, ranks
from tests.hccl.worker import FLOAT32


def test_absent_rank_is_named_after_the_timeout(hccl_library: Path) -> None:
    with ranks(hccl_library, 3, HCCL_CONNECT_TIMEOUT="1") as world:
        root = world.ask(0, "root")["root"]
        with bounded(1.0 + SOON_S):
            answers = world.all("create", of=[0, 1], root=root)
        for answer in answers:
            assert answer is not None and answer["code"] == TIMEOUT
            assert answer["text"] == (
                "EI0006: the set-up of communicator world timed out after 1 s (HCCL_CONNECT_TIMEOUT): of 3 "
                "ranks, rank 2 did not come. See whether that process failed or is late"
            )
        # Too late: those that gave up are not waited for.
        with bounded(SOON_S):
            answer = world.ask(2, "create", root=root)
        assert answer["code"] == NOT_FOUND and "no longer holds the communicator" in answer["text"]


def test_peer_that_dies_while_joining_is_named(hccl_library: Path) -> None:
    with ranks(hccl_library, 3) as world:
        root = world.ask(0, "root")["root"]
        world.begin([0, 1], "create", root=root)
        with bounded(SOON_S):
            world.kill(1)
            answer = world.answer(0)
        assert answer is not None and answer["code"] == REMOTE and "the set-up" in answer["text"]


def test_a_root_that_ended_is_named(hccl_library: Path) -> None:
    with ranks(hccl_library, 2) as world:
        root = world.ask(0, "root")["root"]
        world.kill(0)
        answer = world.ask(1, "create", root=root)
        assert answer["code"] == REMOTE
        assert f"process {world.processes[0].pid}, which made the root info" in answer["text"]


def test_ranks_that_do_not_fit_together(hccl_library: Path) -> None:
    with ranks(hccl_library, 2) as world:
        root = world.ask(0, "root")["root"]
        world.begin([0], "create", root=root)
        answer = world.ask(1, "create", root=root, size=3, rank=1)
        assert answer["code"] == PARAMETER and "of 3 ranks, another rank made it of 2" in answer["text"]
        answer = world.ask(1, "create", root=root, rank=0)
        assert answer["code"] == PARAMETER and "rank 0 is taken twice" in answer["text"]
        answer = world.ask(1, "create", root=root, rank=2)
        assert answer["code"] == PARAMETER and "rank 2 of 2 ranks" in answer["text"]
        # The one that waits is none the worse for it.
        assert world.ask(1, "create", root=root)["code"] == 0
        assert world.answer(0) == {"code": 0, "text": ""}


def test_two_ranks_on_one_device_are_refused(hccl_library: Path) -> None:
    with ranks(hccl_library, 2) as world:
        world.ask(1, "setting", name="device", values=[0])
        root = world.ask(0, "root")["root"]
        for answer in world.all("create", root=root):
            assert answer is not None and answer["code"] == PARAMETER
            assert "use the same device 0; call torch.npu.set_device(LOCAL_RANK)" in answer["text"]
        world.ask(1, "setting", name="device", values=[-1])
        answer = world.ask(1, "create", root=root)
        assert answer["code"] == RUNTIME and "no device is set" in answer["text"]


def test_visible_devices_tell_the_chips_apart(hccl_library: Path) -> None:
    """Each process sees one device, its number 0, as a scheduler may arrange it."""
    with (
        ranks(hccl_library, 2, ASCEND_RT_VISIBLE_DEVICES="4") as one,
        ranks(hccl_library, 2, ASCEND_RT_VISIBLE_DEVICES="7,2") as other,
    ):
        other.ask(1, "setting", name="device", values=[0])
        root = one.ask(0, "root")["root"]
        one.tell(0, "create", root=root)
        assert other.ask(1, "create", root=root)["code"] == 0
        assert one.answer(0) == {"code": 0, "text": ""}


def test_timeout_must_be_a_number(hccl_library: Path) -> None:
    with ranks(hccl_library, 1, HCCL_EXEC_TIMEOUT="soon") as world:
        answer = world.ask(0, "create", root=world.ask(0, "root")["root"])
        assert answer["code"] == PARAMETER
        assert answer["text"].startswith("EI0001: HCCL_EXEC_TIMEOUT=soon is not a number of seconds")


def test_a_communicator_spans_network_namespaces(hccl_library: Path) -> None:
    """As two machines would be: the same device numbers, and no network between them."""
    unshare = shutil.which("unshare") or "unshare"
    try:
        subprocess.run([unshare, "--net", "true"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this user may not make a network namespace")
    with ranks(hccl_library, 2) as here, ranks(hccl_library, 2, before=[unshare, "--net"]) as there:
        there.ask(1, "setting", name="device", values=[0])
        root = here.ask(0, "root")["root"]
        here.tell(0, "create", root=root)
        assert there.ask(1, "create", root=root)["code"] == 0
        assert here.answer(0) == {"code": 0, "text": ""}
        here.tell(0, "on", function="barrier")
        assert there.ask(1, "on", function="barrier")["code"] == 0


@pytest.mark.parametrize("when", ["in use", "being made", "destroyed"])
def test_nothing_is_left_when_all_are_killed(hccl_library: Path, tmp_path: Path, when: str) -> None:
    shared = Path("/dev/shm")
    before = set(os.listdir(shared)) if shared.is_dir() else set()
    own = tmp_path / "own"
    own.mkdir()
    with ranks(hccl_library, 2, TMPDIR=str(own)) as world:
        if when == "being made":
            world.begin([0], "create", root=world.ask(0, "root")["root"])
        else:
            world.join()
            answers = world.all("collective", function="all_gather", dtype=FLOAT32, count=100_000)
            assert [answer and answer["code"] for answer in answers] == [0, 0]
            # One more message than is received: on its way when the ranks die.
            world.ask(0, "collective", function="send", dtype=FLOAT32, count=100_000, root=1)
        if when == "destroyed":
            world.all("on", function="destroy")
        for rank in range(2):
            world.kill(rank)
    assert list(own.iterdir()) == []
    if shared.is_dir():
        assert {name for name in set(os.listdir(shared)) - before if "hccl" in name} == set()
    assert not [name for name in os.listdir(tempfile.gettempdir()) if "ascend-emulator-hccl" in name]


@pytest.mark.parametrize(
    ("devices", "allowed"), [((0, 1), True), ((4, 6), True), ((3, 4), False), ((0, 1, 2), False)]
)
def test_device_sets_of_the_first_generation(
    hccl_library: Path, devices: tuple[int, ...], allowed: bool
) -> None:
    with ranks(hccl_library, len(devices)) as world:
        world.all("setting", name="chip", values=[0, True])
        for rank, device in enumerate(devices):
            world.ask(rank, "setting", name="device", values=[device])
        answers = world.all("create", root=world.ask(0, "root")["root"])
        for answer in answers:
            assert answer is not None and answer["code"] == (0 if allowed else PARAMETER)
            listed = ",".join(map(str, devices))
            assert allowed or f"devices {listed} of one machine cannot" in answer["text"]

"""The doctor's checks of an NPU's machine, on artificial folders and users."""

from __future__ import annotations

import pwd
from pathlib import Path
from typing import Any

import pytest

from shufflenet_fn.doctor import ascend
from shufflenet_fn.doctor.ascend import cann_version, how_to_set_up
from shufflenet_fn.doctor.finding import FAILED, OK, SKIPPED, WARNING
from tests.unprivileged import unprivileged

OLD_TOOLKIT = "package_name=Ascend-cann-toolkit\nversion=8.3.RC1\ninnerversion=V100R001C23\n"


@pytest.mark.parametrize(
    ("libc", "status"),
    [(("glibc", "2.28"), OK), (("glibc", "2.36"), OK), (("glibc", "2.17"), WARNING), (("", ""), SKIPPED)],
)
def test_glibc(libc: tuple[str, str], status: str) -> None:
    finding = ascend.glibc({}, libc)
    assert finding.status == status
    assert bool(finding.fix) == (status == WARNING)


@pytest.mark.parametrize(
    ("numpy", "cann", "status"),
    [
        ("2.2.1", "8.2.RC1", WARNING),
        ("2.2.1", "8.3.RC1", WARNING),
        ("1.26.4", "8.2.RC1", OK),
        ("2.2.1", "9.1.0", OK),
        ("2.2.1", None, OK),
    ],
)
def test_numpy_must_be_compatible_with_cann(numpy: str, cann: str | None, status: str) -> None:
    finding = ascend.numpy({"cann": {"version": cann}}, numpy)
    assert finding.status == status
    assert ("numpy<2" in finding.fix) == (status == WARNING)


def devices_in(folder: Path, *names: str, mode: int = 0o666) -> Path:
    for name in names:
        (folder / name).touch()
        (folder / name).chmod(mode)
    return folder


NEEDED: dict[str, Any] = {"device": "npu", "cann": {}}
SHARED = ("davinci_manager", "devmm_svm", "hisi_hdc")


def test_device_files_must_be_complete(tmp_path: Path) -> None:
    assert ascend.device_files(NEEDED, tmp_path).status == SKIPPED
    dev = devices_in(tmp_path, "davinci0", "davinci1", *SHARED[1:])
    finding = ascend.device_files(NEEDED, dev)
    assert finding.status == FAILED and "davinci_manager" in finding.text
    assert f"--device {dev}/davinci_manager" in finding.fix
    assert ascend.device_files({**NEEDED, "device": "auto"}, dev).status == WARNING
    devices_in(dev, *SHARED)
    finding = ascend.device_files(NEEDED, dev)
    assert finding.status == OK and "2 devices" in finding.text


def test_device_files_without_rights() -> None:
    with unprivileged() as folder:
        devices_in(folder, "davinci0", *SHARED)
        (folder / "davinci0").chmod(0)
        finding = ascend.device_files(NEEDED, folder)
    assert finding.status == FAILED and "davinci0" in finding.text
    assert "davinci_manager" not in finding.text
    assert "usermod -aG" in finding.fix and "--group-add" in finding.fix


def test_users_with_and_without_an_entry() -> None:
    assert ascend.user({}, 0).text == "user root (0)"
    taken = {entry.pw_uid for entry in pwd.getpwall()}
    nobody = next(uid for uid in range(4_242_424, 4_343_434) if uid not in taken)
    finding = ascend.user({}, nobody)
    assert finding.status == WARNING and f"useradd -u {nobody}" in finding.fix


def test_a_folder_that_cannot_be_written() -> None:
    with unprivileged() as folder:
        closed = folder / "closed"
        closed.mkdir()
        assert ascend.folder({}, closed).status == OK
        closed.chmod(0o555)
        finding = ascend.folder({}, closed)
    assert finding.status == WARNING and "ASCEND_WORK_PATH" in finding.fix


CARDS = {
    "127.0.0.1": "lo",
    "172.17.0.1": "docker0",
    "10.0.0.2": "eth1",
    "10.0.0.1": "eth0",
    "10.1.0.1": "enp3",
}


@pytest.mark.parametrize(
    ("environment", "cards", "card"),
    [
        ({}, CARDS, "enp3 of"),
        ({"HCCL_SOCKET_IFNAME": "eth"}, CARDS, "eth0, by HCCL_SOCKET_IFNAME=eth (it fits eth1 too)"),
        ({"HCCL_SOCKET_IFNAME": "eth1,enp"}, CARDS, "eth1, by"),
        ({"HCCL_SOCKET_IFNAME": "^enp,docker,lo"}, CARDS, "eth0, by"),
        ({"HCCL_SOCKET_IFNAME": "=eth1"}, CARDS, "eth1, by"),
        ({"HCCL_SOCKET_IFNAME": "^=enp3,docker0"}, CARDS, "eth0, by"),
        ({"HCCL_SOCKET_IFNAME": "eth", "HCCL_IF_IP": "172.17.0.1"}, CARDS, "docker0, by"),
        ({}, {"127.0.0.1": "lo", "172.17.0.1": "docker0"}, "docker0 of"),
        ({}, {"127.0.0.1": "lo"}, "lo of"),
        ({}, {"127.0.0.1": "lo", "172.17.0.1": "docker0", "10.0.0.1": "zeth"}, "zeth of"),
    ],
)
def test_the_card_that_hccl_takes(environment: dict[str, str], cards: dict[str, str], card: str) -> None:
    finding = ascend.network({}, environment, cards)
    assert finding.status == OK
    assert finding.text.startswith(f"HCCL takes {card}")


@pytest.mark.parametrize("environment", [{"HCCL_IF_IP": "10.9.9.9"}, {"HCCL_SOCKET_IFNAME": "=bond0"}])
def test_a_card_that_is_not_there(environment: dict[str, str]) -> None:
    finding = ascend.network({}, environment, CARDS)
    assert finding.status == WARNING and finding.fix


@pytest.mark.parametrize(
    ("environment", "torch_npu", "status", "words"),
    [
        ({}, "2.12.0", OK, "a run sets 2"),
        ({"TASK_QUEUE_ENABLE": "1"}, "2.12.0", OK, "TASK_QUEUE_ENABLE=1"),
        ({"TASK_QUEUE_ENABLE": "3"}, "2.12.0", WARNING, "TASK_QUEUE_ENABLE=3"),
        ({"PYTORCH_ALLOC_CONF": "a"}, "2.12.0", WARNING, "does not read PYTORCH_ALLOC_CONF"),
        ({"PYTORCH_ALLOC_CONF": "a"}, "2.13.0", OK, ""),
        ({"PYTORCH_ALLOC_CONF": "a", "PYTORCH_NPU_ALLOC_CONF": "b"}, "2.13.0", FAILED, "both set"),
    ],
)
def test_variables(environment: dict[str, str], torch_npu: str, status: str, words: str) -> None:
    finding = ascend.variables({"torch_npu": {"version": torch_npu}}, environment)
    assert finding.status == status and words in finding.text


@pytest.mark.parametrize("place", ["cann", "ascend-toolkit/latest", "cann-8.5.0"])
def test_places_of_cann(tmp_path: Path, place: str) -> None:
    home = tmp_path / place
    (home / "aarch64-linux").mkdir(parents=True)
    (home / "aarch64-linux" / "ascend_toolkit_install.info").write_text(OLD_TOOLKIT)
    (home / "set_env.sh").touch()
    assert cann_version({}, roots=(tmp_path,)) == "8.3.RC1"
    assert f"source {home}/set_env.sh" in how_to_set_up({}, roots=(tmp_path,))


def test_ascend_home_path_selects_cann(tmp_path: Path) -> None:
    for name, version in (("cann", "9.1.0"), ("mine", "8.5.0")):
        (tmp_path / name).mkdir()
        text = f"# version: 1.0\nruntime_running_version=[7.8.0.1:{version}]\n"
        (tmp_path / name / "version.cfg").write_text(text)
    roots, environment = (tmp_path,), {"ASCEND_HOME_PATH": str(tmp_path / "mine")}
    assert cann_version({}, roots=roots) == "9.1.0"
    assert cann_version(environment, roots=roots) == "8.5.0"
    assert "ASCEND_HOME_PATH" in how_to_set_up(environment, roots=roots)


def test_no_cann(tmp_path: Path) -> None:
    assert cann_version({}, roots=(tmp_path,)) is None
    text = how_to_set_up({}, roots=(tmp_path,))
    assert "/cann/set_env.sh" in text and "/ascend-toolkit/set_env.sh" in text

"""``doctor --bundle``: the contents of the archive, without private data, also after failures."""

from __future__ import annotations

import json
import os
import re
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shufflenet_fn.doctor import examine
from shufflenet_fn.doctor.bundle import Bundle, make_bundle, write_archive
from shufflenet_fn.doctor.examine import ORDER
from shufflenet_fn.doctor.finding import DoctorSettings
from shufflenet_fn.doctor.scrub import Private, private_here, scrub, scrub_values
from shufflenet_fn_backends.support.errors import UserError
from tests.bench.conftest import in_process as candidates_in_process

__all__ = ["candidates_in_process"]

FIGURES = ("doctor.json", "versions.json", "steps.json", "bench.json", "kernels.json")
NAMES = {"README.txt", *FIGURES, "log.txt"}


def read(path: Path) -> dict[str, Any]:
    """The files of an archive; the figures as objects."""
    with zipfile.ZipFile(path) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert set(texts) == NAMES
    return {name: json.loads(text) if name in FIGURES else text for name, text in texts.items()}


def private_words(path: Path, *also: str) -> list[str]:
    """What the archive tells of this user and machine."""
    private = private_here(path.parent)
    with zipfile.ZipFile(path) as archive:
        text = "\n".join(archive.read(name).decode() for name in archive.namelist())
        versions = json.loads(archive.read("versions.json"))
    found = [word for word in (*private.folders, *also) if word in text]
    names = (*private.users, socket.gethostname())
    found += [name for name in names if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text)]
    known = {*versions["packages"].values(), versions["cann"], versions["driver"]}
    found += [a for a in re.findall(r"\b\d+\.\d+\.\d+\.\d+\b", text) if a not in known]
    return found


def made(path: Path, command: str, timeout: float) -> tuple[Bundle, list[str]]:
    said: list[str] = []
    settings = DoctorSettings(device="cpu", timeout=timeout)
    return make_bundle(path, settings, command=command, say=said.append), said


@pytest.mark.usefixtures("in_process", "candidates_in_process")
def test_bundle_contains_no_private_names(
    command: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = ("torchvision", "collective", "loader")  # start processes of their own or take seconds
    monkeypatch.setattr(examine, "ORDER", tuple(name for name in ORDER if name not in without))
    output = tmp_path / "of zaphod" / "runs"
    outcome = command("doctor", "--device", "cpu", "--bundle", "b.zip", "--output", output)
    found = read(tmp_path / "b.zip")
    assert outcome.code == (0 if found["doctor.json"]["ok"] else 1), outcome.err
    assert f"wrote b.zip, {(tmp_path / 'b.zip').stat().st_size / 1000:.1f} kB" in outcome.err
    assert not private_words(tmp_path / "b.zip", "zaphod")
    stages = {stage["name"]: stage for stage in found["doctor.json"]["stages"]}
    assert stages["kernel"]["details"]["errors"]["float32"]
    assert len(found["steps.json"]["cpu fp32"]["losses"]) == 3
    assert found["bench.json"]["fp32"]["ours_img_s"] > 0
    assert "CPU" in found["kernels.json"]["fp32"]["batch 2"]["missing"]
    assert found["versions.json"]["packages"]["torch"]
    assert "Epoch: [0][2/3]" in found["log.txt"] and "round 3/3" in found["log.txt"]


@pytest.mark.campaign
def test_parts_that_crash_are_recorded(tmp_path: Path) -> None:
    bundle, said = made(tmp_path / "b.zip", "no_such_module_zaphod", 120.0)
    assert not bundle.report.ok
    found = read(bundle.path)
    assert "exit code 1" in found["steps.json"]["cpu fp32"]["failed"]
    assert "No module named" in found["bench.json"]["fp32"]["failed"]
    assert "bench step failed" in found["kernels.json"]["fp32"]["missing"]
    assert "No module named" in found["log.txt"]
    assert any(text.startswith("bench: failed") for text in said)


def test_stages_that_hang_are_recorded(tmp_path: Path) -> None:
    bundle, _ = made(tmp_path / "b.zip", "shufflenet_fn_cli.main", 1e-3)
    assert not bundle.report.ok
    found = read(bundle.path)
    stages = {stage["name"]: stage for stage in found["doctor.json"]["stages"]}
    assert stages["torch"]["status"] == "failed" and "hung" in stages["torch"]["text"]
    assert stages["steps"]["status"] == stages["bench"]["status"] == "skipped"
    assert all("device" in found[name]["missing"] for name in FIGURES[2:])
    assert not private_words(bundle.path)
    assert list(tmp_path.iterdir()) == [bundle.path]


def test_files_that_cannot_be_new_are_refused(command: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "old.zip").write_text("old")
    for file, words in (
        ("old.zip", ("exists already", "Remove it")),
        (".", ("is a folder", "another file")),
        ("nowhere/b.zip", ("no folder nowhere", "mkdir -p nowhere")),
    ):
        outcome = command("doctor", "--bundle", file)
        assert outcome.code == 2
        assert all(word in outcome.err for word in words), outcome.err
    assert (tmp_path / "old.zip").read_text() == "old"
    assert command("doctor", "--bundle", "b.zip", "--explain", "-").code == 2


def test_an_archive_is_whole_or_absent(tmp_path: Path) -> None:
    # A name that fits, and whose temporary one does not.
    path = tmp_path / ("a" * 251 + ".zip")
    with pytest.raises(UserError, match="cannot write"):
        write_archive(path, {"a": "b"})
    assert not list(tmp_path.iterdir())
    assert write_archive(tmp_path / "b.zip", {"a": "b"}) == (tmp_path / "b.zip").stat().st_size


# ---- private data is removed from texts, and public data is kept ----


SOMEBODY = Private(("/home/zaphod", "/data/my images"), ("zaphod",), ("heart-of-gold",))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("wrote /home/zaphod/runs/a.txt.", "wrote PATH"),
        ("data=/data/my images/cats seed=1", "data=PATH seed=1"),
        ("cannot read '/mnt/big disk/secret': no", "cannot read 'PATH': no"),
        ("see ~/secret/log, ~/other", "see PATH, PATH"),
        (
            'File "/home/zaphod/v/lib/python3.11/site-packages/torch/nn/a.py", line 3',
            'File "PATH/site-packages/torch/nn/a.py", line 3',
        ),
        ("/usr/local/Ascend/cann/set_env.sh and /dev/davinci0", None),
        ("round 1/3, 12 images/s, https://example.org/page", None),
        ("zaphod@heart-of-gold.example.org says", "USER@HOST says"),
        ("run_zaphod-2, ZAPHOD_X", "run_USER-2, ZAPHOD_X"),
        ("from 10.1.2.3:2900 to 192.168.0.7", "from ADDRESS:2900 to ADDRESS"),
        ("at fe80::1%eth0, [2001:db8::5]:80, ::1", "at ADDRESS, [ADDRESS]:80, ADDRESS"),
        ("ether 02:42:ac:11:00:02", "ether ADDRESS"),
        ("done in 0:00:04, std::vector, c10::Error, at::add", None),
        ("driver 24.1.0.3, torch 2.13.0, CANN 8.5.0", None),
    ],
)
def test_private_parts_are_replaced(text: str, expected: str | None) -> None:
    assert scrub(text, SOMEBODY, versions=("24.1.0.3",)) == (text if expected is None else expected)


def test_values_are_scrubbed_and_keys_kept() -> None:
    value = {"zaphod": ["/home/zaphod/a", 1.5, None, {"b": "10.0.0.1"}]}
    assert scrub_values(value, SOMEBODY) == {"zaphod": ["PATH", 1.5, None, {"b": "ADDRESS"}]}


def test_this_machine_is_private(tmp_path: Path) -> None:
    found = private_here(tmp_path / "x", environment={"SUDO_USER": "arthur"})
    assert {str(tmp_path / "x"), os.getcwd(), str(Path.home())} <= set(found.folders)
    assert "arthur" in found.users
    host = socket.gethostname()
    assert host in found.hosts or host == "localhost"
    # Nothing that is a part of every text.
    assert all(len(name) > 1 for names in found for name in names)

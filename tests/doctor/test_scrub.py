"""Private data is removed from texts, and public data is kept."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from shufflenet_fn.doctor.scrub import Private, private_here, scrub, scrub_values

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

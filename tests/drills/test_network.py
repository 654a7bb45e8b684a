"""Two machines made of one by network namespaces."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from drills.kills.network import Machines, NoNamespaces, two_machines

REACH = """
import socket, sys
socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[3])).close()
"""
SERVE = """
import socket, sys
with socket.create_server((sys.argv[1], 0)) as server:
    print(server.getsockname()[1], flush=True)
    while True:
        server.accept()[0].close()
"""


@pytest.fixture
def machines() -> Iterator[Machines]:
    try:
        with two_machines() as made:
            yield made
    except NoNamespaces as error:
        pytest.skip(str(error))


def namespace_of(command: list[str]) -> str:
    done = subprocess.run(
        [*command, "readlink", "/proc/self/ns/net"], capture_output=True, text=True, check=True
    )
    return done.stdout


def test_two_machines_with_a_cable(machines: Machines) -> None:
    spaces = {namespace_of(command) for command in ([], machines.on(0), machines.on(1))}
    assert len(spaces) == 3

    def reaches(number: int, port: str) -> bool:
        command = [*machines.on(number), sys.executable, "-c", REACH, machines.address(0), port]
        return subprocess.run([*command, "1"], capture_output=True, check=False).returncode == 0

    server = subprocess.Popen(
        [*machines.on(0), sys.executable, "-c", SERVE, machines.address(0)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        assert reaches(0, port) and reaches(1, port)
        machines.pull()
        assert reaches(0, port) and not reaches(1, port)
        machines.plug()
        assert reaches(1, port)
    finally:
        server.kill()
        server.communicate()


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_machines_end_with_their_creator(tmp_path: Path) -> None:
    program = (
        "import os, signal\n"
        "from drills.kills.network import two_machines\n"
        "with two_machines() as machines:\n"
        "    print(*(command[2] for command in map(machines.on, (0, 1))), flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    if "NoNamespaces" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    holders = [int(pid) for pid in done.stdout.split()]
    assert len(holders) == 2
    deadline = time.monotonic() + 30
    while any(map(lives, holders)):
        assert time.monotonic() < deadline
        time.sleep(0.01)

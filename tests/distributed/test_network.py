"""The interface that collectives between machines use."""

from __future__ import annotations

import socket

import pytest

from shufflenet_fn.distributed import network
from shufflenet_fn.distributed.network import addresses, route_to, use_the_network_between_machines
from shufflenet_fn.distributed.world import World
from shufflenet_fn.errors import UserError

OWN, OTHER = "10.1.2.3", "10.1.2.4"


class Left(dict[str, str]):
    """A store in this process."""

    def set(self, key: str, value: str) -> None:
        self[key] = value

    def get(self, key: str) -> bytes:  # type: ignore[override]
        return self[key].encode()

    def check(self, keys: list[str]) -> bool:
        return all(key in self for key in keys)

    def delete_key(self, key: str) -> bool:
        return self.pop(key, None) is not None


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLOO_SOCKET_IFNAME", "HCCL_SOCKET_IFNAME", "HCCL_IF_IP"):
        monkeypatch.setenv(name, "")


def test_own_addresses() -> None:
    assert addresses()["127.0.0.1"] == "lo"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert route_to("localhost", port) == ("127.0.0.1", "127.0.0.1")
    with pytest.raises(OSError):
        route_to("127.0.0.1", port, timeout_s=1.0)


@pytest.mark.parametrize(
    ("backend", "variable", "value"),
    # gloo's real machines are in tests/cli/test_two_machines.py.
    [("hccl", "HCCL_IF_IP", OWN), ("nccl", None, None)],
)
def test_machine_0_uses_the_address_others_reach(
    backend: str, variable: str | None, value: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network, "route_to", lambda host, port: (OTHER, OWN))
    monkeypatch.setattr(network, "addresses", lambda: {OWN: "eth7"})
    store, given = Left(), ("host0", 29500)
    world = World(rank=2, size=4, local_rank=0, local_size=2)
    said = use_the_network_between_machines(world, store, backend, *given)
    # The other one's address is on no interface of this process's machine, which is said.
    assert ("none of this machine's interfaces" in "".join(said)) == (variable is not None)
    said = use_the_network_between_machines(world._replace(rank=1), store, backend, *given)
    if variable is None:
        assert not said and not store
        return
    assert network.os.environ[variable] == value
    assert said[0].startswith(f"{backend} between machines: eth7 ({OWN})") and variable in said[0]


def test_user_variable_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HCCL_SOCKET_IFNAME", "bond0")
    store = Left({"the address of machine 0": OWN})
    world = World(rank=0, size=2, local_rank=0, local_size=1)
    (said,) = use_the_network_between_machines(world, store, "hccl", "host0", 29500)
    assert "HCCL_SOCKET_IFNAME=bond0, as the environment says" in said
    assert not network.os.environ["HCCL_IF_IP"]


@pytest.mark.parametrize(
    ("backend", "own", "expected"),
    [("gloo", "", "lo"), ("gloo", "bond0", "bond0"), ("hccl", "", ""), ("nccl", "", "")],
)
def test_single_machine_uses_loopback_for_gloo(
    backend: str, own: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", own)
    world = World(rank=0, size=2, local_rank=0, local_size=2)
    assert use_the_network_between_machines(world, Left(), backend, "nowhere.invalid", 1) == ()
    assert network.os.environ["GLOO_SOCKET_IFNAME"] == expected
    assert not network.os.environ["HCCL_IF_IP"]


def test_master_address_that_does_not_resolve(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = World(rank=1, size=2, local_rank=1, local_size=2)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.9")
    assert network.master_address(one) == "127.0.0.9"
    monkeypatch.setenv("MASTER_ADDR", "nowhere.invalid")
    assert network.master_address(one) == "127.0.0.1"
    assert not capsys.readouterr().err
    assert network.master_address(one._replace(local_size=1)) == "nowhere.invalid"
    assert "rank 1 waits for MASTER_ADDR=nowhere.invalid" in capsys.readouterr().err


def test_loopback_that_is_down_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    network.check_loopback()

    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    with pytest.raises(UserError, match=r"Network is unreachable.*ip link set lo up"):
        network.check_loopback()

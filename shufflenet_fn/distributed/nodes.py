"""The machines of a run, and where they meet."""

from __future__ import annotations

from typing import NamedTuple

DEFAULT_PORT = 29688
"""Where machines meet if only an address is given: the port that the original has fixed."""

JOIN_TIMEOUT_S = 300.0
"""How long machines wait for each other if ``--join-timeout`` does not say."""


class Nodes(NamedTuple):
    """``num_nodes`` machines, of which this is number ``rank``. ``endpoint`` is HOST:PORT of machine 0.

    ``join_timeout_s``: how long they wait for each other, at the start and before a restart.
    """

    num_nodes: int = 1
    rank: int = 0
    endpoint: str | None = None
    join_timeout_s: float = JOIN_TIMEOUT_S

    @property
    def host_and_port(self) -> tuple[str, int]:
        """The two parts of ``endpoint``; an IPv6 address without its brackets."""
        host, _, port = str(self.endpoint).rpartition(":")
        return host.strip("[]"), int(port)

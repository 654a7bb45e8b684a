"""The machines of a run, and where they meet."""

from __future__ import annotations

from typing import NamedTuple

DEFAULT_PORT = 29688
"""Where machines meet if only an address is given: the port that the original has fixed."""

JOIN_TIMEOUT_S = 300
"""How long machines wait for each other at the start."""


class Nodes(NamedTuple):
    """``num_nodes`` machines, of which this is number ``rank``. ``endpoint`` is HOST:PORT of machine 0."""

    num_nodes: int = 1
    rank: int = 0
    endpoint: str | None = None

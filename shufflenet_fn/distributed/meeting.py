"""Where the launchers of several machines meet, in torch elastic's terms.

Elastic's own two ways do not do. Its static rendezvous knows nothing of the other launchers, which then
wait for as long as their ranks do. Its dynamic one counts restarts on each machine for itself, and its ranks
find each other by that count, so that after a failure they wait for each other in vain; and it gives machines
numbers as they come.
"""

from __future__ import annotations

import signal
from collections.abc import Callable

from torch._C._distributed_c10d import HashStore
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousStoreInfo,
)

from shufflenet_fn.distributed.failures import Cause, Failure
from shufflenet_fn.distributed.nodes import Nodes
from shufflenet_fn.distributed.peers import MachineLeft, Peers
from shufflenet_fn_backends.support.errors import UserError


class StoppedWaiting(UserError):
    """A signal came while machines waited for each other. Exit code 75: the same command goes on."""

    exit_code = 75


class Meeting(RendezvousHandler):
    """Brings the launchers of ``nodes`` together, before the first start and before each further one.

    ``stop_signal()`` is the number of the signal that asked for a stop; 0 for none.
    """

    def __init__(self, nodes: Nodes, peers: Peers, stop_signal: Callable[[], int]) -> None:
        self._nodes, self._stop_signal = nodes, stop_signal
        self.peers = peers
        self.attempt = 0

    def get_backend(self) -> str:
        return "shufflenet-fn"

    def next_rendezvous(self) -> RendezvousInfo:
        try:
            self.attempt = self.peers.meet(self._interrupted)
        except MachineLeft:
            raise
        except UserError as error:
            self.peers.leave(_ending(error, self._nodes.rank))
            raise
        host, port = self._nodes.host_and_port
        # Ranks use the store that machine 0 has opened; elastic itself needs none.
        return RendezvousInfo(
            HashStore(), self._nodes.rank, self._nodes.num_nodes, RendezvousStoreInfo(host, port)
        )

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        pass

    def num_nodes_waiting(self) -> int:
        # One that comes back ends the round by itself: see Talk.
        return 0

    def get_run_id(self) -> str:
        return "shufflenet-fn"

    def shutdown(self) -> bool:
        self.peers.close()
        return True

    @property
    def use_agent_store(self) -> bool:
        return True

    def _interrupted(self) -> None:
        if number := self._stop_signal():
            raise StoppedWaiting(
                f"stopped by {signal.Signals(number).name} while waiting for the other machines; no step was "
                "under way. The same command with --resume auto goes on."
            )


def _ending(error: UserError, machine: int) -> Failure:
    return Failure(
        rank=0,
        local_rank=0,
        message=str(error),
        exit_code=error.exit_code,
        restartable=False,
        cause=Cause.USER,
        machine=machine,
    )

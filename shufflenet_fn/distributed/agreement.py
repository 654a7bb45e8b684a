"""Whether all ranks hold the same, asked beside training: by the group's store and without a collective."""

from __future__ import annotations

import threading
import time
from typing import Final

from shufflenet_fn.distributed.group import differing_ranks
from shufflenet_fn.distributed.store import Store
from shufflenet_fn.distributed.world import World
from shufflenet_fn_backends.support.errors import UserError

_AGREED: Final = b"agreed"
_PAUSES_S: Final = (0.001, 0.05)
_SEEN_S: Final = 10.0
"""How long rank 0 waits for the others to read that they differ: one that hangs never will."""


class RanksDiffer(UserError):
    """Ranks do not hold the same. Raised on all of them."""


class Agreement:
    """Compares digests of all ranks, one question after the other.

    Every rank must ask the same questions in the same order, from one thread each.

    Args:
        world: who asks.
        store: where digests are posted; the process group's. Not needed for one rank.
        timeout_s: how long to wait for the others.
    """

    def __init__(self, world: World, store: Store | None, *, timeout_s: float = 600.0) -> None:
        self._world, self._store, self._timeout_s = world, store, timeout_s
        self._asked = 0
        self._given_up = threading.Event()

    def check(self, digest: str, what: str) -> None:
        """Return on every rank if all gave the same ``digest``.

        Raises:
            RanksDiffer: on every rank, if one gave another.
            UserError: the others did not answer in time, or ``give_up`` was called.
        """
        if self._world.size == 1:
            return
        assert self._store is not None
        number = self._asked
        self._asked += 1
        self._store.set(f"digest/{number}/{self._world.rank}", digest)
        if not self._world.is_main:
            answer = self._get(f"verdict/{number}", what)
            if answer != _AGREED:
                self._store.set(f"seen/{number}/{self._world.rank}", "")
                raise RanksDiffer(answer.decode())
            return
        keys = [f"digest/{number}/{rank}" for rank in range(self._world.size)]
        digests = [self._get(key, what).decode() for key in keys]
        message = differing_ranks(digests, what)
        self._store.set(f"verdict/{number}", message or _AGREED.decode())
        # All have asked this one, so all have read the verdict on the one before: memory stays flat.
        for key in (*keys, f"verdict/{number - 1}"):
            self._store.delete_key(key)
        if message is not None:
            # Rank 0 ends now and may take the store with it.
            self._wait_until_seen(number)
            raise RanksDiffer(message)

    def give_up(self) -> None:
        """Wait for nobody any longer; from any thread."""
        self._given_up.set()

    def _wait_until_seen(self, number: int) -> None:
        assert self._store is not None
        keys = [f"seen/{number}/{rank}" for rank in range(1, self._world.size)]
        end = time.monotonic() + _SEEN_S
        while not self._store.check(keys) and time.monotonic() < end:
            if self._given_up.wait(_PAUSES_S[0]):
                break
        for key in keys:
            self._store.delete_key(key)

    def _get(self, key: str, what: str) -> bytes:
        # Asked again and again and not waited for: a wait would hold up all others who use the store.
        assert self._store is not None
        end, pause = time.monotonic() + self._timeout_s, _PAUSES_S[0]
        while not self._store.check([key]):
            if self._given_up.wait(pause):
                raise UserError(f"{what} was not compared with the other ranks': the run ends.")
            if time.monotonic() > end:
                raise UserError(
                    f"{what} could not be compared: no answer from another rank in {self._timeout_s:.0f} s."
                )
            pause = min(2 * pause, _PAUSES_S[1])
        return bytes(self._store.get(key))

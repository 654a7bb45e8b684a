"""Devices that refuse new processes for some seconds after one that used them was killed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

T = TypeVar("T")

ATTEMPTS: Final = 3
"""How often a start is tried that the device refuses: once, and twice more."""


class Settling(NamedTuple):
    """How long a device refuses new processes after one that used it was killed.

    ``refusals``: what errors of a start say until then. ``why``: the same in words, for the user.
    """

    seconds: float
    refusals: re.Pattern[str]
    why: str

    def refused(self, text: str) -> bool:
        """Whether an error's text says that the device is still held."""
        return self.refusals.search(text) is not None

    @property
    def line(self) -> str:
        """What the user sees during the wait."""
        return f"Waiting {self.seconds:g} s until the devices are free: {self.why}."

    def wait(self, say: Callable[[str], None], stopped: Callable[[], object] | None = None) -> None:
        """Say ``line`` and wait, at most until ``stopped``."""
        say(self.line)
        deadline = time.monotonic() + self.seconds
        while time.monotonic() < deadline and not (stopped and stopped()):
            time.sleep(min(0.1, self.seconds))


def patiently(start: Callable[[], T], settling: Settling | None, say: Callable[[str], None]) -> T:
    """Return ``start()``, tried ``ATTEMPTS`` times with waits between if the device refuses it."""
    for _ in range(ATTEMPTS - 1):
        try:
            return start()
        except RuntimeError as error:
            if settling is None or not settling.refused(str(error)):
                raise
        settling.wait(say)
    return start()

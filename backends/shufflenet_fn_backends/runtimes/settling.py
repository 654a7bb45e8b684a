"""Retries for devices that refuse new processes for some seconds after a process was killed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Final, NamedTuple, TypeVar

T = TypeVar("T")

ATTEMPTS: Final = 3
"""Maximum number of attempts to start on a device that refuses."""


class Settling(NamedTuple):
    """How long a device refuses new processes after one of its processes was killed.

    ``refusals``: pattern of the errors during that time. ``why``: explanation for the user.
    """

    seconds: float
    refusals: re.Pattern[str]
    why: str

    def refused(self, text: str) -> bool:
        """Return whether an error's text says that the device is still in use."""
        return self.refusals.search(text) is not None

    @property
    def line(self) -> str:
        """Line for the user during the wait."""
        return f"Waiting {self.seconds:g} s until the devices are free: {self.why}."

    def wait(self, say: Callable[[str], None], stopped: Callable[[], object] | None = None) -> None:
        """Print ``line`` by ``say``, then wait for ``seconds`` or until ``stopped()``."""
        say(self.line)
        deadline = time.monotonic() + self.seconds
        while time.monotonic() < deadline and not (stopped and stopped()):
            time.sleep(min(0.1, self.seconds))


def patiently(start: Callable[[], T], settling: Settling | None, say: Callable[[str], None]) -> T:
    """Return ``start()``. If the device refuses, wait and retry, with ``ATTEMPTS`` attempts in total."""
    for _ in range(ATTEMPTS - 1):
        try:
            return start()
        except RuntimeError as error:
            if settling is None or not settling.refused(str(error)):
                raise
        settling.wait(say)
    return start()

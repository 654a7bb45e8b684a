"""A trial that crashes and one that hangs, for processes that import nothing else."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable


def make(crash_at: int, hang_at: int) -> Callable[[int], int]:
    def trial(number: int) -> int:
        if number == crash_at:
            os.kill(os.getpid(), signal.SIGSEGV)
        if number == hang_at:
            time.sleep(1000)
        return number * number

    return trial

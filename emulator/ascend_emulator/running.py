"""Runs a command on the emulator with its exit code, and forwards signals to it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from types import FrameType

from ascend_emulator.errors import UsageError

_HANDED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


def check(command: Sequence[str]) -> None:
    """Check that the program exists, so that a failed start differs from an exit code of the command.

    Raises:
        UsageError: there is no such program.
    """
    if shutil.which(command[0]) is None:
        raise UsageError(
            f"cannot run {command[0]!r}: it is not a program here. Give the command after --, for example: "
            "ascend-emulator run -- python train.py"
        )


def run(command: Sequence[str], variables: Mapping[str, str]) -> int:
    """Run the command and return its exit code, or 128 + N if signal N ended it, as a shell does.

    Raises:
        UsageError: there is no such command.
    """
    check(command)
    environment = {**os.environ, **variables}
    child: subprocess.Popen[bytes] | None = None

    def hand_on(number: int, frame: FrameType | None) -> None:
        # The terminal sends its own SIGINT to the child too.
        typed = number == signal.SIGINT and os.isatty(0)
        if child is not None and child.poll() is None and not typed:
            child.send_signal(number)

    # Set handlers before the child starts, so that no signal ends only this process.
    previous = {number: signal.signal(number, hand_on) for number in _HANDED_ON}
    try:
        child = subprocess.Popen(list(command), env=environment)
        code = child.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code

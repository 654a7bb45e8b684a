"""Errors that are the user's to mend. Lowest layer, so that every package can raise them.

A ``UserError`` reaches the terminal as one message without a traceback. Its text says what was wrong,
the value, what is allowed, and the fix. Anything else that escapes is a bug of ours and keeps its
traceback.
"""

from __future__ import annotations

from typing import ClassVar


class UserError(Exception):
    """The run failed for a reason outside the program: a damaged file, a full disk, a diverged loss.

    ``restartable``: starting the same again may help, as it cannot where the user has to mend something.
    """

    exit_code: ClassVar[int] = 1
    restartable: ClassVar[bool] = False


class UsageError(UserError):
    """What was asked for cannot be: an unknown name, a missing folder, a batch that does not divide."""

    exit_code: ClassVar[int] = 2


class DeviceError(UserError):
    """A device, its runtime or its collective library is not available on this machine."""

    exit_code: ClassVar[int] = 3


class DeviceFailed(UserError):
    """A device, its driver or a link between devices failed while it was in use."""

    restartable: ClassVar[bool] = True

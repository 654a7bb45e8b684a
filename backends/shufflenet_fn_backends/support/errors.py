"""Errors that the user can fix. This is the lowest layer, so every package can raise them.

The command line prints a ``UserError`` as one message without a traceback. The message says what was wrong,
the value, what is allowed, and the fix. Any other exception is a bug in this project and keeps its traceback.
"""

from __future__ import annotations

from typing import ClassVar


class UserError(Exception):
    """The run failed for a reason outside the program: a damaged file, a full disk, a diverged loss.

    ``restartable``: whether the same command may succeed when it is started again, without a fix by the user.
    """

    exit_code: ClassVar[int] = 1
    restartable: ClassVar[bool] = False


class UsageError(UserError):
    """The request is invalid: an unknown name, a missing folder, a batch that does not divide."""

    exit_code: ClassVar[int] = 2


class DeviceError(UserError):
    """A device, its runtime or its collective library is not available on this machine."""

    exit_code: ClassVar[int] = 3


class DeviceFailed(UserError):
    """A device, its driver or a link between devices failed while it was in use."""

    restartable: ClassVar[bool] = True

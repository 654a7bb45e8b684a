"""Errors that the user can fix: one message without a traceback, and an exit code."""

from __future__ import annotations

from typing import ClassVar


class UserError(Exception):
    """Base class. The message says what was wrong, the value, what is allowed, and the fix."""

    exit_code: ClassVar[int] = 1


class UsageError(UserError):
    """An option or an argument has a value that is not allowed."""

    exit_code: ClassVar[int] = 2


class DeviceError(UserError):
    """torch, torch_npu, a compiler or the emulator's libraries are not available."""

    exit_code: ClassVar[int] = 3

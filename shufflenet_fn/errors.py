"""Errors that the user can fix (see ``shufflenet_fn_backends.support.errors``)."""

from shufflenet_fn_backends.support.errors import DeviceError, UsageError, UserError

__all__ = ["DeviceError", "UsageError", "UserError"]

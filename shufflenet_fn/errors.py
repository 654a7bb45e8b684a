"""Errors that are the user's to mend (see ``shufflenet_fn_backends.support.errors``)."""

from shufflenet_fn_backends.support.errors import DeviceError, UsageError, UserError

__all__ = ["DeviceError", "UsageError", "UserError"]

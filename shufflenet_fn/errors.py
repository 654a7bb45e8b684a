"""Errors that are the user's to mend (see ``shufflenet_fn_backends.errors``)."""

from shufflenet_fn_backends.errors import DeviceError, UsageError, UserError

__all__ = ["DeviceError", "UsageError", "UserError"]

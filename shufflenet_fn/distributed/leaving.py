"""Ending a failed rank that has no launcher of ours: torchrun started it."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator

import torch.distributed as dist

from shufflenet_fn_backends.errors import UserError


@contextlib.contextmanager
def leaving_groups_at_once() -> Iterator[None]:
    """End this process if the body fails inside a process group: say why, and go with the error's exit code.

    An ordinary end would take the group down in whatever order Python does, while its threads still talk to
    ranks that end as well: now and then that aborts the process, with SIGABRT in place of the exit code.
    """
    try:
        yield
    except Exception as error:
        if not dist.is_initialized():
            raise
        code = 1
        if isinstance(error, UserError):
            code = error.exit_code
            print(f"error: {error}", file=sys.stderr)
        else:
            traceback.print_exception(error)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)

"""Ending a rank at once, whatever it still holds."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from typing import NoReturn

import torch.distributed as dist

from shufflenet_fn_backends.support.errors import UserError


@contextlib.contextmanager
def leaving_groups_at_once() -> Iterator[None]:
    """End this process if the body fails inside a process group: say why, and go with the error's exit code.

    For a rank that torchrun started: it has no launcher of ours to tell.
    An ordinary end would take the group down in whatever order Python does, while its threads still talk to
    ranks that end as well: now and then that aborts the process, with SIGABRT in place of the exit code.
    """
    try:
        yield
    except Exception as error:
        if not dist.is_initialized():
            raise
        code = error.exit_code if isinstance(error, UserError) else 1
        try:
            if isinstance(error, UserError):
                print(f"error: {error}", file=sys.stderr)
            else:
                traceback.print_exception(error)
        finally:
            exit_at_once(code)


def exit_at_once(code: int) -> NoReturn:
    """End this process without what else ends one.

    That would wait for threads, devices and groups, and elastic and multiprocessing would write what happened
    into files of their own.
    """
    try:
        flush_output()
    finally:
        os._exit(code)


def flush_output() -> None:
    """Write what was printed to where it goes, if there is room, and anybody any more."""
    for stream in (sys.stderr, sys.stdout):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()

"""Importing what is heavy, without the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """For a body of imports, of torch above all: starts and ends a process sooner.

    Importing torch makes hundreds of thousands of objects, none of them garbage. The collector would go
    through them again and again as they come, and once more when the process ends; they are set aside for
    good. Only the first time in a process: later there may be garbage among what is set aside.
    """
    if not gc.isenabled() or gc.get_freeze_count():
        yield
        return
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        gc.enable()

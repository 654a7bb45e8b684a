"""Import large packages with the garbage collector disabled."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Disable the garbage collector during the body, so that imports, and the process's end, are faster.

    Importing torch creates hundreds of thousands of objects, none of them garbage. The collector would
    traverse them repeatedly during the import and once more at exit, so they are frozen. This is done only
    once per process, because later there may be garbage among the frozen objects.
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

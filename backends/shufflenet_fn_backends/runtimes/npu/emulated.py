"""Whether the NPUs of this process are emulated."""

from __future__ import annotations

import os
from typing import Final

LIBRARIES: Final = "ASCEND_EMULATOR_LIBRARIES"
"""Set by ``ascend-emulator run`` for the processes that run on it."""


def emulated() -> bool:
    """Return whether this process was started to run on the emulator of CANN."""
    return bool(os.environ.get(LIBRARIES))

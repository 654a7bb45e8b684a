"""Importing without the garbage collector, in a process that has imported little yet."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc
from shufflenet_fn_cli.options import importing

try:
    with importing():
        assert not gc.isenabled()
        raise ImportError
except ImportError:
    pass
assert gc.isenabled() and gc.get_freeze_count() == 0

with importing():
    assert not gc.isenabled()
set_aside = gc.get_freeze_count()
assert gc.isenabled() and set_aside > 0

# Now there may be garbage, which must not be set aside.
with importing():
    assert gc.isenabled()
assert gc.isenabled() and gc.get_freeze_count() == set_aside
"""


def test_garbage_collector_is_off_during_first_import() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)

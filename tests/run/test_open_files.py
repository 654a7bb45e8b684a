"""The limit of open files is raised and never lowered."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from shufflenet_fn.run.rank import allow_open_files
soft, hard = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
allow_open_files()
print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "after"), [(256, 512, (512, 512)), (512, 512, (512, 512)), (64, 256, (256, 256))]
)
def test_open_file_limit_is_raised_to_hard_limit(soft: int, hard: int, after: tuple[int, int]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(soft), str(hard)], capture_output=True, text=True, check=True
    )
    assert tuple(map(int, done.stdout.split())) == after

"""The end of a failed rank that torchrun started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shufflenet_fn.errors import UsageError

RANK = """
import atexit, sys
import torch.distributed as dist
from shufflenet_fn.distributed.worker import leaving_groups_at_once
from shufflenet_fn.errors import UsageError

atexit.register(print, "an ordinary end")
with leaving_groups_at_once():
    if sys.argv[1] == "inside":
        store = dist.FileStore(sys.argv[2], 1)
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    print("not flushed yet", end="")
    raise {error}
"""


@pytest.mark.parametrize(
    ("where", "error", "code", "said"),
    [
        ("inside", "UsageError('no such thing.')", 2, "error: no such thing.\n"),
        ("inside", "KeyError('lost')", 1, "KeyError: 'lost'\n"),
        ("outside", "KeyError('lost')", 1, ""),
    ],
)
def test_failed_rank_exits_without_destroying_group(
    tmp_path: Path, where: str, error: str, code: int, said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", RANK.format(error=error), where, tmp_path / "store"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("not flushed yet")
    assert ("an ordinary end" in done.stdout) is (where == "outside")
    if where == "inside":
        assert done.returncode == code and done.stderr.endswith(said)
        assert ("Traceback" in done.stderr) is (code == 1)
    else:  # the command line tells it, as any other error
        assert done.returncode == 1 and "Traceback" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is of Linux")
def test_failed_rank_exits_with_full_output(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RANK.format(error="UsageError('no such thing.')"), "inside"]
    # What is printed must be left to be written at the end.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = subprocess.run([*command, tmp_path / "store"], stdout=full, stderr=full, env=env, check=False)
    assert done.returncode == UsageError.exit_code

"""Reading threads compute alone, also where torch would spread an operator over all cores."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COUNT = """
import os, sys
from pathlib import Path
import torch
from shufflenet_fn.data.loader import train_loader
from shufflenet_fn.data.opening import open_train_val
from shufflenet_fn.data.transforms import TrainTransform

torch.set_num_threads(4)
train, _ = open_train_val(Path(sys.argv[1]))
threads = int(sys.argv[2])

def names():
    return [Path(f"/proc/self/task/{task}/comm").read_text() for task in os.listdir("/proc/self/task")]

def read():
    with train_loader(
        train, TrainTransform(128), seed=0, global_batch=8, stop_step=12, threads=threads
    ) as batches:
        for _ in batches:
            pass
        return len(names())

before = len(names())
print(read() - before, torch.get_num_threads())
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs Linux's /proc")
@pytest.mark.parametrize("threads", [1, 2])
def test_readers_start_no_compute_threads_and_leave_the_callers_alone(
    photo_root: Path, threads: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", COUNT, str(photo_root), str(threads)],
        # The kernels without SIMD are the ones that torch runs in parallel.
        env={**os.environ, "ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "4"},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    started, main = map(int, done.stdout.split())
    assert started <= threads
    assert main == 4

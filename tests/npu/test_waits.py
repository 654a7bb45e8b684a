"""The training loop does not wait for the device that it feeds, also where it saves."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch

from shufflenet_fn.checkpoint.inventory import checkpoints
from shufflenet_fn.checkpoint.read import read_checkpoint

from .counted_run import counted_run


def test_steps_and_saving_wait_for_events_only(
    libraries: Path, npu: object, image_folder: Path, tmp_path: Path
) -> None:
    few, more, saving = (
        counted_run(
            *(libraries, image_folder, tmp_path / name, "--max-steps", steps),
            *("--keep", "9", "--checkpoint-freq", freq),
        )
        for name, steps, freq in (("few", "8", "0"), ("more", "10", "0"), ("saving", "8", "2"))
    )
    assert more.launches > few.launches
    waits = Counter(few.syncs)
    # Four events a step: that of the metrics of the step before the last, that of the upload before that, and
    # the two between which that step's device may have been idle, which torch_npu asks for to subtract them.
    assert Counter(more.syncs) - waits == Counter({"aclrtSynchronizeEvent": 8})
    # One event for each of the three checkpoints more, waited for by the thread that writes.
    assert Counter(saving.syncs) - waits == Counter({"aclrtSynchronizeEvent": 3})
    assert waits - Counter(more.syncs) == waits - Counter(saving.syncs) == Counter()
    rare, often = (checkpoints(tmp_path / name / "checkpoints") for name in ("few", "saving"))
    assert (len(rare), len(often)) == (1, 4)
    ends = [read_checkpoint(found[0]) for found in (rare, often)]
    for file, tensors in ends[0].files.items():
        for name, tensor in tensors.items():
            assert torch.equal(tensor, ends[1].files[file][name]), (file, name)

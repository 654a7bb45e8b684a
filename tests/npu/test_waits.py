"""The training loop does not wait for the device that it feeds."""

from __future__ import annotations

from pathlib import Path

from .counted_run import counted_run


def test_a_step_of_a_run_waits_for_no_step_that_is_under_way(
    libraries: Path, npu: object, image_folder: Path, tmp_path: Path
) -> None:
    few, many = (
        counted_run(libraries, image_folder, tmp_path / steps, "--max-steps", steps)
        for steps in ("8", "10")
    )
    assert many.launches > few.launches
    more = {what: times - few.syncs.get(what, 0) for what, times in many.syncs.items()}
    # Four events a step: that of the metrics of the step before the last, that of the upload before that, and
    # the two between which that step's device may have been idle, which torch_npu asks for to subtract them.
    assert {what: times for what, times in more.items() if times} == {"aclrtSynchronizeEvent": 8}

"""When a run says what its steps are bound by: after 50 of them, and at its end if that has changed."""

from __future__ import annotations

from shufflenet_fn.data.dataset import Dataset
from shufflenet_fn.data.packed.read import PackedSplit
from shufflenet_fn.distributed.group import gather
from shufflenet_fn.run.events import StepTimes
from shufflenet_fn.run.meters import VERDICT_STEPS
from shufflenet_fn.run.training import Training
from shufflenet_fn.run.verdict import Reading, Storage, Verdict, verdict
from shufflenet_fn_backends.runtimes.cpu import usable_cores


def judge(run: Training, times: StepTimes) -> None:
    """Count a step; after ``VERDICT_STEPS`` measured ones report the verdict. Called alike on all ranks."""
    run.waits.add(times)
    if run.verdict is None and run.waits.steps == VERDICT_STEPS:
        run.verdict = _verdict(run)
        if run.world.is_main:
            run.reporter.note(f"after {VERDICT_STEPS} steps: {run.verdict.text}")


def judge_all(run: Training) -> Verdict | None:
    """The verdict on all steps of this start; ``None`` if none was measured. Called alike on all ranks."""
    if run.waits.steps == 0:
        return None
    before, run.verdict = run.verdict, _verdict(run)
    if run.world.is_main and (before is None or before.kind != run.verdict.kind):
        run.reporter.note(f"over all {run.verdict.steps} steps: {run.verdict.text}")
    return run.verdict


def storage_of(samples: Dataset) -> Storage:
    """How ``samples`` are stored."""
    if not isinstance(samples, PackedSplit):
        return "files"
    return "packed pixels" if samples.raw else "packed JPEG"


def _verdict(run: Training) -> Verdict:
    # The rank that waits least in the collective is the one that the others wait for.
    times = min(gather(run.waits.mean_times, run.world), key=lambda t: t.reduce)
    reading = Reading(
        batch_size=run.global_batch // run.world.size,
        threads=run.threads,
        cores=max(1, usable_cores() // run.world.local_size),
        devices=run.world.local_size,
        storage=storage_of(run.train_set),
        accelerator=run.device.type != "cpu",
    )
    return verdict(times, run.waits.steps, reading)

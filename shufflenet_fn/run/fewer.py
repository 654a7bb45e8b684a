"""The same job on fewer devices, where one of them fails again and again."""

from __future__ import annotations

import dataclasses
import itertools

from shufflenet_fn.config.derived import global_batch, lanes_of
from shufflenet_fn.distributed.failures import RankFailed
from shufflenet_fn.run.plan import Job
from shufflenet_fn_backends.runtimes.base import Runtime
from shufflenet_fn_backends.runtimes.select import select_runtime
from shufflenet_fn_backends.support.errors import UsageError


def with_fewer_devices(job: Job, failed: RankFailed) -> Job | None:
    """``job`` without the device that all of the last failures were on; its last warning says so.

    The images of an update and their order stay, and so do its lanes, the parts that are normalised
    together: what is computed is the same, up to the order of sums. ``None`` where ``--min-devices`` does
    not allow it, where the failure is the user's to mend, where different devices failed, and on several
    machines, whose launchers cannot agree on it.

    Raises:
        UsageError: no allowed number of devices shares the lanes equally; the message has the failure.
    """
    settings, least = job.settings, job.settings.min_devices
    places = {failure.local_rank for failure in failed.failures}
    if (
        least is None
        or len(places) > 1
        or not failed.failure.restartable
        or settings.world_size > 1
    ):
        return None
    given_up = job.devices[places.pop()]
    left = tuple(device for device in job.devices if device != given_up)
    lanes = lanes_of(settings, len(job.devices))
    kept = dataclasses.replace(
        settings,
        lanes=lanes,
        benchmark=0,
        accumulate=global_batch(settings, len(job.devices)) // settings.batch_size,
    )
    runtime = select_runtime(job.device).runtime
    devices = next(
        (
            some
            for count in range(len(left), least - 1, -1)
            if lanes % count == 0
            for some in itertools.combinations(left, count)
            if _joined(runtime, some)
        ),
        None,
    )
    if devices is None:
        if len(left) < least:
            return None
        raise UsageError(
            f"{failed} The run cannot go on with {least} to {len(left)} devices (--min-devices {least}): "
            f"none of these numbers shares the {lanes} lanes of an update equally, on devices that can train "
            "together."
        )
    count = len(devices)
    kept = dataclasses.replace(
        kept, devices=count, device_list=",".join(map(str, devices)), threads=settings.threads
    )
    unused = "" if count == len(left) else f" ({len(left)} do not share {lanes} lanes equally)"
    warning = (
        f"{failed} Device {given_up} is given up: going on from the last good checkpoint with {count} of "
        f"{len(job.devices)} devices{unused}."
    )
    return job._replace(
        resolved=job.resolved._replace(settings=kept),
        devices=devices,
        warnings=(*job.warnings, warning),
    )


def _joined(runtime: Runtime, devices: tuple[int, ...]) -> bool:
    try:
        runtime.check_together(devices)
    except UsageError:
        return False
    return True

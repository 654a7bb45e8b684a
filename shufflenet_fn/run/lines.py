"""Events as plain text lines, for log files and for displays without a terminal.

The lines carry the original's forms (``Epoch: [0][ 10/834]``, ``* FPS@all``, ``[AVG-ACC] * Acc@1``), so that
scripts that read its logs read these.
"""

from __future__ import annotations

from datetime import timedelta

from shufflenet_fn.run.events import (
    CheckpointSaved,
    EpochTrained,
    Evaluated,
    Event,
    RunFinished,
    RunStarted,
    StepDone,
    StepTimes,
)


def event_lines(event: Event, *, device: str, steps_per_epoch: int) -> list[str]:
    """The lines for ``event``. ``device`` is the kind of device, shown as the original's ``npu id``."""
    tag = f"[{device} id: 0 ]"
    match event:
        case RunStarted():
            return [f"{label}: {value}" for label, value in event.facts]
        case StepDone():
            width = len(str(steps_per_epoch))
            return [
                f"{tag} Epoch: [{event.epoch}][{event.step_in_epoch:{width}d}/{steps_per_epoch}]"
                f"\tTime {event.times.total:6.3f} ({event.mean_times.total:6.3f})"
                f"\t{split_text(event.mean_times)}"
                f"\tLoss {event.loss:.4e} ({event.mean_loss:.4e})"
                f"\tAcc@1 {event.accuracy1:6.2f} ({event.mean_accuracy1:6.2f})"
                f"\tAcc@5 {event.accuracy5:6.2f} ({event.mean_accuracy5:6.2f})"
                f"\tLR {event.learning_rate:.4g}"
                f"\tFPS {fps_text(event.fps)}\tETA {duration(event.eta_s)}"
            ]
        case EpochTrained():
            if event.fps is None:
                return []
            return [f"{tag} * FPS@all {event.fps:.3f}, TIME@all {event.mean_times.total:.3f}"]
        case Evaluated():
            which = "" if event.weights == "raw" else f" ({event.weights} weights)"
            best = " (best so far)" if event.is_best else ""
            return [
                f"{tag} [AVG-ACC] * Acc@1 {event.accuracy1:.3f} Acc@5 {event.accuracy5:.3f}"
                f" Loss {event.loss:.4f}, epoch {event.epoch}, {event.num_images} images{which}{best}"
            ]
        case CheckpointSaved():
            best = ", the best so far" if event.is_best else ""
            return [
                f"{tag} checkpoint {event.name}: {event.bytes / 1e6:.1f} MB in "
                f"{1e3 * event.writing_s:.0f} ms beside training, which waited "
                f"{1e3 * event.blocked_s:.1f} ms{best}"
            ]
        case RunFinished():
            return event.table.splitlines()


def split_text(times: StepTimes) -> str:
    """Where the time of a step went, in percent."""
    total = times.total or 1.0
    return (
        f"Data {100 * times.data / total:.0f}% Upload {100 * times.upload / total:.0f}% "
        f"Compute {100 * times.compute / total:.0f}% Reduce {100 * times.reduce / total:.0f}%"
    )


def fps_text(fps: float | None) -> str:
    return "-" if fps is None else f"{fps:.1f}"


def duration(seconds: float | None) -> str:
    """``1:02:03`` or ``-``."""
    return "-" if seconds is None else str(timedelta(seconds=round(seconds)))

"""The events that a run reports to its display, log file and metrics file, and their text lines.

The lines have the original's format (``Epoch: [0][ 10/834]``, ``* FPS@all``, ``[AVG-ACC] * Acc@1``), so that
scripts that read its logs can read these.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NamedTuple


class StepTimes(NamedTuple):
    """Seconds of one step, or means. FPS is computed from ``total``; the next four fields are its parts.

    ``data``: the device was idle until the loader had a batch. ``upload``: the host passed a batch to the
    device. ``reduce``: in the collective. ``compute``: everything else.

    On an accelerator the host runs ahead, so it may wait for the loader while the device is busy. This wait
    costs nothing; it is ``hidden`` and part of ``compute``. ``device``: the host waited for the device, also
    part of ``compute``. There, ``reduce`` is the device's time and ``data`` the device's idle time.
    """

    total: float
    data: float
    upload: float
    compute: float
    reduce: float
    hidden: float = 0.0
    device: float = 0.0


class RunStarted(NamedTuple):
    """Everything that was decided before the first step. ``facts``: label and value, to be shown."""

    run_dir: str
    device: str
    epochs: int
    steps_per_epoch: int
    first_step: int
    total_steps: int
    global_batch: int
    facts: list[tuple[str, str]]


class StepDone(NamedTuple):
    """Reported every ``print_freq`` steps. ``step`` counts from 0 over all epochs.

    Loss and accuracies (percent) are of the last step read back and, ``mean_*``, of the epoch so far.
    ``times`` are the last step's, ``mean_times`` the epoch's so far. ``fps`` and ``eta_s`` are ``None``
    until there is a step to measure.
    """

    step: int
    epoch: int
    step_in_epoch: int
    loss: float
    accuracy1: float
    accuracy5: float
    mean_loss: float
    mean_accuracy1: float
    mean_accuracy5: float
    learning_rate: float
    times: StepTimes
    mean_times: StepTimes
    fps: float | None
    eta_s: float | None
    skipped: int


class EpochTrained(NamedTuple):
    """The training part of an epoch is over. ``fps`` is the original's FPS@all."""

    epoch: int
    loss: float
    accuracy1: float
    accuracy5: float
    fps: float | None
    mean_times: StepTimes
    skipped: int


class Evaluated(NamedTuple):
    """Exact over ``num_images`` images: each counted once. Accuracies in percent; ``weights``: raw or ema.

    ``in_turn``: it was due by ``eval_freq``, and not only because a start of the run ended here.
    """

    epoch: int
    loss: float
    accuracy1: float
    accuracy5: float
    num_images: int
    seconds: float
    weights: str
    is_best: bool
    in_turn: bool = True


class CheckpointSaved(NamedTuple):
    """A checkpoint is on disk, verified, and marked as the latest.

    ``step``: updates done. ``blocked_s``: seconds that the training loop waited. ``writing_s``: seconds in
    the background thread.
    """

    step: int
    epoch: int
    name: str
    bytes: int
    blocked_s: float
    writing_s: float
    is_best: bool


class RunFinished(NamedTuple):
    """``results`` is the content of ``results.json``; ``table`` that of ``results.md``."""

    results: dict[str, Any]
    table: str


Event = RunStarted | StepDone | EpochTrained | Evaluated | CheckpointSaved | RunFinished


class Reporter:
    """Receives the events of a run, on rank 0 only. This one ignores them."""

    def event(self, event: Event) -> None:
        """Receive an event."""

    def note(self, text: str) -> None:
        """Receive a line for the user: a choice that was made, a file that was skipped."""

    def warning(self, text: str) -> None:
        """Receive a line that the user should not miss."""


class Reporters(Reporter):
    """Several reporters as one."""

    def __init__(self, *reporters: Reporter) -> None:
        self._reporters = reporters

    def event(self, event: Event) -> None:
        for reporter in self._reporters:
            reporter.event(event)

    def note(self, text: str) -> None:
        for reporter in self._reporters:
            reporter.note(text)

    def warning(self, text: str) -> None:
        for reporter in self._reporters:
            reporter.warning(text)


class LineReporter(Reporter):
    """Passes the lines of every event to ``note``."""

    def __init__(self) -> None:
        self._device, self._steps_per_epoch = "cpu", 1

    def event(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._device, self._steps_per_epoch = event.device, event.steps_per_epoch
        for line in event_lines(event, self._device, self._steps_per_epoch):
            self.note(line)


def event_lines(event: Event, device: str, steps_per_epoch: int) -> list[str]:
    """Return the lines for ``event``. ``device``: the kind, shown as the original's ``npu id``."""
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
    """Return where the time of a step went, in percent."""
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

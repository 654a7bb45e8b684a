"""What a run tells those who watch it: the display, the log file, the metrics file."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol


class StepTimes(NamedTuple):
    """Seconds of one step, or their means. ``total`` is what FPS is made of; the next four are its split.

    ``data``: nothing was to be computed until the loader had a batch. ``upload``: the host handed a batch
    to the device. ``reduce``: in the collective. ``compute``: everything else.

    On an accelerator the host runs ahead, so that it may wait for the loader while the device is at work:
    that costs nothing, is ``hidden`` and counts as ``compute``. ``device``: the host waited for the device,
    a part of ``compute`` as well. ``reduce`` is the device's time there, and ``data`` what it lost.
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

    ``step``: updates done. ``blocked_s``: what it cost the training loop. ``writing_s``: what it took in the
    thread beside it.
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


class Reporter(Protocol):
    """Somebody who watches a run. Called on rank 0 only."""

    def event(self, event: Event) -> None:
        """Something happened."""

    def note(self, text: str) -> None:
        """A line for the user: a choice that was made, a file that was skipped."""

    def warning(self, text: str) -> None:
        """A line that the user should not miss."""


class Reporters:
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

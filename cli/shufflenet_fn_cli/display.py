"""Displays of a run: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from shufflenet_fn.run.events import (
    EpochTrained,
    Evaluated,
    Event,
    LineReporter,
    Reporter,
    RunFinished,
    RunStarted,
    StepDone,
    duration,
    fps_text,
    split_text,
)

SHOWN_EPOCHS = 8


@contextmanager
def open_display() -> Iterator[Reporter]:
    """Open the display that suits standard output during the body."""
    if not sys.stdout.isatty():
        yield PlainDisplay()
        return
    console = Console()
    with Live(console=console, refresh_per_second=4, transient=False) as live:
        yield LiveDisplay(console, live)


class PlainDisplay(LineReporter):
    """Print and flush every event as a line, for pipes, log collectors and schedulers."""

    def event(self, event: Event) -> None:
        super().event(event)
        if isinstance(event, RunFinished):
            self.note(finish_line(event))

    def note(self, text: str) -> None:
        print(text, flush=True)

    def warning(self, text: str) -> None:
        print(f"warning: {text}", file=sys.stderr, flush=True)


class LiveDisplay(Reporter):
    """A table of the last epochs above a line on the current step, redrawn in place."""

    def __init__(self, console: Console, live: Live) -> None:
        self._console, self._live = console, live
        self._start: RunStarted | None = None
        self._step: StepDone | None = None
        self._trained: dict[int, EpochTrained] = {}
        self._evaluated: dict[int, list[Evaluated]] = {}

    def event(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._start = event
                facts = Table.grid(padding=(0, 2))
                for label, value in event.facts:
                    facts.add_row(Text(label, style="bold"), Text(value))
                self._console.print(facts)
            case StepDone():
                self._step = event
            case EpochTrained():
                self._trained[event.epoch] = event
            case Evaluated():
                self._evaluated.setdefault(event.epoch, []).append(event)
            case RunFinished():
                self._step = None
        self._live.update(self._render())
        if isinstance(event, RunFinished):
            self._live.refresh()
            self._console.print(Text(event.table))
            self._console.print(Text(finish_line(event)))

    def note(self, text: str) -> None:
        self._console.print(Text(text, style="dim"))

    def warning(self, text: str) -> None:
        self._console.print(Text(f"warning: {text}", style="yellow"))

    def _render(self) -> Group:
        parts: list[Table | Text | ProgressBar] = []
        if self._trained:
            parts.append(self._epoch_table())
        if self._step is not None and self._start is not None:
            parts += [_step_table(self._step, self._start), _progress(self._step, self._start)]
        return Group(*parts)

    def _epoch_table(self) -> Table:
        table = Table(title=None, expand=False)
        for heading in ("epoch", "loss", "Acc@1 train", "Acc@1 val", "Acc@5 val", "FPS"):
            table.add_column(heading, justify="right")
        total = self._start.epochs if self._start else 0
        for epoch, trained in list(self._trained.items())[-SHOWN_EPOCHS:]:
            scores = self._evaluated.get(epoch, [])
            val1 = " / ".join(f"{s.accuracy1:.2f}" for s in scores) or "-"
            val5 = " / ".join(f"{s.accuracy5:.2f}" for s in scores) or "-"
            best = any(s.is_best for s in scores)
            table.add_row(
                f"{epoch + 1}/{total}",
                f"{trained.loss:.4f}",
                f"{trained.accuracy1:.2f}",
                Text(val1 + (" *" if best else ""), style="green" if best else ""),
                val5,
                fps_text(trained.fps),
            )
        return table


def finish_line(event: RunFinished) -> str:
    """Return the last line of a run: its duration and scores."""
    results = event.results
    done = f"done in {duration(results['seconds'])}: Acc@1 {results['accuracy1']:.2f}"
    if not results["best_epoch"]:  # cut before the first evaluation that was due
        return f"{done} after {results['steps']} updates"
    best = f"best {results['best_accuracy1']:.2f} after epoch {results['best_epoch']}"
    return f"{done}, {best} of {results['epochs']}"


def _step_table(step: StepDone, start: RunStarted) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row(
        Text(f"epoch {step.epoch + 1}/{start.epochs}", style="bold"),
        f"step {step.step_in_epoch + 1}/{start.steps_per_epoch}",
        f"loss {step.mean_loss:.4f}",
        f"Acc@1 {step.mean_accuracy1:.2f}",
        f"FPS {fps_text(step.fps)}",
        f"lr {step.learning_rate:.4g}",
        f"ETA {duration(step.eta_s)}",
        Text(split_text(step.mean_times), style="dim"),
    )
    return table


def _progress(step: StepDone, start: RunStarted) -> ProgressBar:
    return ProgressBar(total=start.total_steps, completed=step.step + 1, width=60)

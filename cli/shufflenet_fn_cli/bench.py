"""``shufflenet-fn bench``: measurements that always have a peer in the same run."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from shufflenet_fn.bench.settings import (
    InferBenchSettings,
    InputBenchSettings,
    OpsBenchSettings,
    StepBenchSettings,
)
from shufflenet_fn_cli.options import with_settings

bench_app = typer.Typer(
    help="Measure against torchvision, interleaved in the same run.", no_args_is_help=True
)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


@bench_app.command()
@with_settings(StepBenchSettings)
def step(as_json: AsJson = False, **given: Any) -> None:
    """A whole training step on random images: ours against a peer's model and torch's SGD.

    Contenders take turns. Reported are medians over rounds, ratios as medians of
    the rounds' ratios with their intervals, and whether the one to the best peer
    is conclusive. On a CPU the peer is torchvision, every contender has a process
    of its own, and memory is reported. On a GPU (torchvision) and an NPU (the
    shape of the original) every backend takes part, and the times of host and
    device are reported apart.
    """
    from shufflenet_fn.bench.step import run_step_bench

    result = run_step_bench(StepBenchSettings(**given), progress=progress)
    from shufflenet_fn_cli.bench_table import print_step_table

    show(result, as_json, print_step_table)


@bench_app.command()
@with_settings(InferBenchSettings)
def infer(as_json: AsJson = False, **given: Any) -> None:
    """Logits of a batch: ours with folded batch norms against torchvision's model.

    For each batch size with each number of threads. Every contender runs in a
    process of its own, and they take turns. ONNX Runtime is shown beside them if
    it is installed.
    """
    from shufflenet_fn.bench.infer import run_infer_bench

    result = run_infer_bench(InferBenchSettings(**given), progress=progress)
    from shufflenet_fn_cli.bench_table import print_infer_table

    show(result, as_json, print_infer_table)


@bench_app.command()
@with_settings(OpsBenchSettings)
def ops(as_json: AsJson = False, **given: Any) -> None:
    """Every primitive and both units, forward and backward, on every backend of a device.

    Sizes are those of stage 2. torchvision's own way takes turns with the
    backends, each in a process of its own; the calls of a turn are queued, and the
    host waits once. Bytes are what the operators read and write, counted: their
    arguments and results.
    """
    from shufflenet_fn.bench.ops import run_ops_bench

    result = run_ops_bench(OpsBenchSettings(**given), progress=progress)
    from shufflenet_fn_cli.bench_table import print_ops_table

    show(result, as_json, print_ops_table)


@bench_app.command("input")
@with_settings(InputBenchSettings)
def feed(as_json: AsJson = False, **given: Any) -> None:
    """Whether this host could feed so many devices, each of which computes --step-ms at a batch.

    One process for each device reads the data as train does, with its share of the cores; the
    devices only take their time. Without --step-ms or --load only the loader's maximum is measured.
    """
    from shufflenet_fn.bench.input import run_input_bench

    result = run_input_bench(InputBenchSettings(**given), progress=progress)
    from shufflenet_fn_cli.loading_table import print_input_table

    show(result, as_json, print_input_table)


@bench_app.callback()
def root() -> None:
    """Measure against torchvision, interleaved in the same run."""


def progress(text: str) -> None:
    """Tell how far a measurement is, where it does not mix with the result."""
    print(text, file=sys.stderr, flush=True)


def show(result: dict[str, Any], as_json: bool, table: Callable[[dict[str, Any]], None]) -> None:
    """Print a result as one JSON object, or as ``table`` does."""
    from shufflenet_fn.io import to_json

    if as_json:
        print(to_json(result))
    else:
        table(result)

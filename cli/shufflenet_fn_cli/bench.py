"""``shufflenet-fn bench``: measurements with a peer in the same run."""

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
    """Measure a training step on random images: ours and a peer's model with torch's SGD.

    The candidates take turns. The report has medians over rounds, ratios with
    their intervals, and whether the ratio to the best peer is conclusive. On a
    CPU, the peer is torchvision, every candidate runs in its own process, and
    memory is reported. On a GPU (peer: torchvision) and an NPU (peer: the
    structure of the original), all backends are measured, and times of host and
    device are reported separately.
    """
    from shufflenet_fn.bench.step import run_step_bench
    from shufflenet_fn_cli.bench_table import print_step_table

    show(run_step_bench(StepBenchSettings(**given), progress=progress), as_json, print_step_table)


@bench_app.command()
@with_settings(InferBenchSettings)
def infer(as_json: AsJson = False, **given: Any) -> None:
    """Measure the logits of a batch: ours with folded batch norms, and torchvision's model.

    Measures each batch size with each number of threads. Every candidate runs in
    its own process, and they take turns. ONNX Runtime is measured too if it is
    installed.
    """
    from shufflenet_fn.bench.infer import run_infer_bench
    from shufflenet_fn_cli.bench_table import print_infer_table

    show(run_infer_bench(InferBenchSettings(**given), progress=progress), as_json, print_infer_table)


@bench_app.command()
@with_settings(OpsBenchSettings)
def ops(as_json: AsJson = False, **given: Any) -> None:
    """Measure all primitives and both units, forward and backward, on all backends of a device.

    Sizes are those of stage 2. torchvision and the backends take turns, each in
    its own process. The calls of a turn are queued, and the host waits once.
    """
    from shufflenet_fn.bench.ops import run_ops_bench
    from shufflenet_fn_cli.bench_table import print_ops_table

    show(run_ops_bench(OpsBenchSettings(**given), progress=progress), as_json, print_ops_table)


@bench_app.command("input")
@with_settings(InputBenchSettings)
def feed(as_json: AsJson = False, **given: Any) -> None:
    """Measure whether this host can feed --devices devices that compute for --step-ms per batch.

    One process per device reads the data as train does, with its share of the cores. The devices are
    simulated by waiting. Without --step-ms or --load, only the loader's maximum is measured.
    """
    from shufflenet_fn.bench.input import run_input_bench
    from shufflenet_fn_cli.bench_table import print_input_table

    show(run_input_bench(InputBenchSettings(**given), progress=progress), as_json, print_input_table)


def progress(text: str) -> None:
    """Print the progress of a measurement to standard error."""
    print(text, file=sys.stderr, flush=True)


def show(result: dict[str, Any], as_json: bool, table: Callable[[dict[str, Any]], None]) -> None:
    """Print a result as one JSON object, or as ``table`` does."""
    from shufflenet_fn.io import to_json

    if as_json:
        print(to_json(result))
    else:
        table(result)

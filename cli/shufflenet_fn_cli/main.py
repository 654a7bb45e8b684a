"""The ``shufflenet-fn`` command. Importing this module does not import torch."""

from __future__ import annotations

import os
import sys
from typing import Annotated, NoReturn

import typer

from shufflenet_fn.config.options import expand_home
from shufflenet_fn.streams import lasting_streams
from shufflenet_fn_backends.support.errors import UsageError, UserError
from shufflenet_fn_backends.support.limits import affinity_cores, limit_reached, usable_cores
from shufflenet_fn_cli.bench import bench_app
from shufflenet_fn_cli.checkpoint import checkpoint_app
from shufflenet_fn_cli.data import data_app
from shufflenet_fn_cli.doctor import doctor
from shufflenet_fn_cli.evaluate import evaluate
from shufflenet_fn_cli.export import convert, export_app
from shufflenet_fn_cli.predict import embed, predict
from shufflenet_fn_cli.train import train
from shufflenet_fn_cli.verify_resume import verify_resume

app = typer.Typer(
    name="shufflenet-fn",
    help="Train and study ShuffleNetV2 on Ascend NPUs, GPUs and CPUs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda name: name.replace("_", "-"),  # --batch_size is --batch-size
    },
)
app.command()(train)
app.command()(evaluate)
app.command()(predict)
app.command()(convert)
app.command()(embed)
app.command()(doctor)
app.command()(verify_resume)
app.add_typer(bench_app, name="bench")
app.add_typer(checkpoint_app, name="checkpoint")
app.add_typer(data_app, name="data")
app.add_typer(export_app, name="export")


def _show_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(version("shufflenet-fn"))
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show version.")
    ] = False,
) -> None:
    """Train and study ShuffleNetV2 on Ascend NPUs, GPUs and CPUs."""


def main() -> None:
    """Run the command line. A user's error is printed as one message and ends with its exit code."""
    # Otherwise `import torch` loads an installed torch_npu, and fails if CANN is not set up, even for
    # --device cpu. The NPU's runtime imports torch_npu when it is requested. Set the variable always, because
    # a process that has imported torch_npu passes 1 to its children.
    os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
    # Our own messages cover what torch's C++ warns about (host names that cannot be resolved, connections
    # that another rank has closed), without half a page of addresses.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    if (cores := usable_cores()) < affinity_cores():
        # torch and numpy count the cores of the host, whatever the quota of the container.
        for variable in ("OMP_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"):
            os.environ.setdefault(variable, str(cores))
    if {"-h", "--help"} & set(sys.argv) and not (sys.stdout and sys.stdout.isatty()):
        os.environ.setdefault("TERMINAL_WIDTH", "240")  # typer cuts names of options at 80 columns
    with lasting_streams(results_only="--json" in sys.argv) as output:
        try:
            _run()
        except SystemExit as end:
            code = end.code
    sys.exit(code or int(output is not None and output.lost))


def _run() -> NoReturn:
    try:
        sys.argv[1:] = map(_with_home, sys.argv[1:])
        if sys.argv[1:2] == ["emulator"]:
            raise UsageError(
                "`shufflenet-fn emulator` is now the command ascend-emulator. In a clone of this repository: "
                "pip install ./emulator, then ascend-emulator with the same arguments."
            )
        app(prog_name="shufflenet-fn")
    except Exception as error:
        told = limit_reached(error) or error
        if not isinstance(told, UserError):
            raise
        print(f"error: {told}", file=sys.stderr)
        sys.exit(told.exit_code)
    sys.exit()


def _with_home(argument: str) -> str:
    """Return ``argument`` with its ``~`` expanded, which shells leave in ``--option=~/path``."""
    option, equals, value = argument.partition("=")
    if equals and option.startswith("-"):
        return f"{option}={expand_home(value)}"
    return expand_home(argument)


if __name__ == "__main__":
    main()

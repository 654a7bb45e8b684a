"""``ascend-emulator``: runs the real torch_npu on an emulated CANN, on a machine without an NPU."""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from ascend_emulator.errors import UserError

app = typer.Typer(
    name="ascend-emulator",
    help="Run torch_npu without an NPU, on an emulated CANN: it proves calls, not speed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Devices = Annotated[int, typer.Option(help="Number of NPUs.")]
Memory = Annotated[
    str | None, typer.Option(help="Memory of each NPU, as in 8GiB.", show_default="that of the chip")
]
Soc = Annotated[str, typer.Option(help="CANN's name of the chip.")]
Faults = Annotated[
    str | None,
    typer.Option(
        help="Faults to inject, separated by commas. alloc@3: the third allocation fails. "
        "op:aclnnConvolution@5: that operator's fifth launch fails. overflow@4: fp16 overflow in the "
        "fourth launch. hccl:hang@2, hccl:kill@2: the second collective hangs or kills the process. "
        "hccl:async@2: a network error during the second collective. device:busy@1: the first "
        "set_device of a process finds the device held by a killed process. hccl:busy@2: the same at "
        "the second start of the ranks. A suffix #1 limits a fault to rank 1."
    ),
]


@app.callback()
def root() -> None:
    """Run torch_npu without an NPU, on an emulated CANN: it proves calls, not speed.

    Operators compute as ATen does on the CPU. A program that runs here makes valid
    calls of torch_npu, with types and shapes that CANN accepts, and launches as
    many operators as on a chip. Speed and the rounding of Ascend's kernels are not
    proved.
    """


@app.command()
def build() -> None:
    """Compile the emulator against the installed torch and torch_npu, and print its folder."""
    from ascend_emulator.build import build as build_libraries

    print(build_libraries(_progress))


@app.command()
def env(devices: Devices = 1, memory: Memory = None, soc: Soc = "Ascend910B1", faults: Faults = None) -> None:
    """Print the environment variables for a shell: eval "$(ascend-emulator env)"."""
    for name, value in _variables(devices, memory, soc, faults, None).items():
        print(f"export {name}={shlex.quote(value)}")


@app.command(context_settings={"allow_interspersed_args": False})
def run(
    command: Annotated[list[str], typer.Argument(metavar="COMMAND", help="Command to run, after --.")],
    devices: Devices = 1,
    memory: Memory = None,
    soc: Soc = "Ascend910B1",
    faults: Faults = None,
    report: Annotated[bool, typer.Option("--report", help="Print the counts at the end.")] = False,
    counts: Annotated[
        Path | None, typer.Option(help="Folder for the counts, a JSON file for each process.")
    ] = None,
) -> None:
    """Run a command on the emulator and return its exit code.

    For example: ascend-emulator run --devices 2 --report -- python train.py
    """
    from ascend_emulator.report import PATTERN, read_reports
    from ascend_emulator.running import check
    from ascend_emulator.running import run as run_command

    check(command)
    with tempfile.TemporaryDirectory(prefix="ascend-emulator-") as scratch:
        folder = counts or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        pattern = str(folder.absolute() / PATTERN) if report or counts else None
        code = run_command(command, _variables(devices, memory, soc, faults, pattern))
        if report:
            from ascend_emulator.tables import print_report

            print_report(read_reports(folder))
    sys.exit(code)


@app.command()
def sources(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
) -> None:
    """Print each emulated function with the vendor's documents and kernels that it was compared with."""
    from ascend_emulator.tables import print_sources, sources_as_json
    from ascend_emulator.vendor_sources import emulated_functions

    functions = emulated_functions()
    if as_json:
        print(json.dumps(sources_as_json(functions)))
    else:
        print_sources(functions)


def _variables(
    devices: int, memory: str | None, soc: str, faults: str | None, report: str | None
) -> dict[str, str]:
    from ascend_emulator.build import build as build_libraries
    from ascend_emulator.environment import Machine, check, variables

    machine = Machine(devices, memory, soc, faults)
    check(machine)  # before a build that takes a minute
    return variables(build_libraries(_progress), machine, report=report)


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Run the command line. A ``UserError`` is printed as one message and sets the exit code."""
    try:
        app(prog_name="ascend-emulator")
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

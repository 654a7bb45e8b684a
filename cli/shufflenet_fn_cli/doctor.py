"""``shufflenet-fn doctor``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shufflenet_fn.doctor.finding import DoctorSettings
from shufflenet_fn_cli.options import table_console, with_settings

if TYPE_CHECKING:
    from shufflenet_fn.doctor.finding import Report, Stage

_STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red", "skipped": "dim"}


@with_settings(DoctorSettings)
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")] = False,
    explain: Annotated[
        Path | None,
        typer.Option(
            help="Search this log ('-' for standard input) for known errors, and do not check the machine."
        ),
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also train a few steps and run bench step, and write figures, versions and logs to this "
            "new zip archive, without paths, names and addresses. Takes minutes.",
        ),
    ] = None,
    **given: Any,
) -> None:
    """Check the installation in stages, and print a fix for each problem.

    Each stage runs in its own process with a time limit. A crash or a hang is reported, and the next
    stage runs. Exit codes: 0 nothing failed (there may be warnings), 1 a stage failed, 2 wrong usage.
    """
    if explain is not None:
        if bundle is not None:
            from shufflenet_fn_backends.support.errors import UsageError

            raise UsageError("--explain reads a log and --bundle looks at the machine. Give one.")
        _explain(explain, as_json)
        return
    if bundle is not None:
        _bundle(bundle, DoctorSettings(**given), as_json)
        return
    from shufflenet_fn.doctor.examine import examine

    report = examine(DoctorSettings(**given), _progress)
    if as_json:
        print(json.dumps(report.as_json()))
    else:
        _print(report)
    if not report.ok:
        raise typer.Exit(1)


def _bundle(path: Path, settings: DoctorSettings, as_json: bool) -> None:
    from shufflenet_fn.doctor.bundle import make_bundle

    bundle = make_bundle(path, settings, command="shufflenet_fn_cli.main", say=_say, on_stage=_say_stage)
    if as_json:
        written = {"path": str(bundle.path), "bytes": bundle.size}
        print(json.dumps({**bundle.report.as_json(), "bundle": written}))
    else:
        _print(bundle.report)
    _say(f"wrote {bundle.path}, {bundle.size / 1000:.1f} kB, in {bundle.seconds:.0f} s")
    if not bundle.report.ok:
        raise typer.Exit(1)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _say_stage(stage: Stage) -> None:
    _say(f"{stage.name}: {stage.finding.status} after {stage.seconds:.1f} s")


def _progress(stage: Stage) -> None:
    if sys.stderr.isatty():
        print(f"{stage.name}: {stage.finding.status}", file=sys.stderr)


def _print(report: Report) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="shufflenet-fn doctor", show_lines=False)
    table.add_column("stage", no_wrap=True)
    table.add_column("result", no_wrap=True)
    table.add_column("finding", overflow="fold")
    for name, finding, _ in report.stages:
        result = Text(finding.status, style=_STYLES[finding.status])
        table.add_row(name, result, Text(finding.text))
    console = table_console()
    console.print(table)
    for name, finding, _ in report.stages:
        if finding.fix:
            console.print(Text(f"{name}: ", style=_STYLES[finding.status]) + Text(finding.fix))
    failed = [name for name, finding, _ in report.stages if finding.status == "failed"]
    if failed:
        console.print(f"{len(failed)} of {len(report.stages)} stages failed: {', '.join(failed)}")
    else:
        console.print("nothing failed")


def _explain(path: Path, as_json: bool) -> None:
    from shufflenet_fn_backends.known_errors import explain_all
    from shufflenet_fn_backends.support.errors import UsageError

    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(errors="replace")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}.") from None
    found = explain_all(text)
    if as_json:
        said = ("key", "meaning", "fix", "source")
        print(json.dumps({"known": [{name: getattr(e, name) for name in said} for e in found]}))
        return
    for entry in found:
        print(f"{entry.key}: {entry.meaning}. {entry.fix}. Source: {entry.source}.")
    if not found:
        print("no error that is known here; CANN's own log is in ~/ascend/log/debug/plog")

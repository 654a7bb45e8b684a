"""``shufflenet-fn doctor``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shufflenet_fn.doctor.finding import DoctorSettings
from shufflenet_fn_backends.support.errors import UsageError
from shufflenet_fn_cli.bench import AsJson, progress
from shufflenet_fn_cli.console import table_console
from shufflenet_fn_cli.options import with_settings

if TYPE_CHECKING:
    from shufflenet_fn.doctor.finding import Report, Stage

_STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red", "skipped": "dim"}


@with_settings(DoctorSettings)
def doctor(
    as_json: AsJson = False,
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
            raise UsageError("--explain reads a log and --bundle looks at the machine. Give one.")
        _explain(explain, as_json)
        return
    settings = DoctorSettings(**given)
    archive = None
    if bundle is None:
        from shufflenet_fn.doctor.examine import examine

        report = examine(settings, _progress)
    else:
        from shufflenet_fn.doctor.bundle import make_bundle

        archive = make_bundle(bundle, settings, command="shufflenet_fn_cli.main", say=progress)
        report = archive.report
    if as_json:
        written = {"bundle": {"path": str(archive.path), "bytes": archive.size}} if archive else {}
        print(json.dumps({**report.as_json(), **written}))
    else:
        _print(report)
    if archive is not None:
        progress(f"wrote {archive.path}, {archive.size / 1000:.1f} kB, in {archive.seconds:.0f} s")
    if not report.ok:
        raise typer.Exit(1)


def _progress(stage: Stage) -> None:
    if sys.stderr.isatty():
        progress(f"{stage.name}: {stage.finding.status}")


def _print(report: Report) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(title="shufflenet-fn doctor")
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

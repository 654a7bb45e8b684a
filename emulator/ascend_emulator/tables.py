"""Tables of the emulator's counts, of the modelled kernels, and of the sources that it follows."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ascend_emulator.counters import Counts, DeviceCounts, add
from ascend_emulator.kernel_model import DERIVED, Modelled, model
from ascend_emulator.report import PROVES
from ascend_emulator.vendor_sources import KINDS, Function


def print_report(processes: Sequence[Counts]) -> None:
    """Print kernels, waits and copies of all processes together, then of each process, to standard error.

    Standard output belongs to the command.
    """
    console = Console(stderr=True)
    if not processes:
        console.print("No process used an NPU, or none came to its end: nothing was counted.")
        return
    total = add([one.total for one in processes])
    console.print(_calls(total, len(processes)))
    console.print(_modelled(model(total.signatures)))
    if total.syncs or total.copies:
        console.print(_waits_and_copies(total))
    console.print(_processes(processes))
    console.print(PROVES)


def _calls(total: DeviceCounts, processes: int) -> Table:
    title = "calls of CANN" if processes == 1 else f"calls of CANN, {processes} processes together"
    table = _table(title, "operator", "calls", "MB read", "MB written")
    by_launches = sorted(total.kernels.items(), key=lambda item: (-item[1].launches, item[0]))
    for name, kernel in by_launches:
        table.add_row(
            name, str(kernel.launches), f"{kernel.bytes_read / 1e6:.3f}", f"{kernel.bytes_written / 1e6:.3f}"
        )
    table.add_section()
    kernels = total.kernels.values()
    table.add_row(
        "all",
        str(total.launches),
        f"{sum(kernel.bytes_read for kernel in kernels) / 1e6:.3f}",
        f"{sum(kernel.bytes_written for kernel in kernels) / 1e6:.3f}",
    )
    return table


def _modelled(kernels: Modelled) -> Table:
    table = _table(f"device kernels, {DERIVED}", "kernel", "launches", "share", "MB moved")
    for kind, count in sorted(kernels.kinds.items(), key=lambda item: (-item[1], item[0])):
        moved = f"{kernels.bytes_by_kind[kind] / 1e6:.3f}"
        table.add_row(kind, str(count), f"{kernels.share(kind):.1%}", moved)
    table.add_section()
    span = f"{kernels.kernels} ({kernels.low} to {kernels.high})"
    table.add_row("all", span, "", f"{kernels.nbytes / 1e6:.3f}")
    if kernels.assumed:
        table.caption = "one kernel is assumed for each call of: " + ", ".join(sorted(kernels.assumed))
    return table


def _waits_and_copies(total: DeviceCounts) -> Table:
    table = _table("host waits and copies", "what", "times", "MB")
    for name, times in sorted(total.syncs.items()):
        table.add_row(f"wait: {name}", str(times), "")
    for name, copy in sorted(total.copies.items()):
        table.add_row(f"copy: {name}", str(copy.copies), f"{copy.bytes / 1e6:.3f}")
    return table


def _processes(processes: Sequence[Counts]) -> Table:
    table = _table("processes", "rank", "process", "device", "calls", "waits", "copies", "peak MB")
    for one in processes:
        for number, device in one.devices.items():
            table.add_row(
                str(one.rank),
                str(one.pid),
                f"{one.soc} {number}",
                str(device.launches),
                str(device.host_syncs),
                str(sum(copy.copies for copy in device.copies.values())),
                f"{device.bytes_peak / 1e6:.1f}",
            )
    return table


def print_sources(functions: Sequence[Function]) -> None:
    """Print each emulated function with the sources that it was compared with, and totals."""
    console = Console()
    table = Table(title="emulated functions of CANN", title_justify="left")
    for column in ("kind", "function", "file", "compared with"):
        table.add_column(column, overflow="fold")
    for one in functions:
        table.add_row(one.kind, one.name, one.file, "\n".join(one.sources) or "not compared")
    console.print(table)
    for kind in KINDS:
        console.print(f"{kind}: {_compared([one for one in functions if one.kind == kind])}")
    console.print(f"all: {_compared(functions)}")


def _compared(functions: Sequence[Function]) -> str:
    compared = sum(bool(one.sources) for one in functions)
    return f"{compared} compared, {len(functions) - compared} not compared"


def sources_as_json(functions: Sequence[Function]) -> dict[str, object]:
    """Return the totals and each function with its sources."""
    compared = sum(bool(one.sources) for one in functions)
    return {
        "compared": compared,
        "not_compared": len(functions) - compared,
        "functions": [one._asdict() for one in functions],
    }


def _table(title: str, first: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table

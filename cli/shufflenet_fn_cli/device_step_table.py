"""The result of ``bench step`` on a GPU or an NPU as tables."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def print_device_step(console: Console, result: dict[str, Any]) -> None:
    """Times of each contender, then its kernels if they were profiled, then what follows from them."""
    table = Table(
        title=f"milliseconds of a training step on {result['chip']}, {result['arch']}, "
        f"{result['image_size']}², batch {result['batch_size']}, {result['precision']}, "
        f"{result['rounds']} rounds, {result['steps_per_sync']} steps a synchronisation"
    )
    headings = ("img/s", "step", "host", "device", "× base", "90 % interval")
    table.add_column("contender", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, found in result["contenders"].items():
        table.add_row(
            name,
            f"{found['img_s']:.0f}",
            f"{found['step_ms']:.2f}",
            f"{found['host_ms']:.2f}",
            _number(found["device_ms"], 2),
            _number(found["ratio"], 3),
            _interval(found["ratio_interval"]),
        )
    console.print(table)
    for name, kernels in (result["kernels"] or {}).items():
        _print_kernels(console, name, kernels)
    _print_conclusion(console, result)


def _print_kernels(console: Console, name: str, kernels: dict[str, Any]) -> None:
    if "missing" in kernels:
        console.print(f"{name}: {kernels['missing']}")
        return
    table = Table(
        title=f"kernels of {name}: {kernels['launches']:.0f} a step, {kernels['device_ms']:.3f} ms"
    )
    table.add_column("type")
    table.add_column("a step", justify="right")
    table.add_column("share", justify="right")
    for share, value in kernels["shares"].items():
        table.add_row(f"all {share}", "", f"{value:.1%}")
    for top in kernels["top"]:
        table.add_row(escape(top["type"]), f"{top['launches']:.1f}", f"{top['share']:.1%}")
    console.print(table)


def _print_conclusion(console: Console, result: dict[str, Any]) -> None:
    console.print(f"baseline: {result['baseline']}")
    following = result["fastest_over_next"]
    if following is not None:
        console.print(
            f"fastest of ours: {result['fastest']}, {following['ratio']:.3f} times the speed of "
            f"{following['next']} (90 % interval {_interval(following['ratio_interval'])})"
        )
    if result["ratio_best_peer"] is not None:
        verdict = "conclusive" if result["conclusive"] else result["advice"]
        console.print(
            f"against the best peer ({result['best_peer']}): {result['ratio_best_peer']:.3f} times its "
            f"speed, {verdict}"
        )
    for name, reason in result["left_out"].items():
        console.print(f"not measured: {name} ({escape(reason)})")
    if result["kept"] is not None:
        console.print(f"kept in {result['kept']}")
    if result["warning"] is not None:
        console.print(f"WARNING: {result['warning']}")


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _interval(bounds: list[float] | None) -> str:
    return "" if bounds is None else f"{bounds[0]:.3f}–{bounds[1]:.3f}"

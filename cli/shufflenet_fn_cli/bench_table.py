"""Benchmark results as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shufflenet_fn_cli.console import table_console


def print_step_table(result: dict[str, Any]) -> None:
    """Print speed and memory of each candidate, ours first, in a table for each architecture."""
    console = table_console()
    for one in result.get("results", [result]):
        if "contenders" in one:
            print_device_step(console, one)
        else:
            _print_step(console, one)


def print_infer_table(result: dict[str, Any]) -> None:
    """Print milliseconds of each candidate, in a table for each batch size and number of threads."""
    console = table_console()
    for case in result["cases"]:
        table = table_of(
            f"inference, {result['arch']}, {result['image_size']}², batch {case['batch_size']}, "
            f"{result['precision']}, {case['threads']} threads, {result['rounds']} rounds",
            ("candidate", "ms", "ours ÷ it", "90 % interval"),
        )
        table.add_row("shufflenet-fn", f"{case['ours_ms']:.3f}", "", "")
        for name, milliseconds in case["peers_ms"].items():
            interval = _interval(case["ratio_intervals"][name])
            table.add_row(name, f"{milliseconds:.3f}", f"{case['ratios'][name]:.3f}", interval)
        shown = case["onnxruntime"]
        if shown is not None:
            table.add_row(
                "onnxruntime (no peer)",
                f"{shown['ms']:.3f}",
                f"{shown['ratio']:.3f}",
                _interval(shown["ratio_interval"]),
            )
        console.print(table)
        _print_verdict(console, case)
    print_left_out(console, result)


def print_ops_table(result: dict[str, Any]) -> None:
    """Print milliseconds, bytes and relative speed, in a table for each operation and pass."""
    console = table_console()
    for operation in result["operations"]:
        several = f" ×{operation['units']}" if operation["units"] > 1 else ""
        for which, candidates in operation["passes"].items():
            table = table_of(
                f"{operation['name']}{several}, {which}",
                ("candidate", "ms", "MB moved", "GB/s", f"× {result['baseline']}", "90 % interval"),
            )
            for name, found in candidates.items():
                table.add_row(
                    name,
                    f"{found['ms']:.3f}",
                    f"{found['bytes'] / 1e6:.1f}",
                    f"{found['bytes'] / found['ms'] / 1e6:.1f}",
                    "" if found["ratio"] is None else f"{found['ratio']:.3f}",
                    "" if found["ratio"] is None else _interval(found["ratio_interval"]),
                )
            console.print(table)
    console.print(
        f"stage 2 of {result['arch']}, {result['image_size']}², batch {result['batch_size']}, "
        f"{result['device']}, {result['precision']}, {result['threads']} threads, "
        f"{result['rounds']} rounds, allocator {result['allocator']}"
    )
    if result["warning"] is not None:
        console.print(f"WARNING: {result['warning']}")
    print_left_out(console, result)


def _print_step(console: Console, result: dict[str, Any]) -> None:
    table = table_of(
        f"training step, {result['arch']}, {result['image_size']}², batch {result['batch_size']}, "
        f"{result['precision']}, {result['threads']} threads, {result['rounds']} rounds",
        ("candidate", "images/s", "ours ÷ it", "90 % interval"),
    )
    table.add_row("shufflenet-fn", f"{result['ours_img_s']:.1f}", "", "")
    for name, rate in result["peers"].items():
        interval = _interval(result["ratio_intervals"][name])
        table.add_row(name, f"{rate:.1f}", f"{result['ratios'][name]:.3f}", interval)
    console.print(table)
    _print_verdict(console, result)
    compiled = result["ours_compiled"]
    if compiled is not None:
        console.print(
            f"ours under torch.compile ({compiled['backend']}): {compiled['img_s']:.1f} images/s, "
            f"{compiled['speedup']:.3f} times our step without, 90 % interval "
            f"{_interval(compiled['speedup_interval'])}"
        )
    _print_memory(console, result)
    print_left_out(console, result)


def _print_memory(console: Console, result: dict[str, Any]) -> None:
    table = table_of("memory of a step", ("candidate", "peak MiB", "activations MiB", "ours ÷ its"))
    peaks = {"shufflenet-fn": result["ours_peak_bytes"], **result["peer_peak_bytes"]}
    for name, peak in peaks.items():
        ratio = result["activation_ratios"].get(name)
        table.add_row(
            name,
            _mib(peak),
            _mib(result["activation_bytes"][name]),
            "" if ratio is None else f"{ratio:.3f}",
        )
    console.print(table)
    console.print(
        f"{result['memory_ratio_best_peer']:.3f} times the best peer's peak memory; activations: "
        f"{result['activation_method']}"
    )


def _print_verdict(console: Console, result: dict[str, Any]) -> None:
    console.print(
        f"against the best peer ({result['best_peer']}): {result['ratio_best_peer']:.3f} times its speed, "
        f"{'conclusive' if result['conclusive'] else result['advice']}"
    )


def print_left_out(console: Console, result: dict[str, Any]) -> None:
    """Print the candidates that were not measured, with the reasons."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in result["left_out"].items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        console.print(f"not measured: {', '.join(names)} ({escape(reason)})")


def table_of(title: str, headings: tuple[str, ...]) -> Table:
    """Return an empty table with a first column of text and further columns of numbers."""
    table = Table(title=title)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", no_wrap=True)
    return table


def _interval(bounds: Sequence[float] | None) -> str:
    return "" if bounds is None else f"{bounds[0]:.3f}–{bounds[1]:.3f}"


def _mib(count: int | None) -> str:
    return "" if count is None else f"{count / 2**20:.0f}"


def print_device_step(console: Console, result: dict[str, Any]) -> None:
    """Print the times of each candidate, then its kernels if they were profiled, then the conclusion."""
    table = Table(
        title=f"milliseconds of a training step on {result['chip']}, {result['arch']}, "
        f"{result['image_size']}², batch {result['batch_size']}, {result['precision']}, "
        f"{result['rounds']} rounds, {result['steps_per_sync']} steps a synchronisation"
    )
    headings = ("img/s", "step", "host", "device", "× base", "90 % interval")
    table.add_column("candidate", no_wrap=True)
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

"""Benchmark results as tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shufflenet_fn.bench.peers import by_reason
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
        rows = _peer_rows(case, case["ours_ms"], case["peers_ms"], 3)
        onnx = case["onnxruntime"]
        if onnx is not None:
            found = (f"{onnx['ms']:.3f}", f"{onnx['ratio']:.3f}", _interval(onnx["ratio_interval"]))
            rows.append(("onnxruntime (no peer)", *found))
        title = (
            f"inference, {result['arch']}, {result['image_size']}², batch {case['batch_size']}, "
            f"{result['precision']}, {case['threads']} threads, {result['rounds']} rounds"
        )
        _print_table(console, title, ("candidate", "ms", "ours ÷ it", "90 % interval"), rows)
        _print_best_peer(console, case)
    _print_left_out(console, result)


def print_ops_table(result: dict[str, Any]) -> None:
    """Print milliseconds and relative speed, in a table for each operation and pass."""
    console = table_console()
    against = f"× {result['baseline']}"
    headings = ("candidate", "ms", against, "90 % interval")
    for operation in result["operations"]:
        several = f" ×{operation['units']}" if operation["units"] > 1 else ""
        for which, candidates in operation["passes"].items():
            rows = [
                (name, f"{found['ms']:.3f}", _number(found["ratio"], 3), _interval(found["ratio_interval"]))
                for name, found in candidates.items()
            ]
            _print_table(console, f"{operation['name']}{several}, {which}", headings, rows)
    console.print(
        f"stage 2 of {result['arch']}, {result['image_size']}², batch {result['batch_size']}, "
        f"{result['device']}, {result['precision']}, {result['threads']} threads, "
        f"{result['rounds']} rounds, allocator {result['allocator']}"
    )
    if result["warning"] is not None:
        console.print(f"WARNING: {result['warning']}")
    _print_left_out(console, result)


def _print_step(console: Console, result: dict[str, Any]) -> None:
    rows = _peer_rows(result, result["ours_img_s"], result["peers"], 1)
    title = (
        f"training step, {result['arch']}, {result['image_size']}², batch {result['batch_size']}, "
        f"{result['precision']}, {result['threads']} threads, {result['rounds']} rounds"
    )
    _print_table(console, title, ("candidate", "images/s", "ours ÷ it", "90 % interval"), rows)
    _print_best_peer(console, result)
    compiled = result["ours_compiled"]
    if compiled is not None:
        console.print(
            f"ours under torch.compile ({compiled['backend']}): {compiled['img_s']:.1f} images/s, "
            f"{compiled['speedup']:.3f} times our step without, 90 % interval "
            f"{_interval(compiled['speedup_interval'])}"
        )
    peaks = {"shufflenet-fn": result["ours_peak_bytes"], **result["peer_peak_bytes"]}
    activations, ratios = result["activation_bytes"], result["activation_ratios"]
    _print_table(
        console,
        "memory of a step",
        ("candidate", "peak MiB", "activations MiB", "ours ÷ its"),
        [
            (name, _mib(peak), _mib(activations[name]), _number(ratios.get(name), 3))
            for name, peak in peaks.items()
        ],
    )
    console.print(
        f"{result['memory_ratio_best_peer']:.3f} times the best peer's peak memory; activations: "
        f"{result['activation_method']}"
    )
    _print_left_out(console, result)


def print_device_step(console: Console, result: dict[str, Any]) -> None:
    """Print the times of each candidate, then its kernels if they were profiled, then the conclusion."""
    title = (
        f"milliseconds of a training step on {result['chip']}, {result['arch']}, "
        f"{result['image_size']}², batch {result['batch_size']}, {result['precision']}, "
        f"{result['rounds']} rounds, {result['steps_per_sync']} steps a synchronisation"
    )
    headings = ("candidate", "img/s", "step", "host", "device", "× base", "90 % interval")
    rows = [
        (
            name,
            f"{found['img_s']:.0f}",
            f"{found['step_ms']:.2f}",
            f"{found['host_ms']:.2f}",
            _number(found["device_ms"], 2),
            _number(found["ratio"], 3),
            _interval(found["ratio_interval"]),
        )
        for name, found in result["contenders"].items()
    ]
    _print_table(console, title, headings, rows)
    for name, kernels in (result["kernels"] or {}).items():
        _print_kernels(console, name, kernels)
    console.print(f"baseline: {result['baseline']}")
    following = result["fastest_over_next"]
    if following is not None:
        console.print(
            f"fastest of ours: {result['fastest']}, {following['ratio']:.3f} times the speed of "
            f"{following['next']} (90 % interval {_interval(following['ratio_interval'])})"
        )
    if result["ratio_best_peer"] is not None:
        _print_best_peer(console, result)
    _print_left_out(console, result)
    if result["kept"] is not None:
        console.print(f"kept in {result['kept']}")
    if result["warning"] is not None:
        console.print(f"WARNING: {result['warning']}")


def _print_kernels(console: Console, name: str, kernels: dict[str, Any]) -> None:
    if "missing" in kernels:
        console.print(f"{name}: {kernels['missing']}")
        return
    rows = [(f"all {share}", "", f"{value:.1%}") for share, value in kernels["shares"].items()]
    for top in kernels["top"]:
        rows.append((escape(top["type"]), f"{top['launches']:.1f}", f"{top['share']:.1%}"))
    launches, milliseconds = kernels["launches"], kernels["device_ms"]
    title = f"kernels of {name}: {launches:.0f} a step, {milliseconds:.3f} ms"
    _print_table(console, title, ("type", "a step", "share"), rows, wrap=True)


def print_data_table(result: dict[str, Any]) -> None:
    """Print images per second of each candidate against torchvision, and the cost of each stage.

    The number after torchvision is that of its worker processes.
    """
    console = table_console()
    rows = []
    for name, found in result["contenders"].items():
        label = name if found["loader"] == "ours" else f"{name}, {found['workers']}"
        row = [label, f"{found['images_s']:.0f}", f"{found['cpu_s_per_1000']:.2f}"]
        if name in result["ratios"]:
            over = result["ratios"][name]
            low, high = over["interval"]
            row += [f"{over['ratio']:.2f} ({low:.2f}–{high:.2f})", f"{over['cpu_ratio']:.2f}"]
        rows.append(row)
    title = (
        f"{result['images']} images to batches of {result['batch_size']} × {result['image_size']}², "
        f"jitter {result['color_jitter']}, {result['threads']} threads"
    )
    headings = ("candidate", "images/s", "CPU s/1000", "× torchvision", "per CPU s")
    _print_table(console, title, headings, rows)
    for name, over in result["ratios"].items():
        if over["advice"] is not None:
            console.print(f"{name}: {over['advice']}")
    if result["peer_workers"]:
        tried = (f"{count}: {rate:.0f}" for count, rate in result["peer_workers"].items())
        console.print(f"torchvision, images/s by worker processes (trial): {', '.join(tried)}")
    stages = result["stages"]
    costs = [
        (stage, *(f"{cost[stage]:.0f}" for cost in stages.values())) for stage in next(iter(stages.values()))
    ]
    _print_table(console, "µs of an image on one thread", ("stage", *stages), costs)
    _print_left_out(console, result)


def print_input_table(result: dict[str, Any]) -> None:
    """Print whether the host feeds its devices, after the numbers behind it."""
    rates = [("the loader's maximum", result["maximum_img_s"])]
    if result["step_ms"] is not None:
        rates.append((f"demanded at {result['step_ms']:.4g} ms", result["demanded_img_s"]))
        rates.append(("delivered", result["delivered_img_s"]))
    console = table_console()
    devices = result["devices"]
    _print_table(
        console,
        f"devices: {devices}, threads of each: {result['threads']}, cores: {result['cores']}",
        ("", "images/s", "per device"),
        [(name, f"{rate:.0f}", f"{rate / devices:.0f}") for name, rate in rates],
    )
    if result["step_ms"] is not None:
        shares = ", ".join(f"{100 * share:.1f}" for share in result["data_wait"])
        console.print(f"data wait by device, % of the step: {shares}")
    console.print(result["verdict"])


def _peer_rows(
    result: dict[str, Any], ours: float, peers: dict[str, float], digits: int
) -> list[tuple[str, str, str, str]]:
    """Return rows with the figure of each candidate, ours first, and the ratio to each peer."""
    ratios, intervals = result["ratios"], result["ratio_intervals"]
    return [("shufflenet-fn", f"{ours:.{digits}f}", "", "")] + [
        (name, f"{figure:.{digits}f}", f"{ratios[name]:.3f}", _interval(intervals[name]))
        for name, figure in peers.items()
    ]


def _print_best_peer(console: Console, result: dict[str, Any]) -> None:
    console.print(
        f"against the best peer ({result['best_peer']}): {result['ratio_best_peer']:.3f} times its speed, "
        f"{'conclusive' if result['conclusive'] else result['advice']}"
    )


def _print_left_out(console: Console, result: dict[str, Any]) -> None:
    """Print the candidates that were not measured, with the reasons."""
    for reason, names in by_reason(result["left_out"]).items():
        console.print(f"not measured: {', '.join(names)} ({escape(reason)})")


def _print_table(
    console: Console,
    title: str,
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    wrap: bool = False,
) -> None:
    """Print a table with a first column of text and further columns of numbers."""
    table = Table(title=title)
    first, *others = headings
    table.add_column(first, no_wrap=not wrap)
    for heading in others:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _interval(bounds: Sequence[float] | None) -> str:
    return "" if bounds is None else f"{bounds[0]:.3f}–{bounds[1]:.3f}"


def _mib(count: int | None) -> str:
    return "" if count is None else f"{count / 2**20:.0f}"


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"

"""What was measured of loaders, as tables."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from shufflenet_fn_cli.bench_table import print_left_out, table_of
from shufflenet_fn_cli.console import table_console


def print_data_table(result: dict[str, Any]) -> None:
    """Images per second of each contender against torchvision, and the cost of each stage.

    The number after torchvision is that of its worker processes.
    """
    console = table_console()
    headings = ("contender", "images/s", "CPU s/1000", "× torchvision", "per CPU s")
    table = table_of(
        f"{result['images']} images to batches of {result['batch_size']} × {result['image_size']}², "
        f"jitter {result['color_jitter']}, {result['threads']} threads",
        headings,
    )
    for name, found in result["contenders"].items():
        over = result["ratios"].get(name)
        table.add_row(
            name if found["loader"] == "ours" else f"{name}, {found['workers']}",
            f"{found['images_s']:.0f}",
            f"{found['cpu_s_per_1000']:.2f}",
            "" if over is None else _ratio(over["ratio"], over["interval"]),
            "" if over is None else f"{over['cpu_ratio']:.2f}",
        )
    console.print(table)
    for name, over in result["ratios"].items():
        if over["advice"] is not None:
            console.print(f"{name}: {over['advice']}")
    if result["peer_workers"]:
        tried = (f"{count}: {rate:.0f}" for count, rate in result["peer_workers"].items())
        console.print(f"torchvision, images/s by worker processes (trial): {', '.join(tried)}")
    console.print(_stages(result["stages"]))
    print_left_out(console, result)


def print_input_table(result: dict[str, Any]) -> None:
    """The verdict, after the numbers that it is made of."""
    table = table_of(
        f"devices: {result['devices']}, threads of each: {result['threads']}, cores: {result['cores']}",
        ("", "images/s", "per device"),
    )
    rows = [("the loader's maximum", result["maximum_img_s"])]
    if result["step_ms"] is not None:
        rows.append((f"demanded at {result['step_ms']:.4g} ms", result["demanded_img_s"]))
        rows.append(("delivered", result["delivered_img_s"]))
    for name, rate in rows:
        table.add_row(name, f"{rate:.0f}", f"{rate / result['devices']:.0f}")
    console = table_console()
    console.print(table)
    if result["step_ms"] is not None:
        shares = ", ".join(f"{100 * share:.1f}" for share in result["data_wait"])
        console.print(f"data wait by device, % of the step: {shares}")
    console.print(result["verdict"])


def _stages(stages: dict[str, dict[str, float]]) -> Table:
    names = list(stages)
    table = table_of("µs of an image on one thread", ("stage", *names))
    for stage in stages[names[0]]:
        table.add_row(stage, *(f"{stages[name][stage]:.0f}" for name in names))
    return table


def _ratio(value: float, bounds: tuple[float, float]) -> str:
    return f"{value:.2f} ({bounds[0]:.2f}–{bounds[1]:.2f})"

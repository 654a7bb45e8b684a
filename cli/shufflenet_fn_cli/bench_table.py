"""Benchmark results as tables."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table


def print_step_table(result: dict[str, Any]) -> None:
    """Images per second and peak memory of each contender, ours first."""
    table = Table(
        title=f"training step, {result['arch']}, {result['image_size']}², batch {result['batch_size']}, "
        f"{result['precision']}, {result['threads']} threads, {result['rounds']} rounds"
    )
    for heading in ("contender", "images/s", "ours ÷ it", "90 % interval", "peak memory"):
        table.add_column(heading, justify="left" if heading == "contender" else "right")
    table.add_row(
        "shufflenet-fn", f"{result['ours_img_s']:.1f}", "", "", _mib(result["ours_peak_bytes"])
    )
    for name, rate in result["peers"].items():
        low, high = result["ratio_intervals"][name]
        table.add_row(
            name,
            f"{rate:.1f}",
            f"{result['ratios'][name]:.3f}",
            f"{low:.3f} to {high:.3f}",
            _mib(result["peer_peak_bytes"][name]),
        )
    console = Console()
    console.print(table)
    console.print(
        f"against the best peer ({result['best_peer']}): {result['ratio_best_peer']:.3f} times its speed, "
        f"{result['memory_ratio_best_peer']:.3f} times its peak memory"
    )


def _mib(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"

"""The result of ``input.py`` as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


def tables(result: dict[str, Any]) -> str:
    """Return all tables, after a line with the settings."""
    return "\n".join(_lines(result)) + "\n"


def _lines(result: dict[str, Any]) -> Iterator[str]:
    yield (
        f"`{result['command']}`: {result['images']} images to float32 batches of {result['batch_size']} × "
        f"{result['image_size']}², medians of {result['rounds']} rounds of {result['turn_seconds']:g} s, "
        "ratios with their 90 % intervals."
    )
    for speed in result["speeds"]:
        yield f"\nColour jitter {speed['color_jitter']}, {speed['threads']} threads:\n"
        yield from _table(
            ("candidate", "images/s", "CPU s per 1,000 images"),
            (
                (name, f"{found['images_s']:.0f}", f"{found['cpu_s_per_1000']:.2f}")
                for name, found in speed["contenders"].items()
            ),
        )
        for name, trial in speed["peer_workers"].items():
            tried = ", ".join(f"{count}: {rate:.0f}" for count, rate in trial.items())
            yield f"\n{name}, images/s by worker processes in the trial: {tried}."
        yield ""
        yield from _table(
            ("ours", "peer", "ratio", "interval", "bar", "met", "conclusive", "per CPU second"),
            (_bar(bar) for bar in speed["bars"]),
        )
    yield "\nOne thread to two:\n"
    yield from _table(
        ("candidate", "speed-up", "interval", "bar", "conclusive"),
        (
            (
                name,
                f"{found['ratio']:.2f}",
                _interval(found["interval"]),
                f"{found['least']:g}" if "least" in found else "",
                _yes(found["conclusive"]),
            )
            for name, found in result["scaling"]["speedups"].items()
        ),
    )
    yield "\nDevices that take 80 % of the loader's maximum:\n"
    yield from _table(
        ("devices", "maximum, images/s", "step, ms", "data wait, % of the step", "bar"),
        (
            (
                str(found["devices"]),
                f"{found['maximum_img_s']:.0f}",
                f"{found['step_ms']:.1f}",
                ", ".join(f"{100 * share:.2f}" for share in found["data_wait"]),
                "2",
            )
            for found in result["waits"]
        ),
    )


def _bar(bar: dict[str, Any]) -> tuple[str, ...]:
    aim = "" if bar["aim"] is None else f" (aim {bar['aim']:g})"
    return (
        bar["ours"],
        bar["peer"],
        f"{bar['ratio']:.2f}",
        _interval(bar["interval"]),
        f"{bar['least']:g}{aim}",
        _yes(bar["ratio"] >= bar["least"]),
        _yes(bar["conclusive"]),
        f"{bar['cpu_ratio']:.2f}",
    )


def _table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for row in (headings, ("---",) * len(headings), *rows):
        yield f"| {' | '.join(row)} |"


def _interval(bounds: tuple[float, float]) -> str:
    return f"{bounds[0]:.2f}–{bounds[1]:.2f}"


def _yes(value: bool) -> str:
    return "yes" if value else "no"

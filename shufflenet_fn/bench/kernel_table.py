"""What kinds of kernels a device spends its time on, out of the table that its profiler leaves.

``torch_npu.profiler`` writes ``kernel_details.csv`` with a row for each kernel, of which ``Type`` and
``Duration(us)`` are read (Ascend/pytorch, docs/en/developer_notes/ascend_pytorch_profiler_user_guide.md,
table "kernel_details"). ``torch.profiler`` writes a trace in JSON; of that, the events of the categories
``kernel``, ``gpu_memcpy`` and ``gpu_memset`` are a GPU's.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

SHARES: Final[Mapping[str, re.Pattern[str]]] = MappingProxyType(
    {
        "TransData": re.compile(r"TransData|.*(nchwToNhwc|nhwcToNchw)"),
        "Slice": re.compile(r"(Strided)?Slice(D|V\d)?$|AsStrided"),
        "Fill": re.compile(r"Fill(D|s|V\d)?$|.*FillFunctor|Memset"),
    }
)
"""Kernels that only rearrange or preset: the name of a share, and what the types begin with.

Slices and AsStrided make a non-contiguous argument contiguous. The second form is that of CUDA's kernels.
"""

_ON_GPU: Final = ("kernel", "gpu_memcpy", "gpu_memset")
_TOP: Final = 8
_LONGEST_NAME: Final = 80


class Kernel(NamedTuple):
    """One that ran: its type, or on a GPU its name, and microseconds."""

    type: str
    us: float


def kernel_table(folder: Path, steps: int) -> dict[str, Any] | None:
    """The kernels of a profile of ``steps`` steps; ``None`` if ``folder`` holds no table of any.

    ``launches`` and ``device_ms`` are of a step. ``shares`` are of that time, by name (``SHARES``). ``top``
    lists the types that take longest, each with its launches a step and its share.
    """
    found = list(_kernels(folder))
    if not found:
        return None
    times: dict[str, float] = {}
    launches: dict[str, int] = {}
    for kernel in found:
        times[kernel.type] = times.get(kernel.type, 0.0) + kernel.us
        launches[kernel.type] = launches.get(kernel.type, 0) + 1
    total = sum(times.values()) or 1.0
    longest = sorted(times, key=lambda name: times[name], reverse=True)[:_TOP]
    return {
        "launches": len(found) / steps,
        "device_ms": sum(times.values()) / steps / 1000,
        "shares": {
            share: sum(us for name, us in times.items() if pattern.match(name)) / total
            for share, pattern in SHARES.items()
        },
        "top": [
            {
                "type": name[:_LONGEST_NAME],
                "launches": launches[name] / steps,
                "share": times[name] / total,
            }
            for name in longest
        ],
    }


def _kernels(folder: Path) -> Iterator[Kernel]:
    for path in sorted(folder.rglob("kernel_details.csv")):
        with path.open(newline="", encoding="utf-8-sig") as file:
            yield from _of_rows(csv.DictReader(file))
    for path in sorted(folder.rglob("*.pt.trace.json")):
        events = json.loads(path.read_text(encoding="utf-8")).get("traceEvents", [])
        yield from (
            Kernel(str(event["name"]), float(event["dur"]))
            for event in events
            if event.get("cat") in _ON_GPU and "dur" in event
        )


def _of_rows(rows: Iterable[Mapping[str, str]]) -> Iterator[Kernel]:
    # Numbers may have a tab behind them, so that spreadsheets take them for text.
    for row in rows:
        try:
            yield Kernel(row["Type"].strip(), float(row["Duration(us)"].strip()))
        except ValueError:  # N/A, of what took no time on the device
            continue

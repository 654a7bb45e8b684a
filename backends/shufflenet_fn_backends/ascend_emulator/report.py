"""The counts that the processes of one run have left."""

from __future__ import annotations

from pathlib import Path

from shufflenet_fn_backends.ascend_emulator.counters import Counts, parse

PATTERN = "counts-{pid}.json"
PROVES = (
    "Counted on an emulator of CANN. It proves that the calls exist, take these types and shapes and "
    "compose, and how many kernels are launched; it does not prove speed, memory use, or the rounding of "
    "Ascend's own kernels."
)


def read_reports(folder: Path) -> list[Counts]:
    """Every process's counts, by rank and then by process number."""
    counts = [parse(path.read_text(encoding="utf-8")) for path in folder.glob("counts-*.json")]
    return sorted(counts, key=lambda one: (one.rank, one.pid))

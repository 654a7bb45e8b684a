"""The counts that the processes of a run have written."""

from __future__ import annotations

from pathlib import Path

from ascend_emulator.counters import Counts, parse

PATTERN = "counts-{pid}.json"
PROVES = (
    "Calls are counted on an emulator of CANN. That proves that they exist, take these types and shapes and "
    "compose; it does not prove speed, memory use, or the rounding of Ascend's own kernels. How many device "
    "kernels a call launches is a model from CANN's sources."
)


def read_reports(folder: Path) -> list[Counts]:
    """Return the counts of all processes, by rank and then by process number."""
    counts = [parse(path.read_text(encoding="utf-8")) for path in folder.glob("counts-*.json")]
    return sorted(counts, key=lambda one: (one.rank, one.pid))

"""Calls of CANN, modelled device kernels, bytes and host waits of a training step on Ascend.

    python -m benchmarks.launches [--json] [--batch-sizes 64,1024] [--image-size 224]

The peer has the structure of the original. Calls are counted on the emulator of CANN under the real
torch_npu; the script builds the emulator first (docs/ascend.md describes the environment). Device kernels and
their bytes are derived from the sources of CANN, not measured. The script counts fp32 on one card, and O2
with a loss scale on two, with every backend, for two small batches: kernels do not depend on the batch size,
and bytes are linear in it.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ascend_emulator.build import build
from ascend_emulator.kernel_model import DERIVED, FILL, SLICE, TRANSDATA
from ascend_emulator.report import PROVES
from benchmarks.launch_counts.ranks import count_case
from benchmarks.launch_counts.step_counts import StepCounts, at_batch_size
from benchmarks.launch_counts.worker import PEER, Case

SETUPS = (("fp32", 1), ("O2", 2))
COUNTED = (2, 4)
# For the documentation: purpose of the calls of a step, by name prefix.
GROUPS = {
    "convolutions": ("aclnnConvolution",),
    "batch norms": ("aclnnBatchNorm",),
    "ReLU": ("aclnnInplaceRelu", "aclnnThresholdBackward"),
    "pooling, classifier, loss": (
        *("aclnnMaxPool", "aclnnMean", "aclnnAddmm", "aclnnMm", "aclnnLogSoftmax", "aclnnNLLLoss"),
        *("aclnnInplaceOne", "aclnnInplaceFillScalar", "aclnnDivs", "aclnnReduceSum"),
    ),
    "split, shuffle and their backward; flat gradients": ("aclnnCat", "aclnnIndexSelect"),
    "two gradients of one tensor": ("aclnnInplaceAdd",),
    "counting batches": ("aclnnInplaceAdds",),
    "SGD": ("aclnnForeach",),
    "running statistics": ("aclnnInplaceCopy",),
    "accuracy": ("aclnnTopkV2", "aclnnEqTensor", "aclnnBitwiseAndTensor"),
}
BACKENDS = ("reference", "native", "gather", "npu")

Found = Mapping[str, tuple[StepCounts, StepCounts]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--batch-sizes", default="64,1024", help="images of a card (64,1024)")
    parser.add_argument("--image-size", type=int, default=224, help="side of the images (224)")
    parser.add_argument("--arch", default="x1_0")
    parser.add_argument("--backends", default=",".join(BACKENDS), help="with commas between")
    parser.add_argument("--markdown", action="store_true", help="every call of the fp32 step, for docs/")
    options = parser.parse_args()
    libraries = build(lambda text: print(text, file=sys.stderr))
    names = (PEER, *options.backends.split(","))
    batch_sizes = [int(size) for size in options.batch_sizes.split(",")]
    results: dict[str, Found] = {}
    for precision, cards in SETUPS:
        title = f"{precision} on {cards} cards" if cards > 1 else precision
        results[title] = {
            name: counted(libraries, name, precision, cards, options.image_size, options.arch)
            for name in names
        }
    if options.markdown:
        found = results["fp32"]
        print(markdown(found[PEER][0].operators, found["gather"][0].operators))
    elif options.json:
        print(json.dumps(as_json(results, batch_sizes)))
    else:
        console = Console()
        for title, found in results.items():
            console.print(_calls(title, found))
            for batch_size in batch_sizes:
                console.print(_kernels(title, found, batch_size))
        console.print(f"Device kernels and bytes moved: {DERIVED}. {PROVES}")


def counted(
    libraries: Path, name: str, precision: str, cards: int, image_size: int, arch: str
) -> tuple[StepCounts, StepCounts]:
    """Return the counts of a step for both per-card batch sizes in ``COUNTED``."""
    print(f"counting {name}, {precision}, {cards} cards", file=sys.stderr)
    cases = [Case(name, precision, size, image_size, arch) for size in COUNTED]
    small, large = (StepCounts(**count_case(libraries, case, cards)) for case in cases)
    return small, large


def as_json(results: Mapping[str, Found], batch_sizes: list[int]) -> dict[str, object]:
    """Return everything by setting, name and batch size."""
    return {
        title: {
            name: {size: at_batch_size(*pair, COUNTED, size)._asdict() for size in batch_sizes}
            for name, pair in found.items()
        }
        for title, found in results.items()
    }


def markdown(peer: Mapping[str, int], ours: Mapping[str, int]) -> str:
    """Return a table of all calls by group. The longest matching prefix decides the group."""
    prefixes = {prefix: group for group, names in GROUPS.items() for prefix in names}
    groups: dict[str, list[str]] = {group: [] for group in (*GROUPS, "other")}
    for name in sorted({*peer, *ours}):
        fitting = [prefix for prefix in prefixes if name.startswith(prefix)]
        groups[prefixes[max(fitting, key=len)] if fitting else "other"].append(name)
    lines = ["| call | original's shape | ours |", "| --- | --- | --- |"]
    for group, names in groups.items():
        sums = [sum(counts.get(name, 0) for name in names) for counts in (peer, ours)]
        if names:
            lines.append(f"| **{group}** | **{sums[0]}** | **{sums[1]}** |")
        lines += [f"| `{name}` | {peer.get(name, 0)} | {ours.get(name, 0)} |" for name in names]
    total = [sum(counts.values()) for counts in (peer, ours)]
    return "\n".join([*lines, f"| **all** | **{total[0]}** | **{total[1]}** |"])


def _calls(title: str, found: Found) -> Table:
    table = _table(f"{title}: calls, counted", "", "calls", "÷ peer", "host waits")
    peer = found[PEER][0]
    for name, (counts, _) in found.items():
        ratio = f"{counts.calls / peer.calls:.3f}"
        table.add_row(name, str(counts.calls), ratio, str(counts.host_syncs))
    return table


def _kernels(title: str, found: Found, batch_size: int) -> Table:
    table = _table(
        f"{title}, {batch_size} images a card: device kernels, {DERIVED}",
        *("", "kernels", "from", "to", "÷ peer", TRANSDATA, SLICE, FILL, "MB moved", "÷ peer"),
    )
    peer = at_batch_size(*found[PEER], COUNTED, batch_size)
    for name, pair in found.items():
        counts = at_batch_size(*pair, COUNTED, batch_size)
        table.add_row(
            *(name, str(counts.kernels), str(counts.low), str(counts.high)),
            f"{counts.kernels / peer.kernels:.3f}",
            *(f"{counts.kinds.get(kind, 0) / counts.kernels:.1%}" for kind in (TRANSDATA, SLICE, FILL)),
            f"{counts.moved / 1e6:.1f}",
            f"{counts.moved / peer.moved:.3f}",
        )
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if column else "left")
    return table


if __name__ == "__main__":
    main()

"""Launches, bytes copied and host waits of a training step on Ascend, beside the shape of the original.

    python benchmarks/launches.py [--json] [--batch-size 64] [--image-size 224]

Counted on the emulator of CANN under the real torch_npu, which it builds first; needs the environment for it
(docs/ascend.md). fp32 on one card, and O2 with a loss scale on two cards, with every backend.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from shufflenet_fn.bench.launches_ranks import count_case
from shufflenet_fn.bench.launches_worker import PEER, Case
from shufflenet_fn_backends.ascend_emulator.build import build
from shufflenet_fn_backends.ascend_emulator.report import PROVES

SETUPS = (("fp32", 1), ("O2", 2))
# For the page: what the kernels of a step are for, by the beginning of their names.
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
    "running statistics": ("aclnnLerps", "aclnnPowTensorScalar", "aclnnSubs", "aclnnMul"),
    "accuracy": ("aclnnTopkV2", "aclnnEqTensor", "aclnnBitwiseAndTensor"),
}
BACKENDS = ("reference", "native", "gather", "npu", "routed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object instead of tables"
    )
    parser.add_argument("--batch-size", type=int, default=64, help="images of a card (64)")
    parser.add_argument("--image-size", type=int, default=224, help="side of the images (224)")
    parser.add_argument("--arch", default="x1_0")
    parser.add_argument("--backends", default=",".join(BACKENDS), help="with commas between")
    parser.add_argument(
        "--markdown", action="store_true", help="every kernel of the fp32 step, for docs/"
    )
    options = parser.parse_args()
    libraries = build(lambda text: print(text, file=sys.stderr))
    results: dict[str, Any] = {"batch_size": options.batch_size, "image_size": options.image_size}
    for precision, cards in SETUPS:
        found = {}
        for name in (PEER, *options.backends.split(",")):
            case = Case(name, precision, options.batch_size, options.image_size, options.arch)
            print(f"counting {name}, {precision}, {cards} cards", file=sys.stderr)
            found[name] = count_case(libraries, case, cards)
        results[f"{precision} on {cards} cards" if cards > 1 else precision] = found
    if options.markdown:
        print(markdown(results["fp32"][PEER]["kernels"], results["fp32"]["npu"]["kernels"]))
        return
    if options.json:
        print(json.dumps(results))
        return
    console = Console()
    for title, found in results.items():
        if isinstance(found, dict):
            console.print(_table(title, found))
    console.print(PROVES)


def markdown(peer: dict[str, int], ours: dict[str, int]) -> str:
    """Every kernel by group, the longest matching name deciding."""
    prefixes = {prefix: group for group, names in GROUPS.items() for prefix in names}
    groups: dict[str, list[str]] = {group: [] for group in (*GROUPS, "other")}
    for name in sorted({*peer, *ours}):
        fitting = [prefix for prefix in prefixes if name.startswith(prefix)]
        groups[prefixes[max(fitting, key=len)] if fitting else "other"].append(name)
    lines = ["| kernel | original's shape | ours |", "| --- | --- | --- |"]
    for group, names in groups.items():
        sums = [sum(counts.get(name, 0) for name in names) for counts in (peer, ours)]
        if names:
            lines.append(f"| **{group}** | **{sums[0]}** | **{sums[1]}** |")
        lines += [f"| `{name}` | {peer.get(name, 0)} | {ours.get(name, 0)} |" for name in names]
    total = [sum(counts.values()) for counts in (peer, ours)]
    return "\n".join([*lines, f"| **all** | **{total[0]}** | **{total[1]}** |"])


def _table(title: str, found: dict[str, Any]) -> Table:
    table = Table(title=title)
    for column in ("", "launches", "÷ peer", "MB copied", "÷ peer", "host waits"):
        table.add_column(column, justify="right" if column else "left")
    peer = found[PEER]
    for name, counts in found.items():
        table.add_row(
            name,
            str(counts["launches"]),
            f"{counts['launches'] / peer['launches']:.3f}",
            f"{counts['copied'] / 1e6:.1f}",
            f"{counts['copied'] / peer['copied']:.3f}",
            str(counts["host_syncs"]),
        )
    return table


if __name__ == "__main__":
    main()

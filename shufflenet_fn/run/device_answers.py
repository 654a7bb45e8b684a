"""``python -m shufflenet_fn.run.device_answers npu 3``: compute something there, or end with an error."""

from __future__ import annotations

import sys

import torch

from shufflenet_fn_backends.runtimes.select import runtime_of


def main(kind: str, number: int) -> None:
    runtime = runtime_of(kind)
    runtime.prepare()
    runtime.set_device(number)
    total = torch.ones(64, 64, device=runtime.device(number)).sum()
    runtime.synchronize()
    if float(total) != 64 * 64:
        raise SystemExit(f"{kind} {number} computes nonsense")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

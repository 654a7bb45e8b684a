"""Training step with frozen parts compared with the full step, by CPU time, in turns in one process.

    python -m benchmarks.frozen_step --rounds 20

Prints one JSON object: the median times in milliseconds, and their ratio with a 90 % bootstrap interval.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from shufflenet_fn import Examples, create_train_state, get_config, init, make_train_step, sgd
from shufflenet_fn.bench.rounds import ratio
from shufflenet_fn.model.channel_order import in_order_of
from shufflenet_fn.model.config import frozen_parts
from shufflenet_fn.training.gradients import grads_by_engine
from shufflenet_fn.training.schedules import constant
from shufflenet_fn.training.step import no_flags
from shufflenet_fn_backends.registry import select_backend


def step_of(arguments: argparse.Namespace, frozen: tuple[str, ...]) -> Callable[[], None]:
    """Build a step on random images."""
    config = get_config(arguments.arch)
    backend = select_backend(arguments.backend, "cpu", compiled=False).backend
    optimizer = sgd(constant(0.01), momentum=0.9, weight_decay=1e-4)
    variables = init(config, torch.Generator().manual_seed(0))
    state, computing = in_order_of(config, create_train_state(variables, optimizer, frozen=frozen), backend)
    step = make_train_step(config, optimizer, backend=computing, gradients=grads_by_engine, frozen=frozen)
    images = torch.randn(arguments.batch_size, 3, arguments.image_size, arguments.image_size)
    batch = Examples(images.contiguous(memory_format=torch.channels_last), torch.arange(arguments.batch_size))

    def take() -> None:
        nonlocal state
        state, _, _ = step(state, batch, no_flags())

    return take


def cpu_ms(step: Callable[[], None]) -> float:
    start = time.process_time()
    step()
    return 1000 * (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="x1_0")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--freeze", default="stem,stage2,stage3")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    full, part = (step_of(arguments, frozen) for frozen in ((), frozen_parts(arguments.freeze)))
    cpu_ms(full), cpu_ms(part)  # warm up
    pairs = [(cpu_ms(part), cpu_ms(full)) for _ in range(arguments.rounds)]
    ours, theirs = ([pair[i] for pair in pairs] for i in (0, 1))
    found = ratio(ours, theirs)
    print(
        json.dumps(
            {
                **vars(arguments),
                "frozen_ms": statistics.median(ours),
                "full_ms": statistics.median(theirs),
                **found._asdict(),
            }
        )
    )


if __name__ == "__main__":
    main()

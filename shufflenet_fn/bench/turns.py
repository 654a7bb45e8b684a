"""Contenders in processes of their own that take turns."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from shufflenet_fn_backends.errors import UserError


class Turns(NamedTuple):
    """``seconds[round][contender]`` of one turn, and each contender's peak resident set in bytes."""

    seconds: list[list[float]]
    peak_bytes: list[int]


Build = Callable[[str, Any], Callable[[], None]]


def take_turns(
    names: list[str],
    build: Build,
    settings: Any,
    *,
    threads: int,
    rounds: int,
    steps: int,
    progress: Callable[[str], None],
) -> Turns:
    """Run ``steps`` steps of each contender in turn, ``rounds`` times, one at a time.

    Every contender lives in its own process, so that none profits from another's warm allocator, and its
    peak memory is its own. The order turns around every round. The first turn is a warm-up.

    Raises:
        UserError: a contender failed.
    """
    with contextlib.ExitStack() as stack:
        workers = [
            stack.enter_context(_worker(name, build, settings, threads, steps)) for name in names
        ]
        for worker in workers:
            _turn(worker)
        seconds = []
        for number in range(rounds):
            row = [0.0] * len(names)
            order = range(len(names)) if number % 2 == 0 else range(len(names) - 1, -1, -1)
            for index in order:
                row[index] = _turn(workers[index])
            seconds.append(row)
            progress(
                f"round {number + 1}/{rounds}: "
                + ", ".join(f"{name} {s:.3f} s" for name, s in zip(names, row, strict=True))
            )
        return Turns(seconds, [_ask(worker, "peak") for worker in workers])


@contextlib.contextmanager
def _worker(
    name: str, build: Build, settings: Any, threads: int, steps: int
) -> Iterator[Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_serve, args=(theirs, name, build, settings, threads, steps), daemon=True
    )
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()
        process.join(timeout=30)
        if process.is_alive():
            process.kill()


def _serve(
    pipe: Connection, name: str, build: Build, settings: Any, threads: int, steps: int
) -> None:
    import torch

    from shufflenet_fn_backends.runtimes import cpu

    torch.set_num_threads(threads)
    try:
        step = build(name, settings)
    except Exception as error:
        pipe.send(UserError(f"{name}: {error}"))
        return
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            question = pipe.recv()
            if question == "peak":
                pipe.send(cpu.runtime().memory_peak())
                continue
            start = time.perf_counter()
            for _ in range(steps):
                step()
            pipe.send(time.perf_counter() - start)


def _turn(worker: Connection) -> float:
    return float(_ask(worker, "turn"))


def _ask(worker: Connection, question: str) -> Any:
    try:
        worker.send(question)
        answer = worker.recv()
    except (EOFError, OSError) as error:
        raise UserError("a contender of the benchmark died; see above for its output.") from error
    if isinstance(answer, UserError):
        raise answer
    return answer

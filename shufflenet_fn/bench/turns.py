"""Contenders in processes of their own that take turns."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from shufflenet_fn_backends.errors import UserError

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
) -> list[list[float]]:
    """Run ``steps`` steps of each contender in turn, ``rounds`` times, one at a time.

    Every contender lives in its own process, so that none profits from another's warm allocator. The
    order turns around every round. The first turn is a warm-up.

    Returns:
        Seconds of a turn, by round and contender.

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
        return seconds


def peak_memory(
    names: list[str], build: Build, settings: Any, *, threads: int, steps: int = 2
) -> list[int]:
    """Peak resident set in bytes of each contender, over ``steps`` steps in a fresh process.

    The C library gets blocks of 1 MiB and more from the kernel one by one and gives them back at once
    here (``MALLOC_MMAP_THRESHOLD_``, glibc). With its default the peak is that of a heap whose holes
    depend on which libraries happen to be imported: 160 MB more or less for the same step.
    """
    peaks = []
    for name in names:
        with (
            _environment("MALLOC_MMAP_THRESHOLD_", str(2**20)),
            _worker(name, build, settings, threads, steps) as worker,
        ):
            _turn(worker)
            peaks.append(int(_ask(worker, "peak")))
    return peaks


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


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

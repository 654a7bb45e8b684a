"""Candidates in processes of their own, which stay alive and do what they are asked, one at a time."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from shufflenet_fn.bench.memory import Memory
from shufflenet_fn_backends.support.errors import UserError

Step = Callable[[], object]
Build = Callable[[str, str, Any], Step]
"""From a candidate's name, a case and the settings to what is measured; a function of a module (pickled)."""
Finish = Callable[[Any], None]
"""From the settings: wait until the device has done what the steps of a turn queued (pickled)."""


def at_once(settings: Any) -> None:
    """For steps that are done when they return."""


class Worker:
    """A candidate that is ready to be asked."""

    def __init__(self, name: str, pipe: Connection) -> None:
        self.name = name
        self._pipe = pipe

    def turn(self, case: str, steps: int) -> float:
        """Take ``steps`` steps of ``case`` and return the seconds that they took together.

        Raises:
            UserError: the candidate failed, or its process is gone.
        """
        return float(self._ask("turn", case, steps))

    def value(self, case: str) -> Any:
        """What one step of ``case`` returns; picklable. Raises as ``turn``."""
        return self._ask("value", case, 1)

    def memory(self, case: str, steps: int) -> Memory:
        """The memory that ``steps`` steps of ``case`` take. Raises as ``turn``."""
        return Memory(*self._ask("memory", case, steps))

    def _ask(self, question: str, case: str, steps: int) -> Any:
        try:
            self._pipe.send((question, case, steps))
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise UserError(f"{self.name}: its process died; see above for its output.") from error
        if isinstance(answer, UserError):
            raise answer
        return answer


@contextlib.contextmanager
def workers(
    names: Sequence[str],
    build: Build,
    settings: Any,
    *,
    threads: int,
    environment: Mapping[str, str],
    parents: bool = False,
    finish: Finish = at_once,
) -> Iterator[list[Worker]]:
    """One process for each name, with ``threads`` compute threads and ``environment`` on top of ours.

    A process of its own for each, so that none profits from memory that another left warm. ``parents``:
    they may start processes themselves. A turn's time ends when ``finish`` returns.
    """
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                _worker(name, (build, finish), settings, threads, environment, parents)
            )
            for name in names
        ]


@contextlib.contextmanager
def _worker(
    name: str,
    functions: tuple[Build, Finish],
    settings: Any,
    threads: int,
    environment: Mapping[str, str],
    parents: bool,
) -> Iterator[Worker]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(
        target=_serve, args=(theirs, name, functions, settings, threads), daemon=not parents
    )
    with _environment(environment):
        process.start()
    theirs.close()
    try:
        yield Worker(name, ours)
    finally:
        ours.close()
        process.join(timeout=30)
        if process.is_alive():
            process.kill()


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(
    pipe: Connection, name: str, functions: tuple[Build, Finish], settings: Any, threads: int
) -> None:
    import torch

    # Exporters and compilers talk on standard output, where the caller's JSON goes.
    os.dup2(2, 1)
    torch.set_num_threads(threads)
    build, finish = functions
    built: dict[str, Step] = {}

    def step_of(case: str) -> Step:
        if case not in built:
            built[case] = build(name, case, settings)
        return built[case]

    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            question, case, steps = pipe.recv()
            answer: Any
            try:
                answer = _answer(question, step_of(case), steps, lambda: finish(settings))
            except Exception as error:
                # Others may need the memory that it holds.
                built.pop(case, None)
                answer = _told(name, error)
            pipe.send(answer)


def _answer(question: str, step: Step, steps: int, finish: Callable[[], None]) -> Any:
    from shufflenet_fn.bench.memory import measure_memory

    if question == "memory":
        return tuple(measure_memory(step, steps=steps))
    if question == "value":
        return step()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    finish()
    return time.perf_counter() - start


def _told(name: str, error: Exception) -> UserError:
    """The error as the user sees it; a user's own mistake in its own words and with its exit code."""
    if isinstance(error, UserError):
        return error
    words = str(error).strip().splitlines() or [""]
    return UserError(f"{name}: {type(error).__name__}: {words[0]}")

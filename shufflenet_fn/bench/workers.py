"""Candidates in separate processes, which stay alive and serve one request at a time."""

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
"""Takes a candidate's name, a case and the settings. Returns the step to measure. It must be a function of a
module, because it is pickled."""
Finish = Callable[[Any], None]
"""Takes the settings. Waits until the device has finished the steps of a turn. It is pickled."""


def at_once(settings: Any) -> None:
    """Return at once: ``Finish`` for steps that are complete when they return."""


class Worker:
    """A candidate in its process."""

    def __init__(self, name: str, pipe: Connection) -> None:
        self.name = name
        self._pipe = pipe

    def turn(self, case: str, steps: int) -> float:
        """Take ``steps`` steps of ``case`` and return their total time in seconds.

        Raises:
            UserError: the candidate failed, or its process ended.
        """
        return float(self._ask("turn", case, steps))

    def value(self, case: str) -> Any:
        """Take one step of ``case`` and return its result, which must be picklable. Raises as ``turn``."""
        return self._ask("value", case, 1)

    def memory(self, case: str, steps: int) -> Memory:
        """Measure the memory of ``steps`` steps of ``case``. Raises as ``turn``."""
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
    """Start a process for each name, with ``threads`` compute threads and ``environment`` added to ours.

    Separate processes keep a candidate from using memory that another one has warmed up. ``parents``: whether
    they may start processes. The time of a turn ends when ``finish`` returns.
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

    # Exporters and compilers print to standard output, which is reserved for the caller's JSON.
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
                # Free its memory for other candidates.
                built.pop(case, None)
                answer = _user_error(name, error)
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


def _user_error(name: str, error: Exception) -> UserError:
    """Return the error for the user. A ``UserError`` keeps its message and exit code."""
    if isinstance(error, UserError):
        return error
    words = str(error).strip().splitlines() or [""]
    return UserError(f"{name}: {type(error).__name__}: {words[0]}")

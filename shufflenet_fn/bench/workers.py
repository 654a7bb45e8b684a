"""Candidates in separate processes, which stay alive and serve one request at a time.

Memory of a step is the resident set of its process. By default, glibc keeps freed memory, so the resident set
is larger than the memory in use. With the settings ``LIVE`` it follows the memory in use: glibc maps each
block of 64 KiB or more separately and returns it to the kernel when it is freed.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from shufflenet_fn_backends.support.errors import UserError

Step = Callable[[], object]
Build = Callable[[str, str, Any], Step]
"""Takes a candidate's name, a case and the settings. Returns the step to measure. It must be a function of a
module, because it is pickled."""
Finish = Callable[[Any], None]
"""Takes the settings. Waits until the device has finished the steps of a turn. It is pickled."""


def at_once(settings: Any) -> None:
    """Return at once: ``Finish`` for steps that are complete when they return."""


ALLOCATORS: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {
        "default": MappingProxyType({}),
        # No block is mapped and the heap is never trimmed, so freed memory is available for the next step.
        "keep": MappingProxyType({"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}),
    }
)
"""Environments of the candidates' processes, by the name of ``--allocator`` (glibc)."""

LIVE: Final[Mapping[str, str]] = MappingProxyType(
    {"MALLOC_MMAP_THRESHOLD_": str(2**16), "MALLOC_TRIM_THRESHOLD_": str(2**16), "MALLOC_TOP_PAD_": "0"}
)
"""The environment of a process whose memory is measured."""

METHOD: Final = (
    "resident set: its peak during a step (VmHWM, reset through /proc/self/clear_refs) minus its size "
    "between two steps; blocks of 64 KiB and more go back to the kernel when freed"
)
NO_METHOD: Final = (
    "not measured: this system cannot reset a process's peak resident set (/proc/self/clear_refs)"
)


class Memory(NamedTuple):
    """Memory of a step in bytes.

    ``peak``: largest resident set during the step, or since the start of the process on systems that cannot
    reset it. ``activation``: ``peak`` minus the resident set before the step; ``None`` on such systems.
    """

    peak: int
    activation: int | None


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
    environment: Mapping[str, str] = MappingProxyType({}),
    parents: bool = False,
    finish: Finish = at_once,
) -> Iterator[list[Worker]]:
    """Start a process for each name, with ``threads`` compute threads and ``environment`` added to ours.

    With separate processes, a candidate cannot reuse memory that another one has warmed up. ``parents``:
    whether they may start processes. The time of a turn ends when ``finish`` returns.
    """
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(_worker(name, (build, finish), settings, threads, environment, parents))
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


def _serve(pipe: Connection, name: str, functions: tuple[Build, Finish], settings: Any, threads: int) -> None:
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


def measure_memory(step: Callable[[], object], *, steps: int) -> Memory:
    """Measure the memory of ``steps`` steps in this process. Take at least one step before."""
    gc.collect()
    rest = _status("VmRSS")
    can_reset = _reset_peak()
    for _ in range(steps):
        step()
    peak = _status("VmHWM")
    if peak is None or rest is None or not can_reset:
        return Memory(peak or _peak_since_start(), None)
    return Memory(peak, peak - rest)


def _reset_peak() -> bool:
    # proc(5): writing 5 resets the peak resident set to the current one. It fails if /proc is read-only.
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


def _peak_since_start() -> int:
    # ru_maxrss is in kilobytes on Linux and in bytes on macOS (getrusage(2)).
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

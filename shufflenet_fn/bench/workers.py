"""Candidates in separate processes, which stay alive and answer one question at a time.

With separate processes, a candidate cannot reuse memory that another one has warmed up. Memory of a step is
the resident set of its process. By default, glibc keeps freed memory, so the resident set is larger than the
memory in use. With the environment ``LIVE`` it follows the memory in use: glibc maps each block of 64 KiB or
more separately and returns it to the kernel when it is freed.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from shufflenet_fn_backends.runtimes.base import Runtime
from shufflenet_fn_backends.runtimes.select import runtime_of
from shufflenet_fn_backends.support.errors import UserError

T = TypeVar("T")
Step = Callable[[], Any]
Build = Callable[[str, str, Any], Step]
"""Takes a candidate's name, a case and the settings. Returns the step to measure. It must be a function of a
module, because it is pickled."""

ALLOCATORS: Final[Mapping[str, Mapping[str, str]]] = {
    "default": {},
    # No block is mapped and the heap is never trimmed, so freed memory is available for the next step.
    "keep": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)},
}
"""Environments of the candidates' processes, by the name of ``--allocator`` (glibc)."""

LIVE: Final[Mapping[str, str]] = {
    "MALLOC_MMAP_THRESHOLD_": str(2**16),
    "MALLOC_TRIM_THRESHOLD_": str(2**16),
    "MALLOC_TOP_PAD_": "0",
}
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

    def ask(self, question: Callable[..., T], case: str, *arguments: Any) -> T:
        """Return ``question(step, *arguments)`` for the step of ``case``, computed in the process.

        Raises:
            UserError: the candidate failed, or its process ended.
        """
        try:
            self._pipe.send((question, case, arguments))
            answer: T | UserError = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise UserError(f"{self.name}: its process died; see above for its output.") from error
        if isinstance(answer, UserError):
            raise answer
        return answer

    def value(self, case: str) -> Any:
        """Take one step of ``case`` and return its result. Raises as ``ask``."""
        return self.ask(_call, case)


class Candidate:
    """A candidate as its process holds it. It builds each case once."""

    def __init__(self, name: str, build: Build, settings: Any) -> None:
        self.name, self._build, self._settings = name, build, settings
        self._built: dict[str, Step] = {}

    def answer(self, question: Callable[..., Any], case: str, arguments: tuple[Any, ...]) -> Any:
        """Return what ``Worker.ask`` returns, or the ``UserError`` that it raises."""
        try:
            if case not in self._built:
                self._built[case] = self._build(self.name, case, self._settings)
            return question(self._built[case], *arguments)
        except Exception as error:
            self._built.pop(case, None)  # frees its memory for other candidates
            if isinstance(error, UserError):
                return error
            words = str(error).strip().splitlines() or [""]
            return UserError(f"{self.name}: {type(error).__name__}: {words[0]}")


@contextlib.contextmanager
def workers(
    names: Sequence[str],
    build: Build,
    settings: Any,
    *,
    threads: int,
    environment: Mapping[str, str] | None = None,
) -> Iterator[list[Worker]]:
    """Start a process for each name, with ``threads`` compute threads and ``environment`` added to ours."""
    candidates = [Candidate(name, build, settings) for name in names]
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(_worker(one, threads, environment or {})) for one in candidates]


@contextlib.contextmanager
def _worker(candidate: Candidate, threads: int, environment: Mapping[str, str]) -> Iterator[Worker]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    # Not a daemon, because data loaders and profilers start processes. It ends with the pipe.
    process = context.Process(target=_serve, args=(theirs, candidate, threads))
    before = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        process.start()
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    theirs.close()
    try:
        yield Worker(candidate.name, ours)
    finally:
        ours.close()
        process.join(timeout=30)
        if process.is_alive():
            process.kill()


def _serve(pipe: Connection, candidate: Candidate, threads: int) -> None:
    import torch

    # Exporters and compilers print to standard output, which is reserved for the caller's JSON.
    os.dup2(2, 1)
    torch.set_num_threads(threads)
    with contextlib.suppress(EOFError, KeyboardInterrupt):
        while True:
            pipe.send(candidate.answer(*pipe.recv()))


def _call(step: Step) -> Any:
    return step()


def prepared(device: str) -> Runtime:
    """Prepare this process for the first device of a kind."""
    runtime = runtime_of(device)
    runtime.prepare()
    runtime.set_device(0)
    if not runtime.shares:  # on a CPU, the benchmark has a setting for the allocator
        runtime.tune()
    return runtime


def timed(step: Step, steps: int, device: str) -> float:
    """Take ``steps`` steps, then wait once for the device. Return the seconds."""
    synchronize = runtime_of(device).synchronize
    start = time.perf_counter()
    for _ in range(steps):
        step()
    synchronize()
    return time.perf_counter() - start


def measure_memory(step: Step, steps: int) -> Memory:
    """Measure the memory of ``steps`` steps in this process. Take at least one step before."""
    gc.collect()
    rest, can_reset = _status("VmRSS"), _reset_peak()
    for _ in range(steps):
        step()
    peak = _status("VmHWM")
    if rest is None or peak is None:
        return Memory(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, None)
    return Memory(peak, peak - rest if can_reset else None)


def _reset_peak() -> bool:
    # proc(5): writing 5 resets the peak resident set to the current one. It fails if /proc is read-only.
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _status(field: str) -> int | None:
    # Some sandboxes have no /proc, or one with fewer fields.
    with contextlib.suppress(OSError, KeyError):
        lines = Path("/proc/self/status").read_text().splitlines()
        fields = dict(line.split(":", 1) for line in lines)
        return int(fields[field].split()[0]) * 1024
    return None

"""A thread that writes checkpoints one after the other while training goes on."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

Task = Callable[[], None]


class Writer:
    """Does tasks in the order given, in a thread of its own.

    How many may wait is bounded by who submits (``Snapshots`` has two places). After a task has failed no
    other is done: its error is raised by each ``check``, ``submit`` and ``drain`` from then on, so it is
    never lost.

    Args:
        begin: done first in the thread, such as choosing its device.
    """

    def __init__(self, begin: Task = lambda: None) -> None:
        self._begin = begin
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._error: BaseException | None = None
        # A daemon: a second signal ends the process at once, whatever is being written. That is safe.
        self._thread = threading.Thread(target=self._work, name="checkpoint-writer", daemon=True)
        self._thread.start()

    def submit(self, task: Task) -> None:
        """Have ``task`` done when those before it are. Raises what an earlier one raised."""
        self.check()
        self._tasks.put(lambda: None if self._error else task())

    @property
    def error(self) -> BaseException | None:
        """That of a task that failed."""
        return self._error

    def check(self) -> None:
        """Raise the error of a task that failed."""
        if self._error is not None:
            raise self._error

    def drain(self) -> None:
        """Wait until every task is done. Raises what one of them raised."""
        done = threading.Event()
        self._tasks.put(done.set)
        done.wait()
        self.check()

    def close(self, timeout_s: float | None = None) -> bool:
        """End the thread once what was submitted is done; False if it is not by then. Raises nothing."""
        self._tasks.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _work(self) -> None:
        try:
            self._begin()
        except BaseException as error:  # told by the next check
            self._error = error
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except BaseException as error:
                self._error = self._error or error

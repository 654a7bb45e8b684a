"""Candidates that compute in this process, for tests of what is made of their figures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from shufflenet_fn.bench import workers
from shufflenet_fn.bench.workers import Memory, Step, Worker


class _Here(Worker):
    """A candidate in this process, whose memory is not measured."""

    def __init__(self, name: str, build: Any, finish: Any, settings: Any) -> None:
        self.name = name
        self._build, self._finish, self._settings = build, finish, settings
        self._built: dict[str, Step] = {}

    def _ask(self, question: str, case: str, steps: int) -> Any:
        if question == "memory":
            return Memory(10**8, 10**6 * len(self.name))
        try:
            if case not in self._built:
                self._built[case] = self._build(self.name, case, self._settings)
            return workers._answer(question, self._built[case], steps, lambda: self._finish(self._settings))
        except Exception as error:
            raise workers._user_error(self.name, error) from error


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let candidates compute in this process instead of one each, which ``test_rounds.py`` has."""

    @contextlib.contextmanager
    def worker(name: str, functions: Any, settings: Any, *rest: object) -> Iterator[Worker]:
        yield _Here(name, *functions, settings)

    monkeypatch.setattr(workers, "_worker", worker)

"""Candidates that compute in this process, for tests of what is made of their figures."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from shufflenet_fn.bench import workers
from shufflenet_fn.bench.workers import Candidate, Memory, Worker, measure_memory
from shufflenet_fn_backends.support.errors import UserError


class _Here(Worker):
    """A candidate in this process, whose memory is not measured."""

    def __init__(self, candidate: Candidate) -> None:
        self.name, self._candidate = candidate.name, candidate

    def ask(self, question: Any, case: str, *arguments: Any) -> Any:
        if question is measure_memory:
            return Memory(10**8, 10**6 * len(self.name))
        answer = self._candidate.answer(question, case, arguments)
        if isinstance(answer, UserError):
            raise answer
        return answer


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let candidates compute in this process instead of one each, which ``test_rounds.py`` has."""

    @contextlib.contextmanager
    def worker(candidate: Candidate, *rest: object) -> Iterator[Worker]:
        yield _Here(candidate)

    monkeypatch.setattr(workers, "_worker", worker)

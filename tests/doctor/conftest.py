"""Modules that run in this process, for tests of what is made of their output."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from collections.abc import Sequence

import pytest

from shufflenet_fn.doctor import bundle, examine
from shufflenet_fn_backends.support.subprocesses import Outcome


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let stages and measurements run in this process, which ``test_the_doctor_here`` has in children."""

    def run(module: str, arguments: Sequence[str] = (), **how: object) -> Outcome:
        out, err, code = io.StringIO(), io.StringIO(), 0
        with monkeypatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setattr(sys, "argv", [module, *arguments])
            try:
                importlib.import_module(module).main()
            except SystemExit as end:
                code = int(end.code or 0)
        return Outcome(code, out.getvalue(), err.getvalue())

    for user in (examine, bundle):
        monkeypatch.setattr(user, "run_module", run)

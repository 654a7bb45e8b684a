"""Everything CI runs: ``nox``. Both sessions use the environment that nox itself is in."""

from __future__ import annotations

import sys
from pathlib import Path

import nox

nox.options.sessions = ["checks", "tests"]

BIN = Path(sys.executable).parent


@nox.session(venv_backend="none")
def checks(session: nox.Session) -> None:
    """Style, types and the direction of imports."""
    python = sys.executable
    session.run(python, "-m", "ruff", "check", ".", external=True)
    session.run(python, "-m", "ruff", "format", "--check", ".", external=True)
    session.run(python, "-m", "mypy", external=True)
    session.run(str(BIN / "lint-imports"), external=True)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """The test suite, slow tests included. Arguments after ``--`` go to pytest."""
    # One compute thread a process, and none that spins while it waits: tests run in parallel here, and
    # some start processes of their own.
    env = {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
    arguments = session.posargs or ["-n", "auto", "--dist", "worksteal"]
    session.run(sys.executable, "-m", "pytest", *arguments, env=env, external=True)

"""Everything CI runs: ``nox``.

``checks`` and ``tests`` use the environment that nox itself is in; ``npu`` makes one of its own, because
torch_npu wants its own version of torch and aborts beside a CUDA build of it.
"""

from __future__ import annotations

import json
import platform
import shutil
import sys
from pathlib import Path

import nox

nox.options.sessions = ["checks", "tests", "drills", "npu"]
nox.options.reuse_venv = "yes"

BIN = Path(sys.executable).parent
TORCH_NPU = "2.13.0"
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
# Hundreds of processes are started; none should have to compile the package's Python anew.
KEPT = {"PYTHONDONTWRITEBYTECODE": None}
# One compute thread a process, and none that spins while it waits: tests run in parallel, and some start
# processes of their own.
PROCESSES = {**KEPT, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}


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
    arguments = session.posargs or ["-n", "auto", "--dist", "worksteal"]
    session.run(sys.executable, "-m", "pytest", *arguments, env=PROCESSES, external=True)


@nox.session(venv_backend="none")
def drills(session: nox.Session) -> None:
    """Ten kills of runs of one and two ranks, and one of two machines cut off in every way there is.

    Arguments after ``--`` go to the drill of kills, which is the only one then.
    """
    arguments = session.posargs or ["--kills", "10", "--epochs", "10"]
    session.run(sys.executable, "-m", "drills.kill_drill", *arguments, env=KEPT, external=True)
    if not session.posargs:
        cuts = ["-m", "drills.node_drill", "--cuts", "5", "--epochs", "10"]
        # 2: two machines cannot be made of this one.
        session.run(sys.executable, *cuts, env=KEPT, external=True, success_codes=[0, 2])


@nox.session(venv_backend="venv")
def npu(session: nox.Session) -> None:
    """The real torch_npu on the emulator of CANN. Arguments after ``--`` go to pytest."""
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        session.skip("torch_npu exists for Linux on x86-64 and aarch64 only")
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        session.skip(
            "the emulator of CANN is compiled: install g++ (Debian, Ubuntu: apt install g++)"
        )
    session.install(f"torch=={TORCH_NPU}", *_cpu_build(session))
    session.install(
        *(f"torch_npu=={TORCH_NPU}", "-e", ".", "-e", "./emulator[test]"),
        *("pytest", "pytest-xdist", "hypothesis"),
    )
    check = "import torch; print('a CUDA build' if torch.version.cuda else 'a CPU build')"
    no_autoload = {"TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}
    if "a CUDA build" in str(session.run("python", "-c", check, env=no_autoload, silent=True)):
        session.error(
            f"pip gave a CUDA build of torch {TORCH_NPU}, beside which torch_npu aborts. Let it see "
            f"PyTorch's CPU wheels too, which it prefers: PIP_EXTRA_INDEX_URL={CPU_WHEELS}"
        )
    emulated = ["ascend-emulator", "run", "--devices", "2", "--", "python", "-m", "pytest"]
    parallel = ["-n", "auto", "--dist", "worksteal"]
    if session.posargs:
        session.run(*emulated, *session.posargs, env=PROCESSES)
        return
    session.run(*emulated, *parallel, "tests/npu", env=PROCESSES)
    session.run(*emulated, *parallel, "tests/parity", "--device", "npu", env=PROCESSES)
    with session.chdir("emulator"):
        session.run(*emulated, *parallel, env=PROCESSES)


def _cpu_build(session: nox.Session) -> list[str]:
    """What pip needs to be told to take a CPU build of torch, which is not the default on x86-64."""
    if platform.machine() == "aarch64":
        return []
    report = Path(session.create_tmp()) / "torch.json"
    session.run(
        *("python", "-m", "pip", "install", "--dry-run", "--no-deps", "--ignore-installed"),
        *("--quiet", "--report", str(report), f"torch=={TORCH_NPU}"),
    )
    version = json.loads(report.read_text())["install"][0]["metadata"]["version"]
    return [] if version.endswith("+cpu") else ["--index-url", CPU_WHEELS]

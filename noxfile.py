"""The sessions of CI and of releases.

``nox`` runs the default sessions: ``checks``, ``tests``, ``resume`` and ``npu``. ``isa`` and the campaigns
(``campaign``, ``drills``, ``packaging``, ``interop``, ``npu_full``) belong to a release; their latest results
are in ``drills/results/``. ``npu`` and ``npu_full`` have their own environments, because torch_npu needs a
specific version of torch and aborts with a CUDA build. The others use the environment of nox itself.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import nox

nox.options.sessions = ["checks", "tests", "resume", "npu"]
nox.options.reuse_venv = "yes"

BIN = Path(sys.executable).parent
TORCH_NPU = "2.13.0"
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
# Tests and drills start hundreds of processes: cache compiled Python between them.
KEPT = {"PYTHONDONTWRITEBYTECODE": None}
# Tests run in parallel and start further processes: one compute thread each, no spinning threads.
PROCESSES = {**KEPT, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1"}
PARALLEL = ("-n", "auto", "--dist", "worksteal", "--durations", "25", "--durations-min", "1")
# One worker more than cores: tests of ranks and of failures wait for half of their time.
MORE_WORKERS = ("-n", str((os.cpu_count() or 1) + 1))
DEFAULT = ("-m", "not campaign and not interop")
# For our kernels, torch's and oneDNN's: as on a processor without AVX-512.
AVX2 = {"CXXFLAGS": "-march=x86-64-v3", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}


@nox.session(venv_backend="none")
def checks(session: nox.Session) -> None:
    """Check style, types and the direction of imports."""
    python = sys.executable
    session.run(python, "-m", "ruff", "check", ".", external=True)
    session.run(python, "-m", "ruff", "format", "--check", ".", external=True)
    session.run(python, "-m", "mypy", external=True)
    # The emulator is a separate distribution, which is not installed in this environment.
    session.run(str(BIN / "lint-imports"), env={"PYTHONPATH": "emulator"}, external=True)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Run the test suite without campaigns. Arguments after ``--`` replace the defaults of pytest."""
    _pytest(session, *(session.posargs or [*PARALLEL, *MORE_WORKERS, *DEFAULT]))


@nox.session(venv_backend="none")
def isa(session: nox.Session) -> None:
    """Run the tests of backends and of the image reader with AVX2 only, as most processors have it.

    Arguments after ``--`` replace the tests and go to pytest.
    """
    if platform.machine() != "x86_64":
        session.skip("these instruction sets are of x86-64")
    limited = "import torch; assert torch.backends.cpu.get_cpu_capability() == 'AVX2'"
    session.run(sys.executable, "-c", limited, env=AVX2, external=True)
    tests = ("tests/parity", "tests/backends", "tests/data/test_native.py")
    _pytest(session, *(session.posargs or [*PARALLEL, *DEFAULT, *tests]), env=AVX2)


@nox.session(venv_backend="none")
def resume(session: nox.Session) -> None:
    """Kill a run of two ranks twice, and compare its final bytes with those of an uninterrupted run."""
    _drill(session, "kill_drill", "--kills", "2", "--seed", "42", "--ranks", "2", "--epochs", "4")


@nox.session(venv_backend="none")
def campaign(session: nox.Session) -> None:
    """Run the tests that are run only for a release. Arguments after ``--`` go to pytest."""
    others = ("--ignore", "tests/test_packaging.py")  # has its own session
    _pytest(session, *PARALLEL, "-m", "campaign", *others, *session.posargs)


@nox.session(venv_backend="none")
def interop(session: nox.Session) -> None:
    """Run tests against other software: compiled torchvision, ONNX Runtime, the benchmarks of all peers."""
    _pytest(session, *PARALLEL, "-m", "interop", *session.posargs)


@nox.session(venv_backend="none")
def packaging(session: nox.Session) -> None:
    """Install the wheel with its dependencies in an empty environment and train there."""
    _pytest(session, "--durations", "25", "tests/test_packaging.py", *session.posargs)


@nox.session(venv_backend="none")
def drills(session: nox.Session) -> None:
    """Kill runs 200 times, cut the power at every write, and fuzz checkpoints and input.

    Arguments after ``--`` go to the kill drill and replace its defaults; no other drill runs then.
    """
    _drill(session, "kill_drill", *(session.posargs or ["--kills", "200", "--replay"]))
    if not session.posargs:
        _drill(session, "fuzz_checkpoint")
        _drill(session, "fuzz_input")


@nox.session(venv_backend="venv")
def npu(session: nox.Session) -> None:
    """Run the real torch_npu on the emulator of CANN: the emulator's tests and those of a training step.

    Arguments after ``--`` replace the default tests and go to pytest.
    """
    _install_torch_npu(session)
    if session.posargs:
        _emulated(session, *session.posargs)
        return
    _emulated(session, *PARALLEL, *DEFAULT, "tests/npu", "tests/parity", "--device", "npu")
    with session.chdir("emulator"):
        _emulated(session, *PARALLEL)


@nox.session(venv_backend="venv")
def npu_full(session: nox.Session) -> None:
    """Run the tests that ``npu`` omits: eight ranks, two machines, hung ranks, doctor and transforms."""
    _install_torch_npu(session)
    only = ("-m", "campaign", *session.posargs)
    _emulated(session, *PARALLEL, *only, "tests/npu", "tests/parity", "--device", "npu")


def _pytest(session: nox.Session, *arguments: str, env: Mapping[str, str] = MappingProxyType({})) -> None:
    session.run(sys.executable, "-m", "pytest", *arguments, env={**PROCESSES, **env}, external=True)


def _drill(session: nox.Session, name: str, *arguments: str) -> None:
    session.run(sys.executable, "-m", f"drills.{name}", *arguments, env=KEPT, external=True)


def _emulated(session: nox.Session, *arguments: str) -> None:
    emulator = ("ascend-emulator", "run", "--devices", "2", "--")
    session.run(*emulator, "python", "-m", "pytest", *arguments, env=PROCESSES)


def _install_torch_npu(session: nox.Session) -> None:
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        session.skip("torch_npu exists for Linux on x86-64 and aarch64 only")
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        session.skip("the emulator of CANN is compiled: install g++ (Debian, Ubuntu: apt install g++)")
    # Of torch, Python compiles what is imported: all of it takes pip four times as long as the installation.
    session.install("--no-compile", f"torch=={TORCH_NPU}", *_cpu_build(session))
    # pip compiles torch_npu: compiled on import, its SyntaxWarnings would be errors of pytest.
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


def _cpu_build(session: nox.Session) -> list[str]:
    """Return the pip options for a CPU build of torch, which is not the default on x86-64."""
    if platform.machine() == "aarch64":
        return []
    report = Path(session.create_tmp()) / "torch.json"
    session.run(
        *("python", "-m", "pip", "install", "--dry-run", "--no-deps", "--ignore-installed"),
        *("--quiet", "--report", str(report), f"torch=={TORCH_NPU}"),
    )
    version = json.loads(report.read_text())["install"][0]["metadata"]["version"]
    return [] if version.endswith("+cpu") else ["--index-url", CPU_WHEELS]

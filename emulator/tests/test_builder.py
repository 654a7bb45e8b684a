"""Finding what the emulator is built against, and running commands on it: without building it."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ascend_emulator import compiling
from ascend_emulator.compiling import SOURCES
from ascend_emulator.counters import Copy, Kernel, parse
from ascend_emulator.environment import SOCS, Machine, variables
from ascend_emulator.errors import UsageError
from ascend_emulator.running import run
from ascend_emulator.symbols import stubs
from tests.conftest import REPOSITORY, Command, Outcome


@pytest.fixture
def build_beside(tmp_path: Path) -> Command:
    """Run ``emulator build`` where these versions of torch and torch_npu are what Python finds."""

    def emulator_build(torch: str, cuda: str | None, torch_npu: str | None, **env: str) -> Outcome:
        packages = tmp_path / "packages"
        _package(packages, "torch", torch)
        version = f"__version__ = '{torch}'\ncuda: Optional[str] = {cuda!r}\n"
        (packages / "torch" / "version.py").write_text(f"from typing import Optional\n{version}")
        if torch_npu is not None:
            _package(packages, "torch_npu", torch_npu)
        done = subprocess.run(
            [sys.executable, "-m", "ascend_emulator.main", "build"],
            env={
                "PYTHONPATH": os.pathsep.join((str(packages), str(REPOSITORY))),
                "PATH": "/usr/bin:/bin",
                "HOME": str(tmp_path),
                **env,
            },
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return emulator_build


def _package(folder: Path, name: str, version: str) -> None:
    """A package that ends the process if anyone imports it: the builder must not."""
    (folder / name).mkdir(parents=True)
    (folder / name / "__init__.py").write_text("import os; os._exit(86)")
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_a_cuda_build_of_torch_is_refused(build_beside: Command) -> None:
    ended = build_beside("2.13.0+cu130", "13.0", "2.13.0")
    assert ended.code == 3
    assert ended.err.startswith(
        "error: cannot build the emulator: torch 2.13.0+cu130 is a build for CUDA 13.0, and torch_npu "
        "aborts beside one."
    )
    assert "pip install torch==2.13.0 torch_npu==2.13.0" in ended.err


def test_versions_that_are_no_pair_are_refused(build_beside: Command) -> None:
    ended = build_beside("2.14.1+cpu", None, "2.13.0")
    assert ended.code == 3
    assert "torch_npu 2.13.0 beside torch 2.14.1+cpu; they must have the same major and minor" in ended.err


def test_the_post_releases_of_torch_npu_fit(build_beside: Command) -> None:
    ended = build_beside("2.13.0+cpu", None, "2.13.0.post2", CXX="no-such-compiler")
    assert ended.code == 3
    assert "$CXX is 'no-such-compiler', which is not a program here" in ended.err


def test_without_torch_npu(build_beside: Command) -> None:
    if importlib.util.find_spec("torch_npu") is not None:
        pytest.skip("this environment has torch_npu itself")
    ended = build_beside("2.13.0+cpu", None, None)
    assert ended.code == 3
    assert "cannot build the emulator: torch_npu is not installed" in ended.err


def test_without_a_compiler(build_beside: Command) -> None:
    ended = build_beside("2.13.0+cpu", None, "2.13.0", PATH="/nonexistent")
    assert ended.code == 3
    assert ended.err.startswith("error: no C++ compiler: there is no g++. Install one (Debian")
    assert "name yours in $CXX." in ended.err


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (Machine(devices=-1), "--devices is -1; it must be from 0 to 64."),
        (Machine(memory="8GB"), "--memory is '8GB'; it must be a size such as 512MiB or 8GiB"),
        (Machine(soc="Ascend310P3"), "--soc is 'Ascend310P3'; it must be one of: Ascend910A, "),
        (Machine(faults="op:aclnnAdd@0"), "--faults has 'op:aclnnAdd@0'; each must be alloc@N, "),
        (Machine(faults="alloc@1,,op@2"), "--faults has ''; each must be alloc@N, "),
    ],
)
def test_a_machine_that_cannot_be(machine: Machine, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        variables(Path("/emulator"), machine)


def test_the_emulator_comes_first_and_once() -> None:
    base = {"LD_LIBRARY_PATH": "/old:/usr/cann/lib:", "ASCEND_EMULATOR_LIBRARIES": "/old"}
    made = variables(Path("/new"), Machine(devices=2, memory="1GiB"), report="r-{pid}", base=base)
    assert made == {
        "LD_LIBRARY_PATH": "/new:/usr/cann/lib",
        "ASCEND_EMULATOR_LIBRARIES": "/new",
        "ASCEND_HOME_PATH": "/new",
        "ASCEND_OPP_PATH": "/new/opp",
        "ASCEND_EMULATOR_DEVICES": "2",
        "ASCEND_EMULATOR_SOC": "Ascend910B1",
        "ASCEND_EMULATOR_MEMORY": "1GiB",
        "ASCEND_EMULATOR_REPORT": "r-{pid}",
    }


def test_the_chips_are_those_of_the_runtime() -> None:
    text = (SOURCES / "runtime" / "soc.cpp").read_text()
    assert tuple(re.findall(r'\{"(Ascend[^"]*)"', text)) == SOCS


def test_checkouts_share_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()
    for place in (tmp_path / "here", tmp_path / "there"):
        place.mkdir()
        (place / "own.hpp").write_text("")
        (place / "own.cpp").write_text('#include "own.hpp"')
        monkeypatch.setattr(compiling, "SOURCES", place)
        names.add(compiling.object_name(compiling.Toolchain(("g++",), ("g++",), "print"), place / "own.cpp"))
    assert len(names) == 1


def test_the_exit_code_is_handed_on() -> None:
    assert run([sys.executable, "-c", "raise SystemExit(7)"], {}) == 7
    assert run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"], {}) == 128 + 9


def test_the_variables_reach_the_command(capfd: pytest.CaptureFixture[str]) -> None:
    assert run([sys.executable, "-c", "import os; print(os.environ['ASKED'])"], {"ASKED": "yes"}) == 0
    assert capfd.readouterr().out == "yes\n"


def test_signals_are_handed_on() -> None:
    script = """
import os, signal, sys
from ascend_emulator.running import run
child = "import os, signal, time\\n" \\
    "signal.signal(signal.SIGTERM, lambda *_: os._exit(5))\\n" \\
    "os.kill(os.getppid(), signal.SIGTERM)\\n" \\
    "time.sleep(30)"
sys.exit(run([sys.executable, "-c", child], {}))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, timeout=20, check=False)
    assert done.returncode == 5


def test_an_unknown_command_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"cannot run 'no-such-program': it is not a program here"):
        run(["no-such-program"], {})


def test_missing_functions_say_where_they_belong() -> None:
    text = stubs({"aclrtNew", "aclrtAlsoNew"}, "sources/runtime/")
    assert 'int aclrtNew() { return emulator::missing("aclrtNew", "sources/runtime/"); }' in text
    assert text.index("aclrtAlsoNew") < text.index("aclrtNew()")


def test_counts_of_devices_are_added() -> None:
    device = """{"kernels": {"aclnnAdd": {"launches": 2, "bytes_read": 16, "bytes_written": 8}},
        "syncs": {"aclrtSynchronizeStream": 1}, "copies": {"h2d": {"copies": 1, "bytes": 8}},
        "memory": {"allocations": 1, "bytes": 0, "peak_bytes": 4096}}"""
    head = '"version": 1, "pid": 7, "rank": 0, "soc": "Ascend910A"'
    counts = parse(f'{{{head}, "devices": {{"0": {device}, "1": {device}}}}}')
    total = counts.total
    assert total.kernels == {"aclnnAdd": Kernel(4, 32, 16)}
    assert total.copies == {"h2d": Copy(2, 16)}
    assert (total.launches, total.host_syncs, total.bytes_peak) == (4, 2, 8192)

"""The build of the CPU kernels, and the messages when it fails."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from shufflenet_fn_backends.fused import library
from shufflenet_fn_backends.fused.library import RECIPE, cache_folder, find_compiler
from shufflenet_fn_backends.registry import get_backend, select_backend
from shufflenet_fn_backends.support.compiler import build_library
from shufflenet_fn_backends.support.errors import DeviceError, UsageError
from tests.conftest import Command

AVX512 = torch.backends.cpu.get_cpu_capability() == "AVX512"


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """As in a new process on a machine where nothing was built; the cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(library, "kernels", library.kernels.__wrapped__)
    return cache_folder()


def _build(folder: Path) -> str:
    """Build a one-line library in place of the kernels: the same steps in a fraction of the time."""
    sources = folder.parent / "sources"
    recipe = RECIPE._replace(sources=sources, flags=("-fPIC", *RECIPE.flags[:1]))
    return str(build_library(recipe, find_compiler(), folder))


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "api.cpp").write_text('extern "C" int lanes() { return 4; }')
    return folder


def test_processes_share_one_build(sources: Path, tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        paths = pool.map(_build, [tmp_path / "kernels"] * 3)
    assert len(set(paths)) == 1
    built = os.stat(paths[0]).st_mtime_ns
    assert _build(tmp_path / "kernels") == paths[0]
    assert os.stat(paths[0]).st_mtime_ns == built
    assert sorted(os.listdir(tmp_path / "kernels")) == ["build.lock", Path(paths[0]).name]


def test_other_flags_or_sources_make_another_library(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "kernels"
    first = _build(folder)
    monkeypatch.setenv("CXXFLAGS", "-O1 -DNDEBUG")
    second = _build(folder)
    (sources / "more.hpp").touch()
    assert len({first, second, _build(folder)}) == 3


@pytest.mark.campaign
@pytest.mark.skipif(platform.machine() != "x86_64", reason="elsewhere there is one width only")
@pytest.mark.parametrize(
    ("flags", "lanes"),
    [
        ("-march=x86-64", 4),
        pytest.param(
            *("-mno-avx512bf16", 16),
            marks=pytest.mark.skipif(not AVX512, reason="only for a processor with AVX-512"),
        ),
    ],
)
def test_operators_agree_with_other_instructions(flags: str, lanes: int) -> None:  # AVX2: `nox -s isa`
    environment = os.environ | {"CXXFLAGS": flags}
    count = "from shufflenet_fn_backends.fused.library import kernels; print(kernels().lanes())"
    done = subprocess.run(
        [sys.executable, "-c", count], env=environment, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == lanes
    tests = Path(__file__).with_name("test_cpu_operators.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", tests],
        env=environment,
        cwd=tests.parent.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_without_a_compiler(no_kernels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(DeviceError, match=r"no C\+\+ compiler: there is no g\+\+.*--backend routed"):
        get_backend("cpu")
    chosen = select_backend("auto", "cpu")
    assert chosen.backend.name == "routed"
    assert chosen.reason == "backend routed: not cpu, no C++ compiler: there is no g++"


def test_a_compiler_that_fails(no_kernels: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'fatal error: omp.h is missing' >&2\nexit 4\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(DeviceError, match=r"failed with exit code 4\.\nfatal error: omp\.h"):
        get_backend("cpu")
    assert os.listdir(no_kernels) == ["build.lock"], "nothing half-built is left"
    assert "exit code 4" in select_backend("auto", "cpu").reason


def test_a_compiler_with_arguments(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (sources / "api.cpp").write_text('extern "C" int lanes() { return LANES; }')
    monkeypatch.setenv("CXX", "g++ -DLANES=7")
    assert ctypes.CDLL(_build(tmp_path / "kernels")).lanes() == 7


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("CXX", "nonsense -O2", r"\$CXX is 'nonsense -O2', which is not a program"),
        ("CXX", "g++ 'x", r"cannot read \$CXX, which is \"g\+\+ 'x\""),
        ("CXXFLAGS", "'", r"cannot read \$CXXFLAGS"),
    ],
)
def test_unusable_settings(
    no_kernels: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(DeviceError, match=message):
        get_backend("cpu")


def test_a_program_that_does_not_run(
    no_kernels: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler = tmp_path / "c++"
    compiler.write_bytes(b"\x7fELF garbage")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(DeviceError, match="cannot build the CPU kernels"):
        get_backend("cpu")


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")

    def expanduser(path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", expanduser)
    with pytest.raises(DeviceError, match=r"no home directory\. Set XDG_CACHE_HOME"):
        cache_folder()


def test_a_cache_that_cannot_be_written(no_kernels: Path) -> None:
    no_kernels.parent.parent.mkdir(exist_ok=True)
    no_kernels.parent.write_text("a file in the folder's place")
    with pytest.raises(DeviceError, match=r"cannot build the CPU kernels in .*XDG_CACHE_HOME"):
        get_backend("cpu")


def test_a_library_that_does_not_load(
    no_kernels: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    compiler = tmp_path / "c++"
    loop = 'while [ $# -gt 0 ]; do [ "$1" != -o ] || echo "no library" > "$2"; shift; done'
    compiler.write_text(f"#!/bin/sh\n{loop}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(DeviceError, match=r"cannot load the CPU kernels .*--backend routed"):
        get_backend("cpu")


def test_the_cpu_map_is_refused_on_another_device() -> None:
    with pytest.raises(UsageError, match="backend cpu is for device cpu, not npu"):
        select_backend("cpu", "npu")


TRAIN = (
    *("train", "--arch", "x0_5", "--image-size", 32, "--batch-size", 8, "--workers", 1),
    *("--max-steps", 1),
)


def test_run_reports_its_backend(
    process: Command, image_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments = (*TRAIN, "--data", image_folder, "--run-dir")
    done = process(*arguments, tmp_path / "with")
    assert done.code == 0, done.err
    assert "backend cpu: auto" in done.out + done.err
    assert "memory: freed memory is kept" in done.out + done.err
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    monkeypatch.setenv("MALLOC_TOP_PAD_", "65536")
    done = process(*arguments, tmp_path / "without")
    assert done.code == 0, done.err
    assert "backend routed: not cpu, no C++ compiler: $CXX is '/nonexistent/c++'" in (done.out + done.err)
    assert "the allocator is as set by MALLOC_TOP_PAD_" in done.out + done.err


def test_the_cpu_backend_asked_for_needs_a_compiler(
    no_kernels: Path, command: Command, image_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    run = tmp_path / "run"
    done = command(*TRAIN, "--data", image_folder, "--run-dir", run, "--backend", "cpu")
    assert (done.code, done.out) == (3, "")
    assert "no C++ compiler: $CXX is" in done.err
    assert not run.exists()

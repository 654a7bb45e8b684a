"""The doctor's stages in this environment, and stages that crash, hang or misreport."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from shufflenet_fn.doctor.ascend import cann
from shufflenet_fn.doctor.examine import ORDER, run_stage
from shufflenet_fn.doctor.finding import FAILED, OK, SKIPPED, WARNING
from shufflenet_fn.doctor.packages import disk, namesakes, python, torchvision
from shufflenet_fn_backends.support.subprocesses import run_module

FACTS = {"device": "auto", "output": "runs"}


@pytest.fixture
def stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Give the stage ``disk`` another body in the processes that stages run in."""

    def replace(body: str) -> None:
        (tmp_path / "sitecustomize.py").write_text(
            "import shufflenet_fn.doctor.packages as packages\n\n\n"
            f"def disk(facts):\n    {body}\n\n\n"
            "packages.disk = disk\n"
        )
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))

    return replace


@pytest.mark.parametrize(
    ("body", "text", "fix"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV", "report it"),
        (
            "import atexit, os; atexit.register(os.abort); "
            "from shufflenet_fn.doctor.finding import Finding; return Finding('ok', 'fine')",
            "SIGABRT",
            "report it",
        ),
        ("raise ImportError('libhccl.so: cannot open shared object file: No file')", "libhccl.so", "set_env"),
        ("raise __import__('shufflenet_fn.errors').errors.UserError('no lo')", "no lo", ""),
    ],
    ids=["killed", "killed after success", "known error", "user's error"],
)
def test_stage_that_crashes_fails_with_fix(
    stages: Callable[[str], None], body: str, text: str, fix: str
) -> None:
    stages(body)
    finding = run_stage("disk", FACTS, timeout_s=60)
    assert finding.status == FAILED
    assert text in finding.text and "errors.UserError" not in finding.text
    assert fix in finding.fix and bool(fix) == bool(finding.fix)


def test_a_stage_that_hangs(stages: Callable[[str], None]) -> None:
    stages("import subprocess, time; subprocess.Popen(['sleep', '60']); time.sleep(60)")
    finding = run_stage("disk", FACTS, timeout_s=2)
    assert finding.status == FAILED
    assert "hung" in finding.text and "2 s" in finding.text


def test_the_process_resolves_imports_as_this_one(tmp_path: Path) -> None:
    (tmp_path / "only_here.py").write_text("print('found', *__import__('sys').argv[1:])")
    sys.path.insert(0, str(tmp_path))
    try:
        outcome = run_module("only_here", ["a", "b c"], timeout_s=60)
    finally:
        sys.path.remove(str(tmp_path))
    assert outcome.out.split() == ["found", "a", "b", "c"]
    assert outcome.code == 0 and outcome.ending == "ended with exit code 0"


@pytest.mark.slow
def test_the_doctor_here(process: Callable[..., Any], tmp_path: Path) -> None:
    outcome = process("doctor", "--json", "--device", "cpu", "--output", tmp_path, timeout=300.0)
    report = json.loads(outcome.out)
    found = {stage["name"]: stage for stage in report["stages"]}
    assert list(found) == list(ORDER)
    needed = ("python", "torch", "devices", "kernel", "collective", "loader", "disk")
    problems = {name: found[name] for name in needed if found[name]["status"] not in (OK, WARNING)}
    assert not problems
    assert report["ok"] == all(stage["status"] != FAILED for stage in report["stages"])
    assert outcome.code == (0 if report["ok"] else 1)
    assert found["collective"]["details"]["backend"] == "gloo"
    assert found["loader"]["details"]["images_per_s"] > 0
    assert found["kernel"]["details"]["relative_error"] < 1e-4


@pytest.mark.usefixtures("in_process")
def test_missing_device_fails(command: Callable[..., Any]) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    outcome = command("doctor", "--device", "cuda")
    assert outcome.code == 1
    assert "no GPU" in outcome.out
    # What does not need the device goes on.
    assert "JPEGs decoded" in outcome.out


def test_values_that_are_not_allowed(command: Callable[..., Any]) -> None:
    for arguments, words in (
        (("--device", "gpu"), ("gpu", "cuda", "npu")),
        (("--timeout", "0"), ("--timeout", "above 0")),
    ):
        outcome = command("doctor", *arguments)
        assert outcome.code == 2
        assert all(word in outcome.err for word in words)


def test_a_disk_that_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert disk({"output": str(file / "runs")}).status == FAILED
    assert disk({"output": "/proc/nothing"}).status == FAILED
    fine = disk({"output": str(tmp_path / "new" / "runs")})
    assert fine.status == OK and fine.details["bytes_per_s"] > 0
    assert not (tmp_path / "new").exists()
    assert list(tmp_path.iterdir()) == [file]


def test_cann_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cann({"torch_npu": {"status": SKIPPED}}).status == SKIPPED
    monkeypatch.setattr("shufflenet_fn.doctor.ascend.LIBRARIES", ("libascendcl-not-there.so",))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("ASCEND_HOME_PATH", raising=False)
    monkeypatch.delenv("ASCEND_TOOLKIT_HOME", raising=False)
    finding = cann({"torch_npu": {"status": FAILED}})
    assert finding.status == FAILED
    assert "libascendcl-not-there.so" in finding.text and "docs/ascend.md" in finding.fix
    monkeypatch.setenv("ASCEND_HOME_PATH", "/opt/Ascend/cann")
    assert "/opt/Ascend/cann" in cann({"torch_npu": {"status": FAILED}}).fix


# ---- packages with misleading names, in artificial environments ----

Package = tuple[str, str, tuple[str, ...]]
Install = Callable[..., None]

# Of the packages on PyPI, each as installed from there: name, version, what it requires, its files.
WEB_FRAMEWORK = ("apex", "0.9.10.dev0", ("cryptacular", "velruse>=1.0.3", "pyramid>1.1.2"))
WEB_FILES = ("apex/__init__.py", "apex/forms.py", "apex/views.py")
PLACEHOLDER = ("ascend-cann-toolkit", "0.0.1.dev1", ())
RUNTIME = ("ascend-cann-nnrt", "8.0.0", ("attrs", "numpy==1.24.0", "protobuf==3.20"))
FUNCTORCH = ("functorch", "2.0.0", ("torch (<2.1,>=2.0)",))
EVALUATION = ("ais-bench-benchmark", "3.1.20260630", ("torch", "numpy<2.0.0,>=1.23.4"))


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a package as pip does, into a folder that comes first in ``sys.path``."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(package: Package, *files: str) -> None:
        name, version, requires = package
        information = f"{name.replace('-', '_')}-{version}.dist-info"
        needs = "".join(f"Requires-Dist: {need}\n" for need in requires)
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
        record = [f"{information}/METADATA", f"{information}/RECORD"]
        record += [file for file in files if not file.startswith("unlisted: ")]
        for file in (*record, *files):
            path = tmp_path / file.removeprefix("unlisted: ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        (tmp_path / information / "METADATA").write_text(metadata)
        (tmp_path / information / "RECORD").write_text("".join(f"{file},,\n" for file in record))

    return write


@pytest.mark.parametrize(
    ("package", "files", "text", "fix"),
    [
        (WEB_FRAMEWORK, WEB_FILES, "a web framework", "pip uninstall apex. Mixed precision"),
        (("apex", "0.9.8dev", ()), WEB_FILES, "a web framework", "pip uninstall apex. Mixed precision"),
        (PLACEHOLDER, (), "0.0.1.dev1 is PyPI's placeholder", "install CANN from Huawei"),
        (RUNTIME, (), "8.0.0 is PyPI's, without CANN", "install CANN's toolkit from Huawei"),
        (FUNCTORCH, ("functorch-2.0.0.dist-info/LICENSE",), "asks for torch 2.0", "torch.func"),
        # NVIDIA's before and after it gave up apex.amp, and Ascend's.
        (("apex", "0.1", ()), ("apex/__init__.py", "apex/amp/frontend.py"), "not used here", ""),
        (("apex", "0.1", ()), ("apex/optimizers/fused_sgd.py",), "not used here", ""),
        (("apex", "0.1+ascend", ()), ("apex/amp/a.py", "apex/contrib/b.py"), "0.1+ascend is not used", ""),
        # That of Huawei's own index, which pip unpacks, and one whose installation fills ``ascend/`` itself.
        (("ascend-cann-toolkit", "9.1.0", ()), ("ascend/cann-9.1.0/set_env.sh",), "9.1.0 is CANN", ""),
        (("ascend-cann-toolkit", "9.0.0", ()), ("unlisted: ascend/cann-9.0.0/set_env.sh",), "is CANN", ""),
        (EVALUATION, ("ais_bench/__init__.py",), "aclruntime", ""),
    ],
)
def test_misleading_packages_are_told_from_others(
    install: Install, package: Package, files: tuple[str, ...], text: str, fix: str
) -> None:
    install(package, *files)
    finding = namesakes({})
    assert finding.status == (WARNING if fix else OK)
    assert text in finding.text
    assert fix in finding.fix and bool(fix) == bool(finding.fix)
    assert finding.details == {package[0]: package[1]}


def test_several_namesakes_in_one_finding(install: Install) -> None:
    install(WEB_FRAMEWORK, *WEB_FILES)
    install(FUNCTORCH)
    install(EVALUATION, "ais_bench/__init__.py")
    finding = namesakes({})
    assert finding.status == WARNING
    assert set(finding.details) == {"apex", "functorch", "ais-bench-benchmark"}
    assert "pip uninstall apex" in finding.fix and "pip uninstall functorch" in finding.fix
    assert "ais-bench" not in finding.fix


def test_without_namesakes_the_stage_is_skipped() -> None:
    from importlib.util import find_spec

    if find_spec("apex") is not None:
        pytest.skip("there is one")
    finding = namesakes({})
    assert finding.status == SKIPPED
    assert "functorch" in finding.text


def test_a_torchvision_that_does_not_fit(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')\n"
    )
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); "
        "from shufflenet_fn.doctor.packages import torchvision; print(*torchvision({})[:3])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(WARNING)
    assert "torchvision::nms" in done.stdout and "Training does not need it" in done.stdout


def test_packages_here() -> None:
    finding = python({})
    assert finding.status == OK, finding
    assert finding.details["executable"] == sys.executable
    assert {f"{name} {version(name)}" for name in ("typer", "rich")} <= {*finding.text.split(", ")}
    assert torchvision({}).status in (OK, SKIPPED)

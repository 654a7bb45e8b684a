"""Packages with misleading names, in artificial environments."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from shufflenet_fn.doctor.finding import OK, SKIPPED, WARNING
from shufflenet_fn.doctor.packages import namesakes, python, torchvision

# Of the packages on PyPI, each as installed from there: name, version, what it requires, its files.
WEB_FRAMEWORK = ("apex", "0.9.10.dev0", ("cryptacular", "velruse>=1.0.3", "pyramid>1.1.2"))
WEB_FILES = ("apex/__init__.py", "apex/forms.py", "apex/views.py")
PLACEHOLDER = ("ascend-cann-toolkit", "0.0.1.dev1", ())
RUNTIME = ("ascend-cann-nnrt", "8.0.0", ("attrs", "numpy==1.24.0", "protobuf==3.20"))
FUNCTORCH = ("functorch", "2.0.0", ("torch (<2.1,>=2.0)",))
EVALUATION = ("ais-bench-benchmark", "3.1.20260630", ("torch", "numpy<2.0.0,>=1.23.4"))

Package = tuple[str, str, tuple[str, ...]]
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a package as pip does, into a folder that comes first in ``sys.path``."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(package: Package, *files: str) -> None:
        name, version, requires = package
        information = f"{name.replace('-', '_')}-{version}.dist-info"
        needs = "".join(f"Requires-Dist: {need}\n" for need in requires)
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}"
        record = (f"{information}/METADATA", f"{information}/RECORD", *files)
        for file in record:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()
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
    ],
)
def test_misleading_package_is_reported(
    install: Install, package: Package, files: tuple[str, ...], text: str, fix: str
) -> None:
    install(package, *files)
    finding = namesakes({})
    assert finding.status == WARNING
    assert text in finding.text and fix in finding.fix
    assert finding.details == {package[0]: package[1]}


@pytest.mark.parametrize(
    ("package", "files", "text"),
    [
        # NVIDIA's before and after it gave up apex.amp, and Ascend's.
        (("apex", "0.1", ()), ("apex/__init__.py", "apex/amp/frontend.py"), "not used here"),
        (("apex", "0.1", ()), ("apex/__init__.py", "apex/optimizers/fused_sgd.py"), "not used here"),
        (
            ("apex", "0.1+ascend", ()),
            ("apex/amp/frontend.py", "apex/contrib/combine_tensors/combine_tensors.py"),
            "0.1+ascend is not used here",
        ),
        # That of Huawei's own index.
        (
            ("ascend-cann-toolkit", "9.1.0", ()),
            ("ascend/cann-9.1.0/set_env.sh", "ascend/cann-9.1.0/lib64/libascendcl.so"),
            "9.1.0 is CANN",
        ),
        (EVALUATION, ("ais_bench/__init__.py", "ais_bench/benchmark/cli/main.py"), "aclruntime"),
    ],
)
def test_a_package_that_is_right_is_no_warning(
    install: Install, package: Package, files: tuple[str, ...], text: str
) -> None:
    install(package, *files)
    finding = namesakes({})
    assert finding.status == OK and not finding.fix
    assert text in finding.text


def test_cann_that_was_unpacked_later(install: Install, tmp_path: Path) -> None:
    """A package whose installation fills ``ascend/`` itself, so that pip does not list the files."""
    install(("ascend-cann-toolkit", "9.0.0", ()))
    (tmp_path / "ascend" / "cann-9.0.0").mkdir(parents=True)
    (tmp_path / "ascend" / "cann-9.0.0" / "set_env.sh").touch()
    assert namesakes({}).status == OK


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


def test_python_here() -> None:
    finding = python({})
    assert finding.status == OK, finding
    assert finding.details["executable"] == sys.executable
    assert {f"{name} {version(name)}" for name in ("typer", "rich")} <= {*finding.text.split(", ")}


def test_torchvision_here() -> None:
    assert torchvision({}).status in (OK, SKIPPED)

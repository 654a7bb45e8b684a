"""Packages that are not what they seem, in environments made for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shufflenet_fn.doctor.finding import OK, SKIPPED, WARNING
from shufflenet_fn.doctor.packages import apex, python, torchvision

# Of the package on PyPI, version 0.9.10.dev0.
WEB_FRAMEWORK = """Metadata-Version: 2.4
Name: apex
Version: 0.9.10.dev0
Summary: Pyramid toolkit to add Velruse, Flash Messages,CSRF, ReCaptcha and Sessions
Requires-Dist: cryptacular
Requires-Dist: velruse>=1.0.3
Requires-Dist: pyramid>1.1.2
"""

NVIDIA = """Metadata-Version: 2.1
Name: apex
Version: 0.1
"""


def install(folder: Path, metadata: str, *files: str) -> None:
    version = metadata.split("Version: ")[2].split()[0]
    information = folder / f"apex-{version}.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(metadata)
    (information / "RECORD").write_text("".join(f"{file},,\n" for file in files))


def test_the_apex_of_pypi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, WEB_FRAMEWORK, "apex/__init__.py", "apex/forms.py", "apex/views.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    finding = apex({})
    assert finding.status == WARNING
    assert "web framework" in finding.text and "pip uninstall apex" in finding.fix


@pytest.mark.parametrize("file", ["apex/amp/frontend.py", "apex/optimizers/fused_sgd.py"])
def test_an_apex_for_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    """NVIDIA's before and after it gave up ``apex.amp``; it is not needed, and not in the way."""
    install(tmp_path, NVIDIA, "apex/__init__.py", file)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert apex({}).status == OK


def test_no_apex() -> None:
    from importlib.util import find_spec

    if find_spec("apex") is not None:
        pytest.skip("there is one")
    assert apex({}).status == SKIPPED


def test_a_torchvision_that_does_not_fit(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')\n"
    )
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); "
        "from shufflenet_fn.doctor.packages import torchvision; print(*torchvision({})[:3])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(WARNING)
    assert "torchvision::nms" in done.stdout and "Training does not need it" in done.stdout


def test_python_here() -> None:
    finding = python({})
    assert finding.status == OK, finding
    assert finding.details["executable"] == sys.executable


def test_torchvision_here() -> None:
    assert torchvision({}).status in (OK, SKIPPED)

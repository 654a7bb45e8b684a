"""The wheel holds what it should and works outside the checkout, with and without our environment."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


def run(*command: object, cwd: Path) -> str:
    """Run ``command``; returns standard output, fails with everything it printed."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", out, REPOSITORY, cwd=out)
    (built,) = out.glob("shufflenet_fn-*.whl")
    return built


def test_wheel_holds_three_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    packages = {top for top in tops if not top.endswith(".dist-info")}
    assert packages == {"shufflenet_fn", "shufflenet_fn_backends", "shufflenet_fn_cli"}
    for package in packages:
        assert f"{package}/py.typed" in names


PROGRAM = (
    "import torch, shufflenet_fn as s\n"
    "config = s.get_config('x0_5', num_classes=10)\n"
    "variables = s.init(config, torch.Generator().manual_seed(0))\n"
    "print(s.__file__, *s.apply(config, variables, torch.zeros(1, 3, 32, 32))[0].shape)"
)


def test_wheel_works_beside_our_dependencies(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile")
    run(*install, "--target", site, wheel, cwd=tmp_path)
    # Ahead of the environment's own packages, among which is the editable installation.
    path = f"import sys; sys.path.insert(0, {str(site)!r})\n"
    out = run(sys.executable, "-W", "ignore", "-c", path + PROGRAM, cwd=tmp_path).split()
    assert str(site) in out[0] and out[1:] == ["1", "10"]
    main = path + "sys.argv = ['shufflenet-fn', '--help']\nfrom shufflenet_fn_cli.main import main\nmain()"
    assert "train" in run(sys.executable, "-c", main, cwd=tmp_path)


@pytest.mark.campaign
def test_wheel_works_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    bin_dir = tmp_path / "venv" / "bin"
    run(bin_dir / "pip", "install", "--quiet", "--no-compile", wheel, cwd=tmp_path)
    assert "train" in run(bin_dir / "shufflenet-fn", "--help", cwd=tmp_path)
    out = run(bin_dir / "python", "-W", "ignore", "-c", PROGRAM, cwd=tmp_path).split()
    assert str(tmp_path) in out[0] and out[1:] == ["1", "10"]
    trained = run(
        *(bin_dir / "shufflenet-fn", "train", "--preset", "demo", "--device", "cpu"),
        *("--max-steps", 2, "--run-dir", "run"),
        cwd=tmp_path,
    )
    assert "done in" in trained

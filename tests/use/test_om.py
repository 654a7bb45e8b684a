"""Export to OM, with a stand-in for CANN's ``atc`` that checks what it is given."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from shufflenet_fn.data.device_ops import normalizer
from shufflenet_fn.doctor.ascend import HOMES
from shufflenet_fn.use import om
from shufflenet_fn.use.export import export, onnx_bytes
from shufflenet_fn.use.model import open_model
from shufflenet_fn_backends.runtimes.npu.chip import chip_of_this_machine
from shufflenet_fn_backends.support.errors import UsageError, UserError
from tests.use.test_export import wanted

Command = Callable[..., Any]
OPTIONS = ("--arch", "x0_5", "--image-size", 32, "--format", "om")
BATCH, SOC = ("--batch", 4), ("--soc", "Ascend310P3")


def program(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"#!/bin/sh\n{text}\n")
    file.chmod(0o755)
    return file


@pytest.fixture(autouse=True)
def no_atc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(om, "installations", list)
    for name in (*HOMES, "ASCEND_OPP_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def toolkit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like CANN's toolkit, with a stand-in for atc that needs CANN's environment."""
    home = tmp_path_factory.mktemp("toolkit")
    (home / "set_env.sh").write_text("export ASCEND_OPP_PATH=here\n")
    (home / "ascend_toolkit_install.info").write_text("version=9.1.0\n")
    stand_in = shlex.join([sys.executable, str(Path(__file__).with_name("stand_in_atc.py"))])
    program(home / "bin" / "atc", f'[ "$ASCEND_OPP_PATH" = here ] && exec {stand_in} "$@"')
    return home


@pytest.mark.parametrize(("kind", "opset"), [("image", "13"), ("tensor", "11")])
def test_atc_gets_a_graph_that_it_reads(
    command: Command,
    weights: Path,
    tmp_path: Path,
    toolkit: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    opset: str,
) -> None:
    monkeypatch.setenv("ASCEND_TOOLKIT_HOME", str(toolkit))
    for earlier in ("m.om", "m.onnx", "m.atc.sh", "m.aipp.cfg"):
        (tmp_path / earlier).write_text("is replaced")
    rest = (*BATCH, *SOC, "--input", kind, "--opset", opset)
    outcome = command("export", weights, "-o", "m.om", *OPTIONS, *rest)
    assert outcome.code == 0, outcome.err
    assert "ais_bench --model m.om --batchsize 4" in outcome.out
    made = (tmp_path / "m.om").read_text()
    assert made.startswith("IMODimages:4,3,32,32") and ("RGB888_U8" in made) == (kind == "image")
    assert (tmp_path / "m.aipp.cfg").exists() == (kind == "image")
    described = json.loads((tmp_path / "m.om.json").read_text())
    shape = [4, 32, 32, 3] if kind == "image" else [4, 3, 32, 32]
    assert described["input"]["shape"] == shape and described["input"]["kind"] == kind
    assert (described["soc"], described["opset"], described["names"]) == (
        SOC[1],
        int(opset),
        ["images", "logits"],
    )
    assert described["versions"]["cann"] == "9.1.0"
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = session.run(None, {"images": images.numpy()})[0]
    np.testing.assert_allclose(found, wanted(images), atol=1e-5)


@pytest.mark.parametrize("sourced", [False, True])
def test_script_converts_where_atc_is(
    command: Command, weights: Path, tmp_path: Path, toolkit: Path, sourced: bool
) -> None:
    name = 'it\'s a "model" $HOME'
    outcome = command("export", weights, "-o", f"{name}.om", *OPTIONS, *BATCH, *SOC)
    assert outcome.code == 3 and "CANN's toolkit" in outcome.err and "set_env.sh; sh" in outcome.err
    assert not (tmp_path / f"{name}.om").exists()
    script = tmp_path / f"{name}.atc.sh"
    environment = {"PATH": f"{toolkit / 'bin'}:{os.environ['PATH']}", "ASCEND_OPP_PATH": "here"}
    if sourced:
        done = ["sh", "-c", f". ./{shlex.quote(script.name)}; echo still here"]
    else:
        done = ["sh", str(script)]
    out = subprocess.check_output(done, cwd=tmp_path if sourced else "/", env=environment, text=True)
    assert ("still here" in out) == sourced
    assert (tmp_path / f"{name}.om").read_text().startswith("IMOD")
    again = command("export", weights, "-o", f"{name}.om", *OPTIONS, *BATCH, *SOC)
    assert again.code == 2 and "no atc" in again.err


def test_aipp_normalises_as_evaluation_does() -> None:
    config = om.aipp_config(224)
    values = {name: float(value) for name, value in re.findall(r"(\w+_chn_\d): ([\d.]+)", config)}
    assert "src_image_size_w: 224" in config and values["min_chn_2"] == 103.53
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3, 1).view(1, 3, 16, 16)
    mean, factor = (
        torch.tensor([values[f"{key}_{i}"] for i in range(3)]) for key in ("min_chn", "var_reci_chn")
    )
    found = (pixels - mean.view(1, 3, 1, 1)) * factor.view(1, 3, 1, 1)
    torch.testing.assert_close(found, normalizer()(pixels), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("does", "arguments", "code", "words"),
    [
        ("", SOC, 2, ("--batch N", "each size")),
        ("", BATCH, 2, ("--soc", "Ascend310P3", "npu-smi")),
        ("", (*BATCH, "--soc", "310P3; rm"), 2, ("310P3; rm", "Ascend310P3")),
        ("", (*BATCH, "--soc", "Ascend950PR_9579"), 2, ("AIPP", "--input tensor")),
        ("", (*BATCH, *SOC, "--opset", 18), 2, ("--opset 18", "13, 11")),
        ("", (*BATCH, *SOC, "-o", "m.onnx"), 2, ("m.onnx", "-o m.om")),
        ("", (*BATCH, *SOC, "-o", "no/m.om"), 2, ("no",)),
        ("", (*SOC, "--format", "onnx", "-o", "m.onnx"), 2, ("--soc and --opset", "om only")),
        (
            "echo E10001: Value; exit 255",
            (*BATCH, *SOC),
            1,
            ("exit code 255", "E10001: Value", "--soc_version"),
        ),
        ("echo something; exit 0", (*BATCH, *SOC), 1, ("exit code 0", "something", "Nothing was written")),
        ("#!", (*BATCH, *SOC), 1, ("cannot run", "atc")),
    ],
)
def test_bad_request_and_failing_atc_write_nothing(
    command: Command,
    weights: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    does: str,
    arguments: tuple[object, ...],
    code: int,
    words: tuple[str, ...],
) -> None:
    if does:
        atc = program(tmp_path_factory.mktemp("bin") / "atc", does)
        if does == "#!":
            atc.write_text("#!/nowhere/sh\n")
        monkeypatch.setenv("PATH", f"{atc.parent}:{os.environ['PATH']}")
    outcome = command("export", weights, "-o", "m.om", *OPTIONS, *arguments)
    assert outcome.code == code and "Traceback" not in outcome.err
    assert all(word in outcome.err for word in words), outcome.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["m.onnx", "m.aipp.cfg"])
def test_files_of_another_export_stay(command: Command, weights: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    outcome = command("export", weights, "-o", "m.om", *OPTIONS, *BATCH, *SOC)
    assert outcome.code == 2 and f"{name} is of another export" in outcome.err
    assert (tmp_path / name).read_text() == "mine"


def test_om_is_refused_where_only_a_device_runs_it(
    command: Command, weights: Path, tmp_path: Path, toolkit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ASCEND_TOOLKIT_HOME", str(toolkit))
    assert command("export", weights, "-o", "m.om", *OPTIONS, *BATCH, *SOC).code == 0
    for arguments in (
        ("predict", "m.om", "."),
        ("evaluate", "m.om", "--data", "demo"),
        ("export", "m.om", "-o", "n.onnx"),
    ):
        outcome = command(*arguments)
        assert outcome.code == 2 and "Ascend" in outcome.err, outcome.err
    outcome = command("export", "verify", "m.om", "--data", "demo")
    assert outcome.code == 2 and "ais_bench" in outcome.err and "verify m.onnx --data demo" in outcome.err
    with pytest.raises(UsageError, match="export_om"):
        export(open_model(weights, arch="x0_5"), tmp_path / "n.om", format="om", input_kind="image", batch=1)  # type: ignore[arg-type]


def test_operator_outside_the_list_is_refused(weights: Path) -> None:
    model = open_model(weights, arch="x0_5")
    with pytest.raises(UserError, match="Split"):
        om.check_operators(onnx_bytes(model, input_kind="tensor", batch=1))


@pytest.mark.parametrize(
    ("board", "soc"),
    [
        ("Chip ID : 0\nChip Type : Ascend\nChip Name : 910B4\n", "Ascend910B4"),
        ("NPU Name : 9392\nChip ID : 0\nChip Name : Ascend910\n", "Ascend910_9392"),
        ("NPU Name : 9579\nChip Name : Ascend950PR\n", "Ascend950PR_9579"),
        ("Chip Name : mcu\n", None),
        ("", None),
    ],
)
def test_name_of_the_chip_from_npu_smi(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, board: str, soc: str | None
) -> None:
    texts = f"[ $2 = -l ] && echo 'NPU ID : 5' || [ $5 = 5 ] && printf {shlex.quote(board)}"
    program(tmp_path / "npu-smi", texts if board else "exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert chip_of_this_machine() == soc

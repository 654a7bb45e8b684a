"""Export to OM, the format of Ascend's offline inference, which CANN's compiler ``atc`` makes from ONNX.

Read in CANN's documents and sources, and not tried on a chip: the options of ``atc`` and the file for AIPP
(hicann/ge at ffdcbc9, docs/zh/user_guides/atc_tools), and the list in ``cann_operators.txt``.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from shufflenet_fn.data.paths import printable
from shufflenet_fn.doctor.ascend import HOMES, SET_ENV, cann_version, installations
from shufflenet_fn.use.export import Exported, describe, onnx_bytes, write_export
from shufflenet_fn.use.model import MEAN, STD, Model
from shufflenet_fn.use.onnx_graph import LOGITS, OPSET, import_onnx
from shufflenet_fn_backends.known_errors import explain
from shufflenet_fn_backends.runtimes.npu.chip import chip_of_this_machine
from shufflenet_fn_backends.support.errors import DeviceError, UsageError, UserError

OPSETS: Final = (OPSET, 11)

_EXAMPLES: Final = "Ascend310P3, Ascend910B3 or, on Atlas A3, Ascend910_9391"

# atc refuses paths with other characters than letters, digits, "_", "-" and ".", so it works in a folder with
# plain names. It may add the host's system to the name of the OM.
_ONNX, _AIPP, _OM = "model.onnx", "aipp.cfg", "model*.om"
_ARGUMENTS: Final = (
    "--framework=5 --model=model.onnx --output=model --input_format=NCHW "
    "--input_shape=images:{batch},3,{size},{size} --soc_version={soc} --output_type=FP32 --log=error"
)

# mean_chn of AIPP takes integers, so the mean is in min_chn, which is subtracted as well.
_AIPP_HEAD: Final = (
    "aipp_op {{\n    aipp_mode: static\n    input_format: RGB888_U8\n    csc_switch: false\n"
    "    rbuv_swap_switch: false\n    src_image_size_w: {size}\n    src_image_size_h: {size}\n"
)


class OmPlan(NamedTuple):
    """An export to ``out``, from ``plan_om``. ``atc``: the compiler, ``None`` without CANN.

    ``input_kind``: ``"image"``: uint8 (N, size, size, 3), RGB, resized and cropped; AIPP normalises it.
    ``"tensor"``: float32 (N, 3, size, size), normalised.
    """

    out: Path
    input_kind: str
    batch: int
    soc: str
    opset: int
    atc: Path | None


def plan_om(
    out: Path, *, input_kind: str, batch: int | None, soc: str | None = None, opset: int | None = None
) -> OmPlan:
    """Check the options of an export. ``soc``, the chip, is by default that of this machine.

    Raises:
        UsageError: a value or combination is not allowed, or a file of another export would be replaced.
    """
    if opset is not None and opset not in OPSETS:
        raise UsageError(f"--opset {opset} is not valid. Choose one of: {', '.join(map(str, OPSETS))}.")
    if batch is None:
        raise UsageError(
            "--format om needs --batch N, because an OM is for one batch size: Ascend's ModelZoo reports "
            "that a dynamic batch does not convert well for this network. Export an OM for each size."
        )
    soc = soc or chip_of_this_machine()
    if soc is None:
        raise UsageError(
            f"--format om needs --soc, the chip that will run the OM: for example {_EXAMPLES}. npu-smi info "
            "shows its name on the machine with the chip; on this one it shows none."
        )
    if not re.fullmatch(r"Ascend\d\w*", soc, re.ASCII):
        raise UsageError(f"--soc {printable(soc)} is not valid: give a name such as {_EXAMPLES}.")
    # CANN 9.0's guide to ATC. The documents of 9.1 list AIPP for Ascend 950.
    if input_kind == "image" and soc.startswith("Ascend950"):
        raise UsageError(
            f"--input image needs AIPP, which CANN 9.0 does not have on {soc} (Atlas 350). Use --input "
            "tensor, and normalise images before."
        )
    atc, fix = find_atc(), "Remove it, or give -o another name."
    for file in (out.with_suffix(".onnx"), out.with_suffix(".aipp.cfg")):
        if file.exists() and not out.with_suffix(".atc.sh").exists():
            raise UsageError(f"{printable(file)} is of another export, and would be replaced. {fix}")
    if atc is None and out.exists():
        raise UsageError(f"{printable(out)} exists, and there is no atc here to replace it. {fix}")
    return OmPlan(out, input_kind, batch, soc, opset or OPSET, atc)


def find_atc() -> Path | None:
    """Return CANN's ``atc``: from PATH, the environment that CANN sets, or the usual places."""
    named = [Path(os.environ[name]) for name in HOMES if os.environ.get(name)]
    places = [str(home / "bin") for home in (*named, *installations())]
    found = shutil.which("atc", path=os.pathsep.join([os.environ.get("PATH", ""), *places]))
    return Path(found).absolute() if found else None


def export_om(model: Model, plan: OmPlan) -> Exported:
    """Write ``model`` as an OM, its description, and beside them what it is made from.

    The ONNX file (``.onnx``, input ``tensor``), the configuration of AIPP (``.aipp.cfg``) and a script that
    converts them (``.atc.sh``) have the stem of the OM. If ``atc`` fails, nothing is written.

    Raises:
        DeviceError: there is no ``atc``. The files to convert elsewhere are written.
        UserError: ``atc`` fails, or a file cannot be written.
    """
    out, batch, size = plan.out, plan.batch, model.size
    files = {_ONNX: out.with_suffix(".onnx")}
    beside = describe(model, format="onnx", input_kind="tensor", batch=batch)
    contents = {
        _ONNX: onnx_bytes(
            model, input_kind="tensor", batch=batch, metadata=beside, opset=plan.opset, gathers=True
        )
    }
    check_operators(contents[_ONNX])
    described = describe(model, format="om", input_kind=plan.input_kind, batch=batch)
    arguments = _ARGUMENTS.format(batch=batch, size=size, soc=plan.soc).split()
    if plan.input_kind == "image":
        files[_AIPP], contents[_AIPP] = out.with_suffix(".aipp.cfg"), aipp_config(size).encode()
        arguments.append(f"--insert_op_conf={_AIPP}")
        described["input"]["shape"] = [batch, size, size, 3]
        described["preprocessing"]["in_the_graph"] = "mean and std"
    described |= {"names": ["images", LOGITS], "soc": plan.soc, "opset": plan.opset, "atc": arguments}
    made = {}
    if plan.atc:
        described["versions"]["cann"] = cann_version({"ASCEND_HOME_PATH": str(plan.atc.parent.parent)})
        made[out] = _convert(plan.atc, arguments, contents)
    script = out.with_suffix(".atc.sh")
    sources = {file: contents[name] for name, file in files.items()}
    write_export(files[_ONNX], {**sources, script: _script(out, files, arguments)}, beside)
    exported = write_export(out, made, described)
    if plan.input_kind == "tensor":
        out.with_suffix(".aipp.cfg").unlink(missing_ok=True)  # of an earlier export, for images
    if plan.atc is None:
        raise DeviceError(
            f"atc is not here, so {printable(out)} was not made. On a machine with CANN's toolkit (no NPU is "
            f"needed) run: {SET_ENV}; sh {shlex.quote(printable(script))} "
            f"(written, with {', '.join(map(printable, sources))} beside it)."
        )
    return exported


def check_operators(content: bytes) -> None:
    """Raise ``UserError`` if an ONNX model has an operator that CANN does not list for its opset."""
    model = import_onnx().load_from_string(content)
    rows = (row.partition("#")[0].split() for row in _text("cann_operators.txt").splitlines())
    opset = model.opset_import[0].version
    listed = {row[0] for row in rows if row and int(row[1]) <= opset <= int(row[2])}
    other = sorted({node.op_type for node in model.graph.node} - listed)
    if other:
        raise UserError(f"CANN's list of ONNX operators has no {', '.join(other)} of opset {opset}.")


def aipp_config(size: int) -> str:
    """Return the configuration with which AIPP normalises RGB images of ``size`` as evaluation does."""
    values = {"min_chn": MEAN, "var_reci_chn": tuple(1 / value for value in STD)}
    lines = (f"    {name}_{i}: {values[name][i]:.10g}\n" for name in values for i in range(3))
    return _AIPP_HEAD.format(size=size) + "".join(lines) + "}\n"


def ais_bench(out: Path, batch: int) -> str:
    """Return the command that runs an OM on an Ascend device."""
    return f"python3 -m ais_bench --model {shlex.quote(printable(out))} --batchsize {batch} --loop 100"


def _script(out: Path, files: Mapping[str, Path], arguments: list[str]) -> bytes:
    copies = (f'cp "$here"/{shlex.quote(file.name)} "$work"/{name}' for name, file in files.items())
    text = _text("atc_script.txt").format(
        set_env=SET_ENV,
        onnx=shlex.quote(files[_ONNX].name),
        copies="\n    ".join(copies),
        arguments=shlex.join(arguments),
        om=shlex.quote(out.name),
    )
    return text.encode(errors="surrogateescape")


def _text(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _convert(atc: Path, arguments: list[str], contents: Mapping[str, bytes]) -> bytes:
    """Return the OM that ``atc`` makes from ``contents``."""
    command = [str(atc), *arguments]
    homes = (atc.parent.parent, atc.parent.parent.parent)
    set_env = next((home / "set_env.sh" for home in homes if (home / "set_env.sh").is_file()), None)
    if set_env and "ASCEND_OPP_PATH" not in os.environ:  # CANN's environment is not set in this shell
        command = ["bash", "-c", 'source "$0"; exec "$@"', str(set_env), *command]
    with tempfile.TemporaryDirectory(prefix="shufflenet-fn-") as folder:
        for name, content in contents.items():
            Path(folder, name).write_bytes(content)
        try:
            done = subprocess.run(
                command, cwd=folder, input="", capture_output=True, errors="replace", check=False
            )
        except OSError as error:
            raise UserError(f"cannot run {printable(atc)}: {error.strerror or error}.") from error
        made = sorted(Path(folder).glob(_OM))
        if done.returncode == 0 and made:
            return made[0].read_bytes()
    text = f"{done.stdout}\n{done.stderr}"
    said = "\n  ".join([line.rstrip() for line in text.splitlines() if line.strip(" .")][-30:])
    raise UserError(
        f"{printable(atc)} ended with exit code {done.returncode} and made no OM. Nothing was written. It "
        f"printed:\n  {said}\n{explain(text) or 'Its log is in ~/ascend/log/debug/plog.'}"
    )

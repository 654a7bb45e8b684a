"""Export to OM, the format of Ascend's offline inference, which CANN's compiler ``atc`` makes from ONNX.

Read in CANN's documents and sources, and not tried on a chip: the options of ``atc`` and the file for AIPP
(hicann/ge at ffdcbc9, docs/zh/user_guides/atc_tools), and the list of ONNX operators.
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
from shufflenet_fn.doctor.ascend import SET_ENV, cann_version
from shufflenet_fn.use.description import describe
from shufflenet_fn.use.export import Exported, onnx_bytes, write_export
from shufflenet_fn.use.model import MEAN, STD, Model
from shufflenet_fn.use.onnx_graph import LOGITS, OPSET, import_onnx
from shufflenet_fn_backends.known_errors import explain
from shufflenet_fn_backends.runtimes.npu.chip import chip_of_this_machine
from shufflenet_fn_backends.support.errors import DeviceError, UsageError, UserError

OPSETS: Final = (OPSET, 11)

# CANN 8.0 to 9.1, "Supported ONNX Operators" (hiascend.com, atlasoxol_09_*): these are listed for opsets 9 to
# 18 of ONNX 1.12. Split is listed for parts of more than one channel only, which routing does not keep to.
OPERATORS: Final = frozenset(
    ("Concat", "Conv", "Flatten", "Gather", "Gemm", "GlobalAveragePool", "MaxPool", "Relu")
)

_EXAMPLES: Final = "Ascend310P3, Ascend910B3 or, on Atlas A3, Ascend910_9391"
_PLACES: Final = ("/usr/local/Ascend/cann/bin", "/usr/local/Ascend/ascend-toolkit/latest/bin")

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

_SCRIPT: Final = """\
#!/bin/sh
# Converts the ONNX file beside this script to an OM. It needs CANN's toolkit, and no NPU. First run:
#   {set_env}
(
    set -e
    here=$(dirname -- "$0")
    [ -f "$here"/{onnx} ] || here=.
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    {copies}
    (cd "$work" && atc {arguments})
    mv -f "$work"/model*.om "$here"/{om}
)
"""


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
    atc, onnx_file = find_atc(), out.with_suffix(".onnx")
    other = onnx_file.exists() and not out.with_suffix(".atc.sh").exists()
    if other or (atc is None and out.exists()):
        why = (
            f"{printable(onnx_file)} is of another export"
            if other
            else f"{printable(out)} is there, but no atc"
        )
        raise UsageError(f"{why}, and would be replaced. Remove it, or give -o another name.")
    return OmPlan(out, input_kind, batch, soc, opset or OPSET, atc)


def find_atc() -> Path | None:
    """Return CANN's ``atc``: from PATH, ASCEND_TOOLKIT_HOME, or the usual places."""
    toolkit = os.environ.get("ASCEND_TOOLKIT_HOME")
    places = (os.environ.get("PATH", ""), *([f"{toolkit}/bin"] if toolkit else ()), *_PLACES)
    found = shutil.which("atc", path=os.pathsep.join(places))
    return Path(found) if found else None


def export_om(model: Model, plan: OmPlan) -> Exported:
    """Write ``model`` as an OM, its description, and beside them what it is made from.

    The ONNX file (``.onnx``, input ``tensor``), the configuration of AIPP (``.aipp.cfg``) and a script that
    converts them (``.atc.sh``) have the stem of the OM. If ``atc`` fails, nothing is written.

    Raises:
        DeviceError: there is no ``atc``. The files to convert elsewhere are written.
        UserError: ``atc`` fails, or a file cannot be written.
    """
    out, batch, size = plan.out, plan.batch, model.size
    onnx_file, script = out.with_suffix(".onnx"), out.with_suffix(".atc.sh")
    beside = describe(model, format="onnx", input_kind="tensor", batch=batch)
    content = onnx_bytes(
        model, input_kind="tensor", batch=batch, metadata=beside, opset=plan.opset, gathers=True
    )
    check_operators(content)
    described = describe(model, format="om", input_kind=plan.input_kind, batch=batch)
    arguments = _ARGUMENTS.format(batch=batch, size=size, soc=plan.soc).split()
    sources = {_ONNX: (onnx_file, content)}
    if plan.input_kind == "image":
        arguments.append(f"--insert_op_conf={_AIPP}")
        sources[_AIPP] = out.with_suffix(".aipp.cfg"), aipp_config(size).encode()
        described["input"]["shape"] = [batch, size, size, 3]
        described["preprocessing"]["in_the_graph"] = "mean and std"
    described |= {"names": ["images", LOGITS], "soc": plan.soc, "opset": plan.opset, "atc": arguments}
    made = {}
    if plan.atc:
        described["versions"]["cann"] = cann_version({"ASCEND_HOME_PATH": str(plan.atc.parent.parent)})
        made[out] = _convert(plan.atc, arguments, {name: item for name, (_, item) in sources.items()})
    commands = _script(out, {name: file for name, (file, _) in sources.items()}, arguments)
    write_export(onnx_file, {**dict(sources.values()), script: commands}, beside)
    exported = write_export(out, made, described)
    if plan.atc is None:
        raise DeviceError(
            f"atc is not here, so {printable(out)} was not made. On a machine with CANN's toolkit (no NPU is "
            f"needed) run: {SET_ENV}; sh {shlex.quote(printable(script))} "
            f"(written, with {', '.join(printable(file) for file, _ in sources.values())} beside it)."
        )
    return exported


def check_operators(content: bytes) -> None:
    """Raise ``UserError`` if an ONNX model has an operator that is not in CANN's list."""
    other = {node.op_type for node in import_onnx().load_from_string(content).graph.node} - OPERATORS
    if other:
        raise UserError(f"these ONNX operators were not found in CANN's list: {', '.join(sorted(other))}.")


def aipp_config(size: int) -> str:
    """Return the configuration with which AIPP normalises RGB images of ``size`` as evaluation does."""
    values = {"min_chn": MEAN, "var_reci_chn": tuple(1 / value for value in STD)}
    lines = (f"    {name}_{i}: {values[name][i]:.10g}\n" for name in values for i in range(3))
    return _AIPP_HEAD.format(size=size) + "".join(lines) + "}\n"


def ais_bench(out: Path, batch: int) -> str:
    """Return the command that runs an OM on an Ascend device."""
    return f"python3 -m ais_bench --model {shlex.quote(printable(out))} --batchsize {batch} --loop 100"


def _script(out: Path, sources: Mapping[str, Path], arguments: list[str]) -> bytes:
    text = _SCRIPT.format(
        set_env=SET_ENV,
        onnx=shlex.quote(sources[_ONNX].name),
        copies="\n    ".join(f'cp "$here"/{shlex.quote(sources[n].name)} "$work"/{n}' for n in sources),
        arguments=shlex.join(arguments),
        om=shlex.quote(out.name),
    )
    return text.encode(errors="surrogateescape")


def _convert(atc: Path, arguments: list[str], sources: Mapping[str, bytes]) -> bytes:
    """Return the OM that ``atc`` makes from ``sources``."""
    command = [str(atc), *arguments]
    homes = (atc.parent.parent, atc.parent.parent.parent)
    set_env = next((home / "set_env.sh" for home in homes if (home / "set_env.sh").is_file()), None)
    if set_env and "ASCEND_OPP_PATH" not in os.environ:  # CANN's environment is not set in this shell
        command = ["bash", "-c", 'source "$0"; exec "$@"', str(set_env), *command]
    with tempfile.TemporaryDirectory(prefix="shufflenet-fn-") as folder:
        for name, content in sources.items():
            Path(folder, name).write_bytes(content)
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                errors="replace",
                check=False,
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

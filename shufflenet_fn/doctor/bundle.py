"""An archive with measurements, versions and logs of a machine, to be sent back for analysis."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import platform
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from shufflenet_fn.distributed.network import addresses
from shufflenet_fn.doctor.examine import examine, last_line
from shufflenet_fn.doctor.finding import FAILED, OK, SKIPPED, DoctorSettings, Finding, Report, Stage
from shufflenet_fn.doctor.scrub import private_here, scrub, scrub_values
from shufflenet_fn.io import explained, replace_file, to_json
from shufflenet_fn_backends.known_errors import explain
from shufflenet_fn_backends.support.errors import UsageError
from shufflenet_fn_backends.support.subprocesses import Outcome, run_module

Say = Callable[[str], None]

_PACKAGES: Final = (
    *("shufflenet-fn", "torch", "torch_npu", "torchvision", "numpy", "safetensors"),
    *("opencv-python-headless", "simplejpeg", "pillow"),
)
_STEPS_S, _BENCH_S = 600.0, 1800.0
"""Time limits of a process. The first use of each operator may compile it, which takes minutes."""

_LOG_LIMIT: Final = 200_000
"""Number of characters to keep from the end of a process's output."""


class Sizes(NamedTuple):
    """Sizes of the measurements. ``precisions``: those of steps and benchmark, in order."""

    arch: str
    image_size: int
    batch: int
    steps: int
    bench_batches: str
    rounds: int
    precisions: tuple[str, ...]


ON_DEVICE: Final = Sizes("x1_0", 224, 64, 5, "64,256", 5, ("fp32", "O2"))
SMALL: Final = Sizes("x0_5", 32, 8, 3, "2", 3, ("fp32",))
"""Sizes on a CPU and on the emulator, whose times are not meaningful."""


class Bundle(NamedTuple):
    """The archive that was written, and its report."""

    path: Path
    size: int
    report: Report
    seconds: float


class _Work(NamedTuple):
    """What the parts work with.

    ``command``: the module of ``shufflenet-fn``. ``steps``, ``bench`` and ``kernels``: the figures of these
    JSON files, which the parts fill, like ``log``.
    """

    command: str
    scratch: Path
    kind: str
    sizes: Sizes
    say: Say
    steps: dict[str, Any]
    bench: dict[str, Any]
    kernels: dict[str, Any]
    log: list[str]


def check_target(path: Path) -> None:
    """Raise ``UsageError`` unless the archive ``path`` can be written as a new file."""
    folder = path.parent
    if path.exists() or path.is_symlink():
        what = "is a folder" if path.is_dir() else "exists already"
        wrong = f" {what}, and nothing is overwritten. Remove it, or name another file."
    elif not folder.is_dir():
        wrong = f": there is no folder {folder}. Make it (mkdir -p {folder}), or name a file in another one."
    elif not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
        wrong = f": the folder {folder} is not writable. Name a file in another one."
    else:
        return
    raise UsageError(f"--bundle {path}{wrong}")


def make_bundle(path: Path, settings: DoctorSettings, *, command: str, say: Say) -> Bundle:
    """Run the doctor's stages, train a few steps, run ``bench step``, and write the results to ``path``.

    Failures are recorded, and the next part runs.

    Args:
        path: the archive, a new file. It is written completely or not at all.
        settings: settings of the doctor.
        command: the module of ``shufflenet-fn`` for ``python -m``.
        say: called with a line before and after each part.

    Raises:
        UsageError: ``path`` cannot be a new file, or a setting is not valid.
        UserError: the archive cannot be written.
    """
    path = path.expanduser()
    check_target(path)
    began = time.perf_counter()
    log: list[str] = []

    def note(text: str) -> None:
        log.append(f"[{time.perf_counter() - began:.1f} s] {text}")
        say(text)

    note("1 of 3: the doctor's stages")
    report = examine(
        settings, lambda stage: say(f"{stage.name}: {stage.finding.status} after {stage.seconds:.1f} s")
    )
    log.extend(map(_line, report.stages))
    facts = {name: finding for name, finding, _ in report.stages}
    devices, cann = facts["devices"], facts["cann"].details
    kind = str(devices.details.get("kind", ""))
    with tempfile.TemporaryDirectory(prefix="shufflenet-fn-bundle-") as scratch:
        sizes = SMALL if kind == "cpu" or cann.get("emulator") else ON_DEVICE
        work = _Work(command, Path(scratch), kind, sizes, note, {}, {}, {}, log)
        for number, (name, part, limit) in enumerate(
            (("steps", _steps, _STEPS_S), ("bench", _bench, _BENCH_S)), 2
        ):
            note(f"{number} of 3: {name}; each start may take {limit:.0f} s")
            start = time.perf_counter()
            finding = _guarded(part, work) if kind else Finding(SKIPPED, f"needs a device: {devices.text}")
            stage = Stage(name, finding, time.perf_counter() - start)
            for figures in (work.steps,) if name == "steps" else (work.bench, work.kernels):
                if not figures:
                    figures["missing"] = finding.text
            log.append(_line(stage))
            say(f"{name}: {finding.status} after {stage.seconds:.0f} s: {finding.text}")
            report = Report((*report.stages, stage))
        private = private_here(scratch, settings.output, path.parent)
    # Without importing torch, which may fail.
    versions: dict[str, Any] = {
        "packages": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "device": devices.details,
        "cann": cann.get("version"),
        "driver": cann.get("driver"),
        "emulated": bool(cann.get("emulator")),
    }
    # A version may have four numbers and look like an address. It is kept, unless this machine has that one.
    named = {*versions["packages"].values(), versions["cann"], versions["driver"]}
    kept = {text for text in named if text} - set(addresses())
    objects = {
        "doctor.json": report.as_json(),
        "versions.json": versions,
        "steps.json": work.steps,
        "bench.json": work.bench,
        "kernels.json": work.kernels,
    }
    readme = Path(__file__).with_name("bundle_readme.txt").read_text(encoding="utf-8")
    texts = {"README.txt": readme} | {
        name: to_json(scrub_values(value, private, versions=kept), indent=2) + "\n"
        for name, value in objects.items()
    }
    texts["log.txt"] = scrub("\n".join(log) + "\n", private, versions=kept)
    size = write_archive(path, texts)
    return Bundle(path, size, report, time.perf_counter() - began)


def write_archive(path: Path, texts: Mapping[str, str]) -> int:
    """Write ``texts`` as the zip archive ``path``, completely or not at all. Return its size in bytes.

    Raises:
        UserError: it cannot be written.
    """
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in texts.items():
            archive.writestr(name, text)
    data = packed.getvalue()
    with explained(f"write {path}", "Free some space, or name another file with --bundle."):
        replace_file(path, data)
    return len(data)


def _guarded(part: Callable[[_Work], Finding], work: _Work) -> Finding:
    try:
        return part(work)
    except Exception as error:  # record any error in the archive
        work.log.append(traceback.format_exc())
        return Finding(FAILED, f"{type(error).__name__}: {error}", "Report this.")


def _steps(work: _Work) -> Finding:
    """Train on the device in each precision, and in float32 on the CPU with the same seed."""
    from shufflenet_fn.data.demo import write_demo

    kind, sizes = work.kind, work.sizes
    per_class = -(-sizes.batch * sizes.steps // 10)
    data = write_demo(work.scratch / "demo", train_per_class=per_class, val_per_class=1)
    runs = [(kind, precision) for precision in sizes.precisions]
    runs += [("cpu", "fp32")] if kind != "cpu" else []
    failed = []
    for device, precision in runs:
        name = f"{device} {precision}"
        work.say(f"training {sizes.steps} steps: {name}")
        folder = work.scratch / name.replace(" ", "-")
        arguments = [
            *("train", "--data", str(data), "--arch", sizes.arch, "--device", device),
            *("--image-size", str(sizes.image_size), "--batch-size", str(sizes.batch)),
            *("--precision", precision, "--max-steps", str(sizes.steps), "--print-freq", "1"),
            *("--lr", "0.01", "--epochs", "1", "--run-dir", str(folder)),
        ]
        outcome, seconds, wrong = _run(work, arguments, _STEPS_S)
        metrics = folder / "metrics.jsonl"
        lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []
        taken = [record for record in map(json.loads, lines) if record.get("kind") == "train"]
        losses = [record["loss"] for record in taken]
        if wrong is None and not (taken and all(isinstance(loss, float) for loss in losses)):
            wrong = "no loss, or one that is not finite"
        work.steps[name] = {
            "ending": outcome.ending,
            "seconds": seconds,
            "losses": losses,
            "times": [record["times"] for record in taken],
        }
        if wrong is not None:
            work.steps[name]["failed"] = wrong
            failed.append(f"{name}: {wrong}")
    work.steps["recipe"] = sizes._asdict()
    if failed:
        return _failed(failed)
    ours, cpu = work.steps[f"{kind} fp32"]["losses"][0], work.steps["cpu fp32"]["losses"][0]
    difference = abs(ours - cpu) / abs(cpu)
    against = "" if kind == "cpu" else f"; first loss {difference:.1e} off the CPU's"
    text = f"{sizes.steps} steps of {sizes.arch} on {kind}, {', '.join(sizes.precisions)}{against}"
    return Finding(OK, text, details={"first_loss_difference": difference})


def _bench(work: _Work) -> Finding:
    """Run ``bench step`` in each precision, with a profile for the shares of kernels."""
    kind, sizes = work.kind, work.sizes
    failed = []
    for precision in sizes.precisions:
        work.say(f"bench step: {kind} {precision}, batch {sizes.bench_batches}")
        arguments = [
            *("bench", "step", "--device", kind, "--arch", sizes.arch, "--json"),
            *("--image-size", str(sizes.image_size), "--batch-size", sizes.bench_batches),
            *("--precision", precision, "--rounds", str(sizes.rounds), "--no-compile"),
        ]
        if kind != "cpu":
            arguments += ["--profile", str(work.scratch / "profile")]
        if sizes is SMALL:
            arguments += ["--steps", "1", "--threads", "1"]
        outcome, seconds, wrong = _run(work, arguments, _BENCH_S)
        if wrong is not None:
            failed.append(f"{precision}: {wrong}")
            work.bench[precision] = {"failed": wrong, "seconds": seconds}
            work.kernels[precision] = {"missing": f"bench step failed: {wrong}"}
            continue
        # Libraries, such as a profiler, may print before the result.
        result = json.loads(outcome.out.strip().splitlines()[-1])
        work.bench[precision] = {"seconds": seconds, **result}
        work.kernels[precision] = _kernels(result)
    if failed:
        return _failed(failed)
    return Finding(OK, f"bench step on {kind}, {sizes.arch}, batch {sizes.bench_batches}")


def _kernels(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table of each candidate by batch size, without its folder, which no longer exists."""
    return {
        f"batch {one['batch_size']}": {
            name: {key: value for key, value in table.items() if key != "folder"}
            for name, table in one["kernels"].items()
        }
        if one.get("kernels")
        else {"missing": "no profile is taken on a CPU"}
        for one in result.get("results", [result])
    }


def _run(work: _Work, arguments: list[str], limit: float) -> tuple[Outcome, float, str | None]:
    """Run a command of shufflenet-fn. Return how it ended, its seconds, and what went wrong."""
    start = time.perf_counter()
    outcome = run_module(work.command, arguments, timeout_s=limit)
    seconds = time.perf_counter() - start
    # The archive has a separate file for the result of a benchmark.
    said = [outcome.err] if "--json" in arguments else [outcome.out, outcome.err]
    work.log.append(f"$ shufflenet-fn {' '.join(arguments)}")
    work.log.extend(text[-_LOG_LIMIT:] for text in said if text)
    work.log.append(f"{outcome.ending}, after {seconds:.1f} s")
    if outcome.code == 0:
        return outcome, seconds, None
    return outcome, seconds, f"{outcome.ending}{last_line(outcome.err)}"


def _failed(failed: list[str]) -> Finding:
    text = "; ".join(failed)
    known = explain(text)
    return Finding(FAILED, text, str(known) if known else "log.txt in the archive says more.")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _line(stage: Stage) -> str:
    name, finding, seconds = stage
    fix = f" FIX: {finding.fix}" if finding.fix else ""
    return f"{name}: {finding.status} ({seconds:.1f} s): {finding.text}{fix}"

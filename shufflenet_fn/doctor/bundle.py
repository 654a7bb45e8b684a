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
from shufflenet_fn.doctor.examine import examine
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


class _Parts(NamedTuple):
    """Parts of the archive under construction: the figures of the JSON files, and the log."""

    steps: dict[str, Any]
    bench: dict[str, Any]
    kernels: dict[str, Any]
    log: list[str]


def check_target(path: Path) -> None:
    """Raise ``UsageError`` unless the archive ``path`` can be written as a new file."""
    if path.exists() or path.is_symlink():
        what = "is a folder" if path.is_dir() else "exists already"
        raise UsageError(
            f"--bundle {path} {what}, and nothing is overwritten. Remove it, or name another file."
        )
    if not path.parent.is_dir():
        raise UsageError(
            f"--bundle {path}: there is no folder {path.parent}. Make it (mkdir -p {path.parent}), or "
            "name a file in another one."
        )
    if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
        raise UsageError(
            f"--bundle {path}: the folder {path.parent} is not writable. Name a file in another one."
        )


def make_bundle(
    path: Path, settings: DoctorSettings, *, command: str, say: Say, on_stage: Callable[[Stage], None]
) -> Bundle:
    """Run the doctor's stages, train a few steps, run ``bench step``, and write the results to ``path``.

    Failures are recorded, and the next part runs.

    Args:
        path: the archive, a new file. It is written completely or not at all.
        settings: settings of the doctor.
        command: the module of ``shufflenet-fn`` for ``python -m``.
        say: called with a line before and after each part.
        on_stage: called after each of the doctor's stages.

    Raises:
        UsageError: ``path`` cannot be a new file, or a setting is not valid.
        UserError: the archive cannot be written.
    """
    path = path.expanduser()
    check_target(path)
    began = time.perf_counter()
    parts = _Parts({}, {}, {}, [])

    def log(text: str) -> None:
        parts.log.append(f"[{time.perf_counter() - began:.1f} s] {text}")
        say(text)

    log("1 of 3: the doctor's stages")
    report = examine(settings, on_stage)
    parts.log.extend(_line(stage) for stage in report.stages)
    facts = {name: finding for name, finding, _ in report.stages}
    with tempfile.TemporaryDirectory(prefix="shufflenet-fn-bundle-") as scratch:
        for number, (name, part, limit) in enumerate(
            (("steps", _steps, _STEPS_S), ("bench", _bench, _BENCH_S)), 2
        ):
            log(f"{number} of 3: {name}; each start may take {limit:.0f} s")
            start = time.perf_counter()
            finding = _guarded(part, facts, Path(scratch), command, parts, log)
            stage = Stage(name, finding, time.perf_counter() - start)
            for figures in (parts.steps,) if name == "steps" else (parts.bench, parts.kernels):
                if not figures:
                    figures["missing"] = finding.text
            parts.log.append(_line(stage))
            say(f"{name}: {finding.status} after {stage.seconds:.0f} s: {finding.text}")
            report = Report((*report.stages, stage))
        private = private_here(scratch, settings.output, path.parent)
    versions = _versions(facts)
    kept = _versions_of_four(versions)
    objects = {
        "doctor.json": report.as_json(),
        "versions.json": versions,
        "steps.json": parts.steps,
        "bench.json": parts.bench,
        "kernels.json": parts.kernels,
    }
    readme = Path(__file__).with_name("bundle_readme.txt").read_text(encoding="utf-8")
    texts = {"README.txt": readme} | {
        name: to_json(scrub_values(value, private, versions=kept), indent=2) + "\n"
        for name, value in objects.items()
    }
    texts["log.txt"] = scrub("\n".join(parts.log) + "\n", private, versions=kept)
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


def _guarded(
    part: Callable[..., Finding],
    facts: Mapping[str, Finding],
    scratch: Path,
    command: str,
    parts: _Parts,
    say: Say,
) -> Finding:
    devices = facts["devices"]
    if "kind" not in devices.details:
        return Finding(SKIPPED, f"needs a device: {devices.text}")
    try:
        return part(facts, scratch, command, parts, say)
    except Exception as error:  # record any error in the archive
        parts.log.append(traceback.format_exc())
        return Finding(FAILED, f"{type(error).__name__}: {error}", "Report this.")


def _sizes(facts: Mapping[str, Finding]) -> Sizes:
    small = facts["devices"].details["kind"] == "cpu" or facts["cann"].details.get("emulator")
    return SMALL if small else ON_DEVICE


def _steps(facts: Mapping[str, Finding], scratch: Path, command: str, parts: _Parts, say: Say) -> Finding:
    """Train on the device in each precision, and in float32 on the CPU with the same seed."""
    from shufflenet_fn.data.demo import write_demo

    kind, sizes = str(facts["devices"].details["kind"]), _sizes(facts)
    data = write_demo(scratch / "demo", train_per_class=-(-sizes.batch * sizes.steps // 10), val_per_class=1)
    runs = [(kind, precision) for precision in sizes.precisions]
    runs += [("cpu", "fp32")] if kind != "cpu" else []
    failed = []
    for device, precision in runs:
        name = f"{device} {precision}"
        say(f"training {sizes.steps} steps: {name}")
        folder = scratch / name.replace(" ", "-")
        arguments = [
            *("train", "--data", str(data), "--arch", sizes.arch, "--device", device),
            *("--image-size", str(sizes.image_size), "--batch-size", str(sizes.batch)),
            *("--precision", precision, "--max-steps", str(sizes.steps), "--print-freq", "1"),
            *("--lr", "0.01", "--epochs", "1", "--run-dir", str(folder)),
        ]
        outcome, seconds, wrong = _run(command, arguments, _STEPS_S, parts)
        metrics = folder / "metrics.jsonl"
        lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []
        records = [json.loads(line) for line in lines if line]
        taken = [record for record in records if record.get("kind") == "train"]
        losses = [record["loss"] for record in taken]
        found: dict[str, Any] = {
            "ending": outcome.ending,
            "seconds": seconds,
            "losses": losses,
            "times": [record["times"] for record in taken],
        }
        if wrong is None and not (taken and all(isinstance(loss, float) for loss in losses)):
            wrong = "no loss, or one that is not finite"
        if wrong is not None:
            found["failed"] = wrong
            failed.append(f"{name}: {wrong}")
        parts.steps[name] = found
    parts.steps["recipe"] = sizes._asdict()
    if failed:
        return _failed(failed)
    ours, cpu = parts.steps[f"{kind} fp32"]["losses"], parts.steps["cpu fp32"]["losses"]
    difference = max(abs(a - b) / abs(b) for a, b in zip(ours[:1], cpu[:1], strict=True))
    against = "" if kind == "cpu" else f"; first loss {difference:.1e} off the CPU's"
    text = f"{sizes.steps} steps of {sizes.arch} on {kind}, {', '.join(sizes.precisions)}{against}"
    return Finding(OK, text, details={"first_loss_difference": difference})


def _bench(facts: Mapping[str, Finding], scratch: Path, command: str, parts: _Parts, say: Say) -> Finding:
    """Run ``bench step`` in each precision, with a profile for the shares of kernels."""
    kind, sizes = str(facts["devices"].details["kind"]), _sizes(facts)
    failed = []
    for precision in sizes.precisions:
        say(f"bench step: {kind} {precision}, batch {sizes.bench_batches}")
        arguments = [
            *("bench", "step", "--device", kind, "--arch", sizes.arch, "--json"),
            *("--image-size", str(sizes.image_size), "--batch-size", sizes.bench_batches),
            *("--precision", precision, "--rounds", str(sizes.rounds), "--no-compile"),
        ]
        if kind != "cpu":
            arguments += ["--profile", str(scratch / "profile")]
        if sizes is SMALL:
            arguments += ["--steps", "1", "--threads", "1"]
        outcome, seconds, wrong = _run(command, arguments, _BENCH_S, parts)
        if wrong is not None:
            failed.append(f"{precision}: {wrong}")
            parts.bench[precision] = {"failed": wrong, "seconds": seconds}
            parts.kernels[precision] = {"missing": f"bench step failed: {wrong}"}
            continue
        # Libraries, such as a profiler, may print before the result.
        result = json.loads(outcome.out.strip().splitlines()[-1])
        parts.bench[precision] = {"seconds": seconds, **result}
        parts.kernels[precision] = _kernels(result)
    if failed:
        return _failed(failed)
    return Finding(OK, f"bench step on {kind}, {sizes.arch}, batch {sizes.bench_batches}")


def _kernels(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the table of each candidate by batch size, without its folder, which no longer exists."""
    found = {}
    for one in result.get("results", [result]):
        tables = one.get("kernels") or {"missing": "no profile is taken on a CPU"}
        found[f"batch {one['batch_size']}"] = {
            name: {key: value for key, value in table.items() if key != "folder"}
            if isinstance(table, dict)
            else table
            for name, table in tables.items()
        }
    return found


def _run(
    command: str, arguments: list[str], limit: float, parts: _Parts
) -> tuple[Outcome, float, str | None]:
    """Run a command of shufflenet-fn. Return how it ended, its seconds, and what went wrong."""
    start = time.perf_counter()
    outcome = run_module(command, arguments, timeout_s=limit)
    seconds = time.perf_counter() - start
    # The archive has a separate file for the result of a benchmark.
    said = [outcome.err] if "--json" in arguments else [outcome.out, outcome.err]
    parts.log.append(f"$ shufflenet-fn {' '.join(arguments)}")
    parts.log.extend(text[-_LOG_LIMIT:] for text in said if text)
    parts.log.append(f"{outcome.ending}, after {seconds:.1f} s")
    if outcome.code == 0:
        return outcome, seconds, None
    lines = [line.strip() for line in outcome.err.splitlines() if line.strip()]
    return outcome, seconds, f"{outcome.ending}{': ' + lines[-1][:300] if lines else ''}"


def _failed(failed: list[str]) -> Finding:
    text = "; ".join(failed)
    known = explain(text)
    return Finding(FAILED, text, str(known) if known else "log.txt in the archive says more.")


def _versions(facts: Mapping[str, Finding]) -> dict[str, Any]:
    """Return versions of software and machine, without importing torch, which may fail."""
    cann = facts["cann"].details
    return {
        "packages": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "device": facts["devices"].details,
        "cann": cann.get("version"),
        "driver": cann.get("driver"),
        "emulated": bool(cann.get("emulator")),
    }


def _versions_of_four(versions: Mapping[str, Any]) -> frozenset[str]:
    """Return versions with four numbers, which look like IP addresses, except this machine's addresses."""
    found = {*versions["packages"].values(), versions["cann"], versions["driver"]}
    return frozenset(text for text in found if text) - set(addresses())


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _line(stage: Stage) -> str:
    name, finding, seconds = stage
    fix = f" FIX: {finding.fix}" if finding.fix else ""
    return f"{name}: {finding.status} ({seconds:.1f} s): {finding.text}{fix}"

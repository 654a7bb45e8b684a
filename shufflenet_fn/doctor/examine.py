"""Runs the stages in order, each in a separate process: a crash or a hang of one does not stop the next."""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from shufflenet_fn.config.options import check_options
from shufflenet_fn.doctor.finding import FAILED, OK, SKIPPED, WARNING, DoctorSettings, Finding, Report, Stage
from shufflenet_fn_backends.known_errors import explain
from shufflenet_fn_backends.runtimes.npu.probe import AUTOLOAD
from shufflenet_fn_backends.support.errors import UserError
from shufflenet_fn_backends.support.limits import limit_reached
from shufflenet_fn_backends.support.subprocesses import Outcome, run_module

Facts = dict[str, Any]

# The module of each stage, in order: a name instead of an import, because a stage also tests its imports. Its
# function has the stage's name.
STAGES: Final[Mapping[str, str]] = {
    "python": "packages",
    "glibc": "ascend",
    "torch": "packages",
    "torchvision": "packages",
    "namesakes": "packages",
    "torch_npu": "ascend",
    "cann": "ascend",
    "versions": "ascend",
    "numpy": "ascend",
    "device files": "ascend",
    "user": "ascend",
    "folder": "ascend",
    "network": "ascend",
    "variables": "ascend",
    "devices": "compute",
    "kernel": "compute",
    "collective": "compute",
    "loader": "compute",
    "disk": "packages",
    "autoload": "ascend",
}
ORDER: Final = tuple(name for name in STAGES if name != "autoload")
"""The stages that are reported. ``autoload`` adds to the finding of ``torch_npu``."""

_NEEDS_TORCH = ("torchvision", "torch_npu", "devices", "kernel", "collective", "loader")
_NEEDS_TORCH_NPU = tuple(ORDER[ORDER.index("versions") : ORDER.index("devices")])
_NEEDS_DEVICE = ("kernel", "collective")


def examine(settings: DoctorSettings, on_stage: Callable[[Stage], None] = lambda stage: None) -> Report:
    """Run all stages, and call ``on_stage`` after each. Raises ``UsageError`` if a setting is not valid."""
    check_options(settings)
    facts: Facts = {"device": settings.device, "output": settings.output}
    stages = []
    for name in ORDER:
        start = time.perf_counter()
        finding = _needless(name, facts) or run_stage(name, facts, timeout_s=settings.timeout)
        if name == "torch_npu" and finding.status != SKIPPED:
            finding = _with_autoload(finding, facts, settings.timeout)
        stage = Stage(name, finding, time.perf_counter() - start)
        facts[name] = {"status": finding.status, **finding.details}
        on_stage(stage)
        stages.append(stage)
    return Report(tuple(stages))


def run_stage(name: str, facts: Facts, *, timeout_s: float, autoload: bool = False) -> Finding:
    """Run one stage in a separate process. A crash, an exception or a hang counts as failed."""
    outcome = run_module(
        "shufflenet_fn.doctor.examine",
        [name, json.dumps(facts)],
        timeout_s=timeout_s,
        environment={**os.environ, AUTOLOAD: "1" if autoload else "0"},
    )
    for line in outcome.out.splitlines():
        if line.startswith(MARK):
            found = Finding(**json.loads(line.removeprefix(MARK)))
            # A process that reported success and then crashed has failed.
            valid = outcome.code == 0 or found.status == FAILED
            return found if valid else _crashed(outcome, timeout_s)
    return _crashed(outcome, timeout_s)


def _crashed(outcome: Outcome, timeout_s: float) -> Finding:
    known, said = explain(outcome.text), last_line(outcome.err)
    if outcome.code is None:
        fix = str(known) if known else "Give it longer with --timeout, or look at that."
        return Finding(FAILED, f"hung: it did not end within {timeout_s:g} s{said}", fix)
    fix = str(known) if known else "Not a text that is known here; report it with the whole output."
    return Finding(FAILED, f"{outcome.ending}{said}", fix, {"output": outcome.text[-4000:]})


def last_line(text: str) -> str:
    """Return the last line that is not empty, after a colon; empty if there is none."""
    lines = text.strip().splitlines()
    return f": {lines[-1].strip()[:300]}" if lines else ""


def _needless(name: str, facts: Facts) -> Finding | None:
    """Return why a stage cannot or need not run after earlier findings, or ``None``."""
    if name in _NEEDS_TORCH and facts["torch"]["status"] == FAILED:
        return Finding(SKIPPED, "needs torch")
    # Without its version, torch_npu is not installed.
    if name in _NEEDS_TORCH_NPU and "version" not in facts["torch_npu"]:
        return Finding(SKIPPED, "needed with torch_npu only")
    if name in _NEEDS_DEVICE and facts["devices"]["status"] == FAILED:
        return Finding(SKIPPED, f"needs a device {facts['device']}")
    if name == "collective" and facts["kernel"]["status"] == FAILED:
        return Finding(SKIPPED, "needs a device that computes")
    return None


def _with_autoload(finding: Finding, facts: Facts, timeout_s: float) -> Finding:
    """Add to ``finding`` whether a plain ``import torch`` works, which loads torch_npu by itself."""
    plain = run_stage("autoload", facts, timeout_s=timeout_s, autoload=True)
    if plain.status == OK:
        return finding
    hint = (
        f"A plain `import torch` fails as well, since it loads torch_npu by itself: {AUTOLOAD}=0 keeps it "
        "from that (shufflenet-fn sets it for itself)."
    )
    status = FAILED if finding.status == FAILED else WARNING
    text = finding.text if finding.status == FAILED else f"{finding.text}; {plain.text}"
    return finding._replace(status=status, text=text, fix=f"{finding.fix} {hint}".strip())


MARK: Final = "shufflenet-fn finding: "


def main() -> None:
    name, facts = sys.argv[1], json.loads(sys.argv[2])
    try:
        module = importlib.import_module(f"shufflenet_fn.doctor.{STAGES[name]}")
        finding: Finding = getattr(module, name.replace(" ", "_"))(facts)
    except Exception as error:
        told = limit_reached(error) or error
        if not isinstance(told, UserError):
            raise
        finding = Finding(FAILED, str(told))
    print(f"\n{MARK}{json.dumps(finding._asdict())}", flush=True)


if __name__ == "__main__":
    main()

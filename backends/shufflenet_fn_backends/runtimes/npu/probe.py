"""Detection of NPUs in a child process, because importing torch_npu can abort the process."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from shufflenet_fn_backends.known_errors import explain
from shufflenet_fn_backends.runtimes.npu.environment import installed
from shufflenet_fn_backends.runtimes.npu.pairs import CPU_WHEELS, PAIRS
from shufflenet_fn_backends.support.subprocesses import Outcome, run_module

TIMEOUT_S = 120.0
_MARK = "shufflenet-fn probe: "
AUTOLOAD = "TORCH_DEVICE_BACKEND_AUTOLOAD"
"""torch's variable that decides whether ``import torch`` imports torch_npu. On unless 0."""


class Found(NamedTuple):
    """``devices`` NPUs named ``soc``. If there are none, ``problem`` says why and what to do."""

    devices: int
    soc: str
    problem: str | None
    torch: str | None = None
    torch_npu: str | None = None
    cann: str | None = None


@functools.cache
def probe() -> Found:
    """Return the NPUs of this machine. The result is cached, because detection takes seconds."""
    return look()


def look(timeout_s: float = TIMEOUT_S) -> Found:
    """Detect the NPUs of this machine, without the cache of ``probe``."""
    versions = installed("torch"), installed("torch_npu")
    if importlib.util.find_spec("torch_npu") is None:
        return _none(not_installed(versions[0]), versions)
    wrong_pair = check_pair(*versions)
    if wrong_pair:
        return _none(wrong_pair, versions)
    outcome = run_module(__name__, timeout_s=timeout_s, environment={**os.environ, AUTOLOAD: "0"})
    facts = read_facts(outcome)
    count = int(facts.get("count", 0))
    if outcome.code == 0 and count and "soc" in facts:
        return Found(count, str(facts["soc"]), None, *versions, facts.get("cann"))
    if outcome.code == 0:
        return _none(no_device(), versions)
    return _none(explain_failure(outcome, facts), versions)


def read_facts(outcome: Outcome) -> dict[str, Any]:
    """Return the facts that the child reported before it ended."""
    facts: dict[str, Any] = {}
    for line in outcome.out.splitlines():
        if line.startswith(_MARK):
            facts.update(json.loads(line.removeprefix(_MARK)))
    return facts


def not_installed(torch_version: str | None) -> str:
    """Return the message for a machine without torch_npu."""
    minor = _minor(torch_version)
    row = next((pair for pair in PAIRS if _minor(pair.torch) == minor), None)
    wanted = f"torch_npu=={row.torch_npu}" if row else f"'torch_npu=={minor or '2.13'}.*'"
    listed = f" (for CANN {row.cann})" if row else ""
    return (
        "the package torch_npu is not installed. Install the one of torch's own minor version, beside a "
        f"build of torch without CUDA: pip install {wanted}{listed}; docs/ascend.md has the pairs "
        "that go together"
    )


def check_pair(torch_version: str | None, npu_version: str | None) -> str | None:
    """Return the message for incompatible versions; ``None`` if they are compatible or unknown."""
    ours, theirs = _minor(torch_version), _minor(npu_version)
    if ours is None or theirs is None or ours == theirs:
        return None
    return (
        f"torch_npu {npu_version} is for torch {theirs}, but torch {torch_version} is installed. Each "
        f"torch_npu works with one minor version of torch alone: pip install 'torch=={theirs}.*' "
        f"--index-url {CPU_WHEELS}, or pip install 'torch_npu=={ours}.*'"
    )


def no_device() -> str:
    """Return the message for a machine whose torch_npu loads but finds no NPU."""
    visible = os.environ.get("ASCEND_RT_VISIBLE_DEVICES")
    if visible is not None:
        return (
            f"torch_npu finds no NPU with ASCEND_RT_VISIBLE_DEVICES={visible}. Unset it, or name devices "
            "that npu-smi info lists"
        )
    if not any(Path("/dev").glob("davinci[0-9]*")):
        return (
            "torch_npu loads, but this machine has no NPU: there is no /dev/davinci0. On a host, install the "
            "driver and see npu-smi info; in a container, pass --device /dev/davinci0, /dev/davinci_manager, "
            "/dev/devmm_svm and /dev/hisi_hdc"
        )
    return (
        "torch_npu finds no NPU, though /dev has some. See npu-smi info: they may be taken by another "
        "container, or this user may not be in the driver's group (HwHiAiUser)"
    )


def explain_failure(outcome: Outcome, facts: dict[str, Any]) -> str:
    """Return the message for a child that crashed, hung or raised. ``facts`` show how far it got."""
    if "torch" not in facts:
        return f"import torch {outcome.ending}: {_last_line(outcome.err)}"
    known = explain(outcome.text)
    if known is not None:
        return f"{known.meaning} ({known.key}). {known.fix}"
    if facts.get("cuda") and "torch_npu" not in facts:
        return (
            f"torch {facts['torch']} is a build for CUDA (or ROCm), beside which torch_npu does not work: "
            f"importing it {outcome.ending}. Install torch's CPU build: pip install "
            f"'torch=={_minor(facts['torch'])}.*' --index-url {CPU_WHEELS}"
        )
    doing = "looking for devices with" if "torch_npu" in facts else "importing"
    return (
        f"{doing} torch_npu {outcome.ending}: {_last_line(outcome.err)}. Check that CANN's set_env.sh was "
        "sourced before Python was started, and that driver, CANN and torch_npu go together"
    )


def _none(problem: str, versions: tuple[str | None, str | None]) -> Found:
    return Found(0, "", problem, *versions)


def _minor(text: str | None) -> str | None:
    found = re.match(r"\d+\.\d+", text or "")
    return found.group() if found else None


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def _say(**facts: Any) -> None:
    print(_MARK + json.dumps(facts), flush=True)


def _child() -> None:
    """Import torch_npu and query the devices. Print a line after each step, to show where a crash was."""
    import torch

    _say(torch=torch.__version__, cuda=torch.version.cuda or torch.version.hip)
    torch_npu: Any = importlib.import_module("torch_npu")
    _say(torch_npu=torch_npu.__version__)
    npu: Any = getattr(torch, "npu")  # noqa: B009  torch_npu adds it; no type checker knows it
    count = int(npu.device_count())
    _say(count=count)
    if count:
        _say(soc=npu.get_device_name(0))
        _say(cann=cann_version(npu))


def cann_version(npu: Any) -> str | None:
    """Return CANN's version as torch_npu reports it; ``None`` if it is unknown."""
    try:
        return str(npu.utils.get_cann_version()) or None
    except (AttributeError, RuntimeError):
        return None


if __name__ == "__main__":
    _child()

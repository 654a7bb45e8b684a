"""Choose the backend of a run: as requested, as measured, by an estimate, or the device's default.

Results of ``bench step --keep`` are stored in the user's cache, one small JSON file per case. A case contains
everything that the time of a step depends on; a result is used only for exactly the same case.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

import torch

from shufflenet_fn.io import explained, replace_file, to_json
from shufflenet_fn.run.directory import version_of
from shufflenet_fn.training.precision import get_policy
from shufflenet_fn_backends.names import STATS_IN_STEP
from shufflenet_fn_backends.registry import get_backend, select_backend
from shufflenet_fn_backends.runtimes.base import Runtime
from shufflenet_fn_backends.runtimes.npu.environment import emulated
from shufflenet_fn_backends.support.compiler import cache_root
from shufflenet_fn_backends.support.errors import DeviceError, UserError

FORMAT: Final = 1
_PRECISIONS: Final = ("fp32", "bf16", "O1", "O2", "O3")
_NOT_USED: Final = "not used. `shufflenet-fn bench step --keep` measures again"


class StepCase(NamedTuple):
    """What the time of a training step depends on.

    ``emulated``: whether the device is an emulated one. ``versions``: of the software, by name.
    ``batch_per_card``: images that a card computes at a time (of one microbatch).
    """

    device: str
    chip: str
    emulated: bool
    versions: Mapping[str, str | None]
    arch: str
    precision: str
    batch_per_card: int
    image_size: int


class Choice(NamedTuple):
    """``name`` of a backend, ``reason`` and further ``notes`` for the run's log.

    ``running_stats``: what a measurement found faster for ``--running-stats``; ``auto`` where none did.
    """

    name: str
    reason: str
    notes: tuple[str, ...] = ()
    running_stats: str = "auto"


class Kept(NamedTuple):
    """A kept result. ``candidate``: our fastest candidate, which computes with ``backend``.

    ``step_ms``: milliseconds of a step, for each of our candidates.
    """

    candidate: str
    backend: str
    step_ms: Mapping[str, float]


def step_case(
    runtime: Runtime, *, arch: str, precision: str, batch_per_card: int, image_size: int
) -> StepCase:
    """Return the case of this machine's devices."""
    policy = get_policy(precision)
    return StepCase(
        device=runtime.name,
        chip=runtime.chip(),
        emulated=runtime.name == "npu" and emulated(),
        versions={"shufflenet-fn": version_of("shufflenet-fn"), **runtime.versions()},
        arch=arch,
        precision=next((name for name in _PRECISIONS if get_policy(name) == policy), precision),
        batch_per_card=batch_per_card,
        image_size=image_size,
    )


def keep(case: StepCase, kept: Kept) -> Path:
    """Store a result. It replaces an earlier one of the same case.

    Raises:
        UserError: the cache folder cannot be written.
    """
    path = _path(case)
    text = to_json(
        {
            "format": FORMAT,
            "case": case._asdict(),
            "contender": kept.candidate,
            "backend": kept.backend,
            "step_ms": dict(kept.step_ms),
        },
        indent=2,
    )
    fix = "Set XDG_CACHE_HOME to a writable folder, or leave out --keep."
    with explained(f"keep the result in {path}", fix):
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, f"{text}\n".encode())
    return path


def measured(case: StepCase) -> tuple[Choice | None, tuple[str, ...]]:
    """Return what the kept result of exactly this case chooses; a note if it cannot be used."""
    try:
        path = _path(case)
    except DeviceError:  # no folder for caches, so nothing can have been kept
        return None, ()
    if not path.exists():
        return None, ()
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
        if (read["format"], read["case"]) != (FORMAT, {**case._asdict(), "versions": dict(case.versions)}):
            raise ValueError("it is of another format or case than its name says")
        backend, step_ms = read["backend"], sorted(read["step_ms"].items(), key=lambda pair: pair[1])
        times = ", ".join(f"{name} {ms:.4g} ms" for name, ms in step_ms)
        running_stats = "step" if read["contender"].endswith(STATS_IN_STEP) else "auto"
        get_backend(backend)
    except UserError as error:
        return None, (f"kept measurement {path} is not used: {error}",)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return None, (f"kept measurement {path} is damaged ({error}): {_NOT_USED}",)
    reason = f"backend {backend}: auto, the fastest of the kept measurement {path} ({times} a step)"
    return Choice(backend, reason, running_stats=running_stats), ()


def _path(case: StepCase) -> Path:
    versions = "-".join(f"{name}-{version}" for name, version in case.versions.items())
    return cache_root() / "bench-step" / f"{_name(case)}-{_plain(versions)}.json"


def _name(case: StepCase) -> str:
    place = "emulated" if case.emulated else case.device
    size = f"batch-{case.batch_per_card}-image-{case.image_size}"
    return _plain(f"{place}-{case.chip}-{case.arch}-{case.precision}-{size}")


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text)


class Work(NamedTuple):
    """The modelled work of a step on one card (``ascend_emulator.kernel_model``): bytes at 224 pixels."""

    kernels: int
    fixed_bytes: int
    bytes_per_image: int


KERNEL_S: Final = 8e-6
"""A guess, not measured: seconds that one kernel costs whatever it moves (launch, start, end)."""
BYTES_PER_S: Final = 1.0e12
"""A guess, not measured: memory bandwidth that kernels reach on an Atlas A2, published as 1.6e12."""

_SIDE: Final = 224
_ROWS: Final = (  # architecture, width, fixed bytes, then kernels and bytes per image of gather and of npu
    ("x0_5", "fp32", 111723272, (1065, 135335817), (1210, 130989321)),
    ("x0_5", "half", 157041704, (1145, 76772233), (1290, 74598985)),
    ("x1_0", "fp32", 217477368, (1049, 259913417), (1208, 249409385)),
    ("x1_0", "half", 272541984, (1127, 138291929), (1286, 133039913)),
    ("x1_5", "fp32", 314555144, (1026, 361930633), (1187, 345993481)),
    ("x1_5", "half", 424395816, (1106, 190069641), (1267, 182101065)),
    ("x2_0", "fp32", 719091960, (1036, 491542217), (1203, 469447529)),
    ("x2_0", "half", 891627808, (1114, 254106329), (1281, 243058985)),
)
WORK: Final = {
    (f"shufflenet_v2_{arch}", width): {
        "gather": Work(gather[0], fixed, gather[1]),
        "npu": Work(npu[0], fixed, npu[1]),
    }
    for arch, width, fixed, gather, npu in _ROWS
}
"""By architecture and width of the convolutions; half is O2 with a loss scale."""


def least_cost(case: StepCase) -> tuple[str, str] | None:
    """Return the backend with the lowest estimated cost and the reason, or ``None`` for an unknown case."""
    width = "half" if get_policy(case.precision).compute_dtype != torch.float32 else "fp32"
    work = WORK.get((case.arch, width))
    if work is None:
        return None
    area = (case.image_size / _SIDE) ** 2
    costs = {name: cost(one, case.batch_per_card, area) for name, one in work.items()}
    name = min(costs, key=lambda name: costs[name])
    told = ", ".join(f"{other} {1e3 * seconds:.3g} ms" for other, seconds in costs.items())
    return name, (
        f"backend {name}: auto, the least estimated cost of a step at {case.batch_per_card} images a card "
        f"({told}; kernels from CANN's sources, their time guessed, nothing measured). `shufflenet-fn bench "
        "step --device npu --keep` measures"
    )


def cost(work: Work, images: int, area: float) -> float:
    """Return the estimated seconds: a cost per kernel and a cost per byte."""
    nbytes = work.fixed_bytes + work.bytes_per_image * images * area
    return work.kernels * KERNEL_S + nbytes / BYTES_PER_S


def choose_backend(asked: str, case: StepCase, *, compiled: bool, resumed: bool) -> Choice:
    """Resolve ``--backend`` for a run.

    In this order: the backend ``asked`` for by name; except on a CPU, the fastest one in a kept result of
    ``bench step`` for exactly this ``case``; on npu, the lowest estimated cost (``least_cost``); the one
    that ``select_backend`` chooses for the device. ``bench step`` keeps no result for a ``compiled`` step,
    and a ``resumed`` run keeps the backend of its start (``pin_backend``).

    Raises:
        UsageError, DeviceError: as ``select_backend``.
    """
    notes: tuple[str, ...] = ()
    if asked == "auto" and case.device != "cpu" and not compiled and not resumed:
        choice, notes = measured(case)
        if choice is not None:
            return choice
        if case.device == "npu" and (estimated := least_cost(case)) is not None:
            return Choice(*estimated, notes)
    selection = select_backend(asked, case.device, compiled=compiled)
    return Choice(selection.backend.name, selection.reason, notes)

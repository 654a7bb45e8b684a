"""Choose the backend of a run: as requested, as measured, by an estimate, or the device's default.

Results of ``bench step --keep`` are stored in the user's cache, one small JSON file per case. A case contains
everything that the time of a step depends on; a result is used only for exactly the same case.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import torch

from shufflenet_fn.io import explained, replace_file, to_json
from shufflenet_fn.run.directory import version_of
from shufflenet_fn.training.precision import get_policy
from shufflenet_fn_backends.names import BACKEND_NAMES, STATS_IN_STEP
from shufflenet_fn_backends.registry import get_backend, select_backend
from shufflenet_fn_backends.runtimes.base import Runtime
from shufflenet_fn_backends.runtimes.npu.environment import emulated
from shufflenet_fn_backends.support.compiler import cache_root
from shufflenet_fn_backends.support.errors import DeviceError

FORMAT: Final = 1
_PRECISIONS: Final = ("fp32", "bf16", "O1", "O2", "O3")
_OTHER: Final = "not used. `shufflenet-fn bench step --keep` measures again"


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


class Kept(NamedTuple):
    """A kept result. ``candidate``: our fastest candidate, which computes with ``backend``.

    ``step_ms``: milliseconds of a step, for each of our candidates.
    """

    candidate: str
    backend: str
    step_ms: Mapping[str, float]


class Found(NamedTuple):
    """``kept``: the result of exactly this case, in ``path``. ``notes``: about results that are not used."""

    kept: Kept | None
    path: Path | None
    notes: tuple[str, ...]


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


def look_up(case: StepCase) -> Found:
    """Return the kept result of this case. A damaged one, or one of other versions, is only mentioned."""
    try:
        path = _path(case)
    except DeviceError:  # no folder for caches, so nothing can have been kept
        return Found(None, None, ())
    if not path.exists():
        others = sorted(path.parent.glob(f"{_name(case)}-*.json"))
        return Found(None, None, _of_other_versions(others, case))
    try:
        read = _read(path)
        if read["case"] != {**case._asdict(), "versions": dict(case.versions)}:
            raise ValueError("it is of another case than its name says")
        kept = _kept(read)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Found(None, None, (f"kept measurement {path} is damaged ({error}): {_OTHER}",))
    return Found(kept, path, ())


def _kept(read: Mapping[str, Any]) -> Kept:
    kept = Kept(read["contender"], read["backend"], dict(read["step_ms"]))
    if kept.backend not in BACKEND_NAMES or kept.backend == "cpu":
        raise ValueError(f"there is no backend {kept.backend!r} for it")
    if not all(isinstance(ms, (int, float)) and ms > 0 for ms in kept.step_ms.values()):
        raise ValueError("step_ms does not hold times")
    if kept.candidate not in kept.step_ms:
        raise ValueError(f"step_ms does not hold {kept.candidate!r}")
    return kept


def _read(path: Path) -> dict[str, Any]:
    read = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(read, dict):
        raise ValueError("it is not a JSON object")
    if read.get("format") != FORMAT:
        raise ValueError(f"its format is {read.get('format')!r}, this version reads {FORMAT}")
    return read


def _of_other_versions(paths: list[Path], case: StepCase) -> tuple[str, ...]:
    """One line about the kept results of this case that other versions measured."""
    for path in reversed(paths):
        try:
            versions = dict(_read(path)["case"]["versions"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
        names = [name for name in case.versions if versions.get(name) != case.versions[name]]
        theirs = ", ".join(f"{name} {versions.get(name)}" for name in names)
        ours = ", ".join(f"{name} {case.versions[name]}" for name in names)
        return (f"kept measurement {path} is of {theirs}, and this is {ours}: {_OTHER}",)
    return ()


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
    """The work of a step on one card: kernels, and bytes that they move at 224 pixels.

    Modelled (``ascend_emulator.kernel_model``), with running statistics updated by the kernels.
    """

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
WORK: Final[Mapping[tuple[str, str], Mapping[str, Work]]] = MappingProxyType(
    {
        (f"shufflenet_v2_{arch}", width): {
            name: Work(kernels, fixed, per_image)
            for name, (kernels, per_image) in (("gather", gather), ("npu", npu))
        }
        for arch, width, fixed, gather, npu in _ROWS
    }
)
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


class Choice(NamedTuple):
    """``name`` of a backend, ``reason`` and further ``notes`` for the run's log.

    ``running_stats``: what a measurement found faster for ``--running-stats``; ``auto`` where none did.
    """

    name: str
    reason: str
    notes: tuple[str, ...] = ()
    running_stats: str = "auto"


def choose_backend(asked: str, case: StepCase, *, compiled: bool, resumed: bool) -> Choice:
    """Resolve ``--backend`` for a run.

    In this order: the backend ``asked`` for by name; except on a CPU, the fastest one in a kept result of
    ``bench step`` for exactly this ``case``; on npu, the lowest estimated cost (``least_cost``); the one
    that ``select_backend`` chooses for the device.

    Args:
        asked: a name, or ``auto``.
        case: device, chip, versions, architecture, precision, images a card and their size.
        compiled: whether torch compiles the step, for which ``bench step`` keeps no result.
        resumed: whether the run resumes, and so keeps the backend of its start (``resume.pin_backend``).

    Raises:
        UsageError, DeviceError: as ``select_backend``.
    """
    notes: tuple[str, ...] = ()
    if asked == "auto" and case.device != "cpu" and not compiled and not resumed:
        found = look_up(case)
        notes = found.notes
        if found.kept is not None:
            try:
                return _measured(found.kept, found)
            except DeviceError as error:
                notes = (f"kept measurement {found.path} is not used: {error}",)
        if case.device == "npu":
            estimated = least_cost(case)
            if estimated is not None:
                return Choice(*estimated, notes)
    selection = select_backend(asked, case.device, compiled=compiled)
    return Choice(selection.backend.name, selection.reason, notes)


def _measured(kept: Kept, found: Found) -> Choice:
    """Raises ``DeviceError`` if the backend cannot be had here."""
    get_backend(kept.backend)
    times = ", ".join(
        f"{name} {ms:.4g} ms" for name, ms in sorted(kept.step_ms.items(), key=lambda pair: pair[1])
    )
    return Choice(
        kept.backend,
        f"backend {kept.backend}: auto, the fastest of the kept measurement {found.path} ({times} a step)",
        running_stats="step" if kept.candidate.endswith(STATS_IN_STEP) else "auto",
    )

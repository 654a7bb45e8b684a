"""Results of ``bench step`` that were kept, for ``train --backend auto`` to follow.

One small JSON file for each case, in the user's cache. The case says all that a step's time depends on; a
result is followed only where every part of it is the same.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from shufflenet_fn.run.directory import version_of
from shufflenet_fn.training.precision import get_policy
from shufflenet_fn_backends.names import BACKEND_NAMES
from shufflenet_fn_backends.runtimes.base import Runtime
from shufflenet_fn_backends.runtimes.npu.emulated import emulated
from shufflenet_fn_backends.support.cache import cache_root
from shufflenet_fn_backends.support.errors import DeviceError, UserError

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
    """A kept result. ``contender``: the fastest of ours, which computes with ``backend``.

    ``step_ms``: milliseconds of a step, by contender of ours.
    """

    contender: str
    backend: str
    step_ms: Mapping[str, float]


class Found(NamedTuple):
    """``kept``: the result of exactly this case, in ``path``. ``notes``: on what is there and not used."""

    kept: Kept | None
    path: Path | None
    notes: tuple[str, ...]


def step_case(
    runtime: Runtime, *, arch: str, precision: str, batch_per_card: int, image_size: int
) -> StepCase:
    """The case on this machine's devices; a precision by whatever name it was given."""
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
    """Write a result, in place of an earlier one of the same case.

    Raises:
        UserError: the folder of caches cannot be written.
    """
    path = _path(case)
    text = json.dumps({"format": FORMAT, "case": case._asdict(), **kept._asdict()}, indent=2)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=path.parent, delete=False
        ) as aside:
            aside.write(text + "\n")
        os.replace(aside.name, path)
    except OSError as error:
        raise UserError(
            f"cannot keep the result in {path}: {error.strerror or error}. Set XDG_CACHE_HOME to a writable "
            "folder, or leave out --keep."
        ) from error
    return path


def look_up(case: StepCase) -> Found:
    """The kept result of this case; a damaged one, or one of other versions, is only named."""
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
    if kept.contender not in kept.step_ms:
        raise ValueError(f"step_ms does not hold {kept.contender!r}")
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

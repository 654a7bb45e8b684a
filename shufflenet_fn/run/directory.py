"""The run directory: only one run at a time writes to it, and a resume rewinds it to a checkpoint.

Rank 0 creates it. ``config.json`` holds every setting with its source, ``env.json`` the software and the
machine, ``log.txt`` the log, ``metrics.jsonl`` the same events for programs, ``results.json`` the results.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib.metadata
import json
import os
import platform
import re
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from shufflenet_fn.checkpoint.format import REPLACED, epochs_done, step_of
from shufflenet_fn.checkpoint.inventory import (
    BEST,
    checkpoints,
    checkpoints_of,
    lies_in,
    links,
    point_to,
    pointed_to,
    tidy,
)
from shufflenet_fn.checkpoint.read import Content
from shufflenet_fn.config.resolve import Resolved
from shufflenet_fn.io import Disk, explained, parse_json, read_regular, replace_file, to_json
from shufflenet_fn.model.config import PREFIX
from shufflenet_fn_backends.support.errors import UsageError, UserError

CONFIG: Final = "config.json"
LOG: Final = "log.txt"
METRICS: Final = "metrics.jsonl"
RESULTS: Final = "results.json"
LOCK: Final = "run.lock"
_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_PACKAGES: Final = ("shufflenet-fn", "torch", "torchvision", "torch_npu", "numpy", "safetensors")


def create_run_dir(resolved: Resolved) -> Path:
    """Create the run directory: ``--run-dir``, or the next free ``OUTPUT/ARCH-NNN``.

    Raises:
        UsageError: it holds another run, or cannot be made or written.
    """
    settings = resolved.settings
    where = settings.run_dir or settings.output
    with explained(
        f"write the run directory {where}", "Choose a writable --run-dir (or --output).", UsageError
    ):
        if settings.run_dir is not None:
            path = Path(settings.run_dir)
            path.mkdir(parents=True, exist_ok=True)
            if (path / CONFIG).exists() and not checkpoints(checkpoints_of(path)):
                raise UsageError(
                    f"in the run directory {path} is a run without a checkpoint yet. If it has ended, start "
                    "it again there with --resume auto; or choose another --run-dir."
                )
            if not all(map(_left_by_a_killed_start, path.iterdir())):
                raise UsageError(
                    f"the run directory {path} is not empty. Choose another --run-dir, or go on with "
                    f"what is in it by --resume {path}."
                )
        else:
            path = _next_free(Path(settings.output), settings.arch)
        (path / "checkpoints").mkdir(exist_ok=True)
    return path


def _left_by_a_killed_start(entry: Path) -> bool:
    """Return whether ``entry`` is what a start leaves that is killed before it has written its settings."""
    if entry.name == "checkpoints" and entry.is_dir():
        return not any(entry.iterdir())
    return entry.name in (LOCK, f".{CONFIG}.partial")


def check_links(run_dir: Path) -> None:
    """Check that no link in ``run_dir`` leads out of it, so that no file elsewhere is written.

    Raises:
        UserError: a symbolic link does.
    """
    inside = run_dir.resolve()
    for entry in sorted(run_dir.iterdir()):
        if entry.is_symlink() and not entry.resolve().is_relative_to(inside):
            raise UserError(
                f"{entry} is a symbolic link that leads out of the run directory, to {entry.resolve()}, "
                "where nothing is to be written. Remove it; to keep a run on another disk, link the "
                "whole run directory."
            )


def write_description(path: Path, resolved: Resolved, argv: Sequence[str]) -> None:
    """Write ``config.json`` and ``env.json``."""
    config = {
        "command": list(argv),
        "preset": resolved.preset,
        "settings": dataclasses.asdict(resolved.settings),
        "origin": resolved.origin,
    }
    fix = "Free some space, or choose another --run-dir."
    with explained(f"write in the run directory {path}", fix):
        replace_file(path / CONFIG, f"{to_json(config, indent=2)}\n".encode())
        replace_file(path / "env.json", f"{to_json(environment(), indent=2)}\n".encode())


def environment() -> dict[str, Any]:
    """Return software versions and the machine, for bug reports and for comparing runs."""
    return {
        "python": sys.version.split()[0],
        "packages": {name: version_of(name) for name in _PACKAGES},
        "system": platform.platform(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "processor": processor(),
    }


def runs_in(output: Path, arch: str) -> list[tuple[int, Path]]:
    """Return number and path of the entries ``ARCH-NNN`` of ``output``, the last first."""
    pattern = re.compile(re.escape(arch.removeprefix(PREFIX)) + r"-(\d+)")
    entries = output.iterdir() if output.is_dir() else ()
    numbered = [(int(match[1]), entry) for entry in entries if (match := pattern.fullmatch(entry.name))]
    return sorted(numbered, reverse=True)


def _next_free(output: Path, arch: str) -> Path:
    output.mkdir(parents=True, exist_ok=True)
    number = max((number for number, _ in runs_in(output, arch)), default=0) + 1
    while True:
        path = output / f"{arch.removeprefix(PREFIX)}-{number:03d}"
        try:
            path.mkdir()
        except FileExistsError:  # another run has taken the number in the meantime
            number += 1
        else:
            return path


def version_of(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


# -------------------------------------------------------------------------------------- the lock


class RunInUse(UserError):
    """A live run holds the run directory."""


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[str | None]:
    """Hold the lock of ``run_dir`` during the body; gives a warning where the file system has no locks.

    The kernel releases the lock when its holder ends, however it ends, so the file that stays is no obstacle.
    On NFS it holds between machines as far as the server keeps locks (NFS 4, or 3 with lockd); where it does
    not, nothing is locked, and the warning says so.

    Raises:
        RunInUse: another process holds it; the message says which.
        UserError: the directory cannot be written.
    """
    from filelock import FileLock, Timeout

    path, warning = run_dir / LOCK, None
    lock = FileLock(path, timeout=0)
    try:
        run_dir.stat()  # the lock would make the folders that are missing
        try:
            lock.acquire()
        except Timeout:
            raise RunInUse(_in_use(run_dir, path)) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            warning = (
                f"{run_dir} is on a file system without locks ({error.strerror}): make sure yourself that "
                "no other run writes in it."
            )
        note = {"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()}
        Disk().write(path, to_json(note).encode())
    except OSError as error:
        lock.release()
        raise UserError(
            f"cannot write in the run directory {run_dir}: {error.strerror or error}. Free some space or "
            "make it writable, or choose another --run-dir."
        ) from error
    try:
        yield warning
    finally:
        # A file system that has gone bad must not hide how the run ended.
        with contextlib.suppress(OSError):
            lock.release()


def _in_use(run_dir: Path, lock: Path) -> str:
    who = "another run"
    # A holder has not yet said who it is right after it has taken the lock.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        holder = parse_json(read_regular(lock, limit=4096))
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder["started"]))
        who = f"process {holder['pid']} on {holder['host']}, since {when}"
    return (
        f"the run directory {run_dir} is in use by {who}. Wait for it, or stop it (kill -TERM lets it save), "
        "or choose another --run-dir."
    )


# --------------------------------------------------------------------- back to a checkpoint


def rewind_to(content: Content | None, run_dir: Path) -> tuple[Content | None, list[str]]:
    """Rewind ``run_dir`` to a checkpoint, or to the beginning without one. The caller must hold the lock.

    Checkpoints of later steps, abandoned or damaged, are renamed to ``superseded-…``. ``metrics.jsonl`` is
    truncated to what an uninterrupted run would have written by then. ``log.txt`` is kept, because it may say
    why the run ended, and a line in it marks what is superseded. Partial files of a killed process are
    removed. Returns the checkpoint with its new path, and notes on what was set aside.

    Raises:
        UserError: the disk is full or not writable. What was there is still there.
    """
    if content is None:
        return None, _rewind(run_dir, 0, 0.0, 1)
    checkpoint, manifest = content.path, content.manifest
    # As often as lines were written, which may be changed from here on.
    print_freq = manifest["settings"].get("print_freq", 1)
    folder = checkpoints_of(run_dir)
    # Of the same step as one that was set aside before, there may be one of the branch that is left now.
    is_own = lies_in(folder, checkpoint)
    is_aside = is_own and step_of(checkpoint.name) is None
    epochs = epochs_done(manifest) or 0.0
    notes = _rewind(run_dir, manifest["step"], epochs, print_freq, same_step=not is_aside)
    if not checkpoint.exists():
        # It was being replaced when the process was killed, and has its own name again.
        checkpoint = checkpoint.with_name(checkpoint.name.removesuffix(REPLACED))
    best, scores = manifest["best"], manifest["scores"]
    if is_own and not is_aside and best and scores and best["epoch"] == manifest["epoch"]:
        # A process that was killed right after writing it may not have pointed to it.
        point_to(folder, BEST, checkpoint)
    return content._replace(path=checkpoint), notes


def _rewind(run_dir: Path, step: int, epochs: float, print_freq: int, *, same_step: bool = True) -> list[str]:
    """``epochs``: of ``step`` updates. ``same_step``: whether a checkpoint of ``step`` itself stays."""
    fix = "Free some space or make it writable, then give the same command again."
    with explained(f"bring the run directory {run_dir} back to {step} updates", fix):
        folder, disk = checkpoints_of(run_dir), Disk()
        tidy(folder, disk=disk)
        notes = []
        best = pointed_to(folder, BEST)
        # A link is no checkpoint, but it would be in the way of one.
        for checkpoint in (*checkpoints(folder), *links(folder)):
            number = step_of(checkpoint.name) or 0
            if number < step or (number == step and same_step):
                continue
            if checkpoint == best:
                disk.unlink(folder / f"{BEST}.json")
            aside = _free(folder, f"superseded-{checkpoint.name}")
            disk.rename(checkpoint, aside)
            of = "a later step" if number > step else "another branch"
            notes.append(f"{checkpoint.name} is of {of} and was renamed to {aside.name}")
        if notes:
            disk.flush(folder)
        metrics = run_dir / METRICS
        if metrics.exists():
            lines = metrics.read_bytes().decode(errors="replace").splitlines()
            kept = "".join(f"{line}\n" for line in _kept(lines, step, epochs, print_freq))
            replace_file(metrics, kept.encode(), disk=disk)
        _mark(run_dir / LOG, step)
        return notes


def _mark(log: Path, step: int) -> None:
    """Add a line to ``log``, if there is one, that says where the run continues."""
    if not log.exists() or not log.stat().st_size:
        return
    with open(log, "rb") as written:
        written.seek(-1, os.SEEK_END)
        # The last line of a run that was killed while writing it has no end.
        start = "" if written.read() == b"\n" else "\n"
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    with open(log, "a") as file:
        print(
            f"{start}===== {now}: going on after {step} updates. Later updates "
            "above were discarded; they are computed and logged again below. =====",
            file=file,
        )


def _kept(lines: list[str], step: int, epochs: float, print_freq: int) -> Iterator[str]:
    last = 0  # of an epoch's steps, as the start that wrote the lines counted
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:  # the last line of a run that was killed while writing it
            continue
        match record:
            case {"kind": "start", "steps_per_epoch": int(length)}:
                last, keep = length - 1, True
            case {"kind": "train", "step": int(number), "step_in_epoch": int(within)}:
                # Where a start ended it reported its last step, which no other would have.
                keep = number < step and (within % print_freq == 0 or within == last)
            case {"kind": "eval", "in_turn": False} | {"kind": "end"}:
                keep = False
            case {"kind": "epoch" | "eval", "epoch": int(epoch)}:
                keep = epoch + 1 <= epochs
            case {"kind": "checkpoint", "step": int(number)}:
                keep = number <= step
            case _:
                keep = isinstance(record, dict) and isinstance(record.get("kind"), str)
        if keep:
            yield line


def _free(folder: Path, name: str) -> Path:
    path, number = folder / name, 1
    while path.exists():
        number += 1
        path = folder / f"{name}-{number}"
    return path

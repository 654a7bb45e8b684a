"""The lock on a run directory: one run at a time writes in it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from shufflenet_fn_backends.support.errors import UserError

LOCK: Final = "run.lock"
_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


class RunInUse(UserError):
    """A live run holds the run directory."""


@contextlib.contextmanager
def held(run_dir: Path) -> Iterator[str | None]:
    """Hold the lock of ``run_dir`` during the body; gives a warning where the file system has no locks.

    The kernel gives the lock back when its holder ends, however it ends, so a file that a killed run left
    is no obstacle. On NFS it holds between machines as far as the server keeps locks (NFS 4, or 3 with
    lockd); where it does not, nothing is locked, and that is said.

    Raises:
        RunInUse: another process holds it; the message says which.
        UserError: the directory cannot be written.
    """
    path = run_dir / LOCK
    try:
        file, warning = _acquire(path)
    except OSError as error:
        raise UserError(
            f"cannot write in the run directory {run_dir}: {error.strerror or error}. Free some space or "
            "make it writable, or choose another --run-dir."
        ) from error
    try:
        yield warning
    finally:
        # A file system that has gone bad must not hide how the run ended. A lock file left is no obstacle.
        with contextlib.suppress(OSError):
            if _is_still(path, file):
                path.unlink()  # while it is held: nobody else can have taken it yet
        with contextlib.suppress(OSError):
            os.close(file)


def _acquire(path: Path) -> tuple[int, str | None]:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        warning = None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(file)
            os.close(file)
            raise RunInUse(_in_use(path.parent, holder)) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(file)
                raise
            warning = (
                f"{path.parent} is on a file system without locks ({error.strerror}): make sure yourself "
                "that no other run writes in it."
            )
        if _is_still(path, file):
            break
        os.close(file)  # its holder has removed it between our opening and locking it
    note = {"host": socket.gethostname(), "pid": os.getpid(), "started": time.time()}
    try:
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps(note).encode(), 0)
    except OSError:  # a full disk: who is refused does not hold the lock
        path.unlink()
        os.close(file)
        raise
    return file, warning


def _is_still(path: Path, file: int) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    ours = os.fstat(file)
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _holder(file: int) -> dict[str, Any]:
    try:
        note = json.loads(os.pread(file, 4096, 0))
        return note if isinstance(note, dict) else {}
    except (OSError, ValueError):  # it has the lock, and has not yet said who it is
        return {}


def _in_use(run_dir: Path, holder: dict[str, Any]) -> str:
    who, since = "another run", holder.get("started")
    if isinstance(since, float):
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(since))
        who = f"process {holder.get('pid')} on {holder.get('host')}, since {when}"
    return (
        f"the run directory {run_dir} is in use by {who}. Wait for it, or stop it (kill -TERM lets it save), "
        "or choose another --run-dir."
    )

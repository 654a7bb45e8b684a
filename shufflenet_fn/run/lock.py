"""The lock of a run directory: one run at a time writes in it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from shufflenet_fn.io import Disk, parse_json, read_regular, to_json
from shufflenet_fn_backends.support.errors import UserError

LOCK: Final = "run.lock"
_NO_LOCKS: Final = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


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
            raise RunInUse(_in_use(run_dir, _holder(path))) from None
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


@contextlib.contextmanager
def not_locked(run_dir: Path) -> Iterator[str | None]:
    """Do nothing: for processes beside the one that holds the lock."""
    yield None


def _holder(path: Path) -> dict[str, Any]:
    try:
        note = parse_json(read_regular(path, limit=4096))
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

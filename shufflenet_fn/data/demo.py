"""The demo data set: generated on the spot, learnable in a minute, an image folder like any other.

Nothing here imports torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from shufflenet_fn.data.demo_images import DEMO_CLASSES, draw_image
from shufflenet_fn.data.randomness import sample_rng
from shufflenet_fn_backends.support.cache import cache_root as default_cache_root
from shufflenet_fn_backends.support.errors import UserError

DEMO_VERSION = 1
TRAIN_PER_CLASS = 300
VAL_PER_CLASS = 50
MANIFEST = "demo.json"
_JPEG_QUALITY = 90


def ensure_demo(cache_root: Path | None = None) -> Path:
    """The demo set's folder, written on the first call.

    Args:
      cache_root: where to keep it; ``None`` is ``$XDG_CACHE_HOME/shufflenet-fn``, or
        ``~/.cache/shufflenet-fn``.

    Raises:
      UserError: the cache cannot be written.
    """
    root = default_cache_root() if cache_root is None else Path(cache_root)
    folder = root / f"demo-v{DEMO_VERSION}-seed0"
    return folder if is_complete(folder) else write_demo(folder, seed=0)


def write_demo(
    folder: Path,
    *,
    seed: int = 0,
    train_per_class: int = TRAIN_PER_CLASS,
    val_per_class: int = VAL_PER_CLASS,
) -> Path:
    """Write a demo set: ``folder/{train,val}/CLASS/*.jpg`` and a manifest.

    The same arguments give the same bytes. The set is written beside ``folder`` and renamed, so
    that ``folder`` is complete or absent at any time, also if this process is killed. Of several
    processes that start at once one writes and the others wait for it. A complete set is left as it
    is, a damaged one is replaced.

    Raises:
      UserError: ``folder`` is something other than a demo set, or cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / MANIFEST).is_file():
        raise UserError(
            f"cannot write the demo set to {folder}: it exists and has no {MANIFEST}, so it is "
            "something else. Name another folder, or remove this one."
        )
    with _explained(folder), _alone(folder), _workspace(folder) as workspace:
        if is_complete(folder):  # another process wrote it while this one waited
            return folder
        fresh = workspace / "new"
        _write_split(fresh / "train", seed, 0, train_per_class)
        _write_split(fresh / "val", seed, 1, val_per_class)
        files, size = _measure(fresh)
        manifest = {"version": DEMO_VERSION, "seed": seed, "files": files, "bytes": size}
        (fresh / MANIFEST).write_text(json.dumps(manifest) + "\n", encoding="utf-8")
        with contextlib.suppress(FileNotFoundError):
            os.rename(folder, workspace / "old")
        os.rename(fresh, folder)
    return folder


def is_complete(folder: Path) -> bool:
    """Whether ``folder`` holds a demo set with all the files and bytes that its manifest counts."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return (manifest["version"], manifest["files"], manifest["bytes"]) == (
            DEMO_VERSION,
            *_measure(folder),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _write_split(folder: Path, seed: int, split: int, per_class: int) -> None:
    import simplejpeg

    for label, name in enumerate(DEMO_CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            image = draw_image(label, sample_rng(seed, split, label * per_class + number))
            data = simplejpeg.encode_jpeg(image, quality=_JPEG_QUALITY)
            (folder / name / f"{name}_{number:04d}.jpg").write_bytes(data)


def _measure(folder: Path) -> tuple[int, int]:
    """Number and total size of the images in a demo set."""
    sizes = [path.stat().st_size for path in folder.glob("*/*/*.jpg")]
    return len(sizes), sum(sizes)


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the lock ``folder.lock``, which the system releases if this process is killed."""
    from filelock import FileLock

    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        yield


@contextlib.contextmanager
def _workspace(folder: Path) -> Iterator[Path]:
    """A folder beside ``folder``, on the same file system, that is removed at the end."""
    prefix = f".{folder.name}."
    for left_over in folder.parent.glob(f"{prefix}*"):  # a run that was killed could not clean up
        shutil.rmtree(left_over, ignore_errors=True)
    workspace = Path(tempfile.mkdtemp(prefix=prefix, dir=folder.parent))
    try:
        yield workspace
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turns a failure to write into advice."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write the demo set to {folder}: {error.strerror or error}. Free some space "
            "there (it takes 10 MB), make the folder writable, or set XDG_CACHE_HOME to one that is."
        ) from error

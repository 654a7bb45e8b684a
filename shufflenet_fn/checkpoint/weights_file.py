"""Read a weights file of any tool without running anything in it, or say what the file is instead."""

from __future__ import annotations

import contextlib
import mmap
import re
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from shufflenet_fn.data.paths import printable
from shufflenet_fn.io import parse_json
from shufflenet_fn_backends.support.errors import UsageError

CLASSES: Final = "classes"
"""Name of the class names: an entry, an attribute of a ``state_dict``, or JSON in safetensors' metadata."""

_SAVE: Final = "Where it was made, save the weights alone: torch.save(model.state_dict(), 'w.pth')."
_ARCHIVE: Final = "it is an archive. Unpack it, and name the weights file in it."
_ARRAYS: Final = "it holds NumPy arrays. Save a state_dict of torch tensors."
_BEGINNINGS: Final = (
    (
        (b"version https://git-lfs",),
        "it is a Git LFS pointer, not the file itself. Run `git lfs pull` in its repository.",
    ),
    (
        (b"<!", b"<?", b"<h", b"<H", b"<E"),
        "it is a web page (HTML or XML), as a failed download leaves it. Download the file itself.",
    ),
    ((b"{",), "it is JSON, such as an index. Name the file that holds the tensors."),
    ((b"\x93NUMPY",), _ARRAYS),
    ((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!"), _ARCHIVE),
)
_GLOBAL: Final = re.compile(r"GLOBAL (\S+)")
_PATHS: Final = ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
_IGNORED: Final = (
    *("argparse.Namespace", "types.SimpleNamespace", "torch.torch_version.TorchVersion"),
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in _PATHS),
    *(f"datetime.{name}" for name in ("datetime", "date", "time", "timedelta", "timezone")),
    *("decimal.Decimal", "fractions.Fraction", "uuid.UUID", "numpy.dtype", "numpy.ndarray"),
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    *(f"builtins.{name}" for name in ("slice", "range", "frozenset", "int", "float", "str", "list", "dict")),
)
"""Plain types that people keep beside weights. Nothing of such a value is used, so none is ever made."""


def check_kind(file: Path) -> None:
    """Raise ``UsageError`` if ``file`` is known to be something else than weights, such as an ONNX model."""
    try:
        other = _other_kind(file)
    except OSError as error:
        other = f"{error.strerror or error}."
    if other is not None:
        raise UsageError(f"cannot read weights from {printable(file)}: {other}")


def load_file(file: Path) -> Any:
    """Return what ``file`` holds, with tensors on the CPU. Plain values beside the tensors may be lost.

    Raises:
        UsageError: it is no weights file, damaged, or a pickle of more than tensors and plain values.
    """
    check_kind(file)
    try:
        if _is_safetensors(file):
            return _load_safetensors(file)
        return _load_pickle(file)
    except OSError as error:
        reason = f"{error.strerror or error}."
    except SafetensorError as error:
        reason = f"it is damaged or cut short: {error}."
    raise UsageError(f"cannot read weights from {printable(file)}: {reason}")


def _load_safetensors(file: Path) -> OrderedDict[str, Tensor]:
    content = OrderedDict(safetensors.torch.load_file(file))
    with safetensors.safe_open(file, "pt") as opened, contextlib.suppress(ValueError):
        vars(content)[CLASSES] = parse_json((opened.metadata() or {}).get(CLASSES, "null").encode())
    return content


def _is_safetensors(file: Path) -> bool:
    with open(file, "rb") as opened:
        head = opened.read(9)
    return head[8:] == b"{" or (file.suffix == ".safetensors" and not head.startswith((b"PK", b"\x80")))


def _other_kind(file: Path) -> str | None:
    """What a file is that is no weights file, and what to do; ``None`` for one that may be."""
    with open(file, "rb") as opened:
        head = opened.read(512)
    if not head:
        return "it is empty. Copy or download it again."
    for beginnings, kind in _BEGINNINGS:
        if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(beginnings):
            return kind
    if head[257:262] == b"ustar":
        return _ARCHIVE
    if file.suffix == ".om" or head.startswith(b"IMOD"):
        return "it is an OM, which only an Ascend device runs. Name the checkpoint it is of."
    if file.suffix == ".onnx" or (head[0] == 8 and head[2:3] == b"\x12"):
        return f"it is an ONNX model, which holds a graph. Name the checkpoint it is of. {_SAVE}"
    return _other_zip(file) if head.startswith(b"PK") else None


def _other_zip(file: Path) -> str | None:
    try:
        with zipfile.ZipFile(file) as opened:
            names = [Path(name).name for name in opened.namelist()]
    except (zipfile.BadZipFile, NotImplementedError, UnicodeError, ValueError, EOFError):
        size = file.stat().st_size
        return f"it is cut short or damaged ({size:,} bytes). Copy or download it again."
    if "constants.pkl" in names:
        return f"it is a TorchScript model, which holds code. {_SAVE}"
    if "archive_format" in names or "serialized_exported_program.json" in names:
        return f"it is a program of torch.export. {_SAVE}"
    if "data.pkl" in names:
        return None
    return _ARRAYS if all(name.endswith(".npy") for name in names) else _ARCHIVE


class _Ignored:
    """Stands for a value of a plain type: takes whatever a pickle gives, and does nothing with it."""

    def __init__(self, *_: object) -> None:
        """Ignore the value."""

    def __setstate__(self, _: object) -> None:
        """Ignore the value."""


def _from_npu(storage: Any, offset: int, size: Any, stride: Any, *_: object) -> Tensor:
    """Return a tensor that torch_npu before 2.1 saved from an NPU."""
    return torch.empty(0, dtype=storage.dtype).set_(storage, offset, size, stride)


def _load_pickle(file: Path) -> Any:
    stand_ins: list[Any] = [(_Ignored, name) for name in _IGNORED]
    stand_ins += [(lambda *_: {}, "collections.defaultdict"), (lambda *_: [], "collections.deque")]
    stand_ins += [
        (_from_npu, f"{module}._rebuild_npu_tensor") for module in ("torch_npu.utils.storage", "torch._utils")
    ]
    with (
        open(file, "rb") as opened,  # torch would go by the name's ending
        warnings.catch_warnings(),
        torch.serialization.safe_globals(stand_ins),
    ):
        # Of what another tool put into the file; what matters is whether it holds weights.
        warnings.simplefilter("ignore")
        try:
            return torch.load(opened, map_location="cpu", weights_only=True, mmap=False)
        except OSError:
            raise
        # A damaged pickle makes the unpickler raise anything: IndexError, struct.error, AssertionError.
        except Exception as error:
            raise UsageError(
                f"cannot read weights from {printable(file)}: {_refusal(file, error)}"
            ) from error


def _refusal(file: Path, error: Exception) -> str:
    """Say why torch does not load a pickle."""
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except Exception:  # torch's older format, or damage
        found = _GLOBAL.findall(str(error))
    with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as content:
        start, is_module = content[:2], content.find(b"ctorch.nn.modules.") >= 0
    if found and is_module:
        return f"it holds a whole pickled model, which could run code and is not loaded. {_SAVE}"
    newer = start[:1] == b"\x80" and start > b"\x80\x02"
    if newer or "torch.storage._load_from_bytes" in found:
        return f"it was written by pickle, not by torch.save. {_SAVE}"
    if found:
        names = printable(", ".join(name[:80] for name in sorted(found)[:5]))
        more = f" and {len(found) - 5} more" if len(found) > 5 else ""
        return f"it holds {names}{more} beside tensors, which could run code and is not loaded. {_SAVE}"
    if start == b"PK" and "Unsupported operand" in str(error):
        return "it was saved with another pickle_protocol than torch's own. Save it without that."
    return f"it is damaged, cut short or no weights file. Copy or download it again. ({type(error).__name__})"

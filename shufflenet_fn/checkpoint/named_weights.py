"""Weights by name: find or download what ``torchvision:``, ``https://`` and ``hf://`` name."""

from __future__ import annotations

import functools
import hashlib
import http.client
import importlib
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, NoReturn

import torch
from filelock import FileLock

from shufflenet_fn.data.paths import printable
from shufflenet_fn.model.config import canonical_name
from shufflenet_fn_backends.support.compiler import cache_root
from shufflenet_fn_backends.support.errors import UsageError, UserError

FORMS: Final = "torchvision:NAME, https://…#sha256=HEX or hf://ORG/NAME[/FILE][@REVISION]"
_TIMEOUT_S: Final = 30.0
_CHUNK: Final = 1 << 20
_MAX_BYTES: Final = 4 << 30
_SCHEME: Final = re.compile(r"(torchvision|https?|hf):/*", re.IGNORECASE)
_SHA256: Final = re.compile(r"sha256=([0-9a-f]{64})", re.IGNORECASE)
_IN_FILE_NAME: Final = re.compile(r"-([0-9a-f]{8,64})\.[^-]*$")
"""PyTorch's files have the beginning of their hash in their names."""

_ON_HUB: Final = re.compile(r"([^/@]+/[^/@]+)(?:/([^@]+))?(?:@(.+))?")
_WEIGHTS: Final = (".safetensors", ".bin", ".pt", ".pth", ".tar", ".ckpt")
_HUB_REASONS: Final = {
    "GatedRepoError": "the repository is gated: accept its terms on its page, and log in (hf auth login)",
    "RepositoryNotFoundError": "there is no such repository, or it is private: log in (hf auth login)",
    "RevisionNotFoundError": "the repository has no such revision, which comes last: hf://ORG/NAME/FILE@REVISION",
    "HFValidationError": "no repository can have this name",
}


class Source(NamedTuple):
    """Where weights lie on this machine. ``sha256``: of the file, ``None`` for a path that was given.

    ``notes``: what was found under a name.
    """

    path: Path
    sha256: str | None = None
    notes: tuple[str, ...] = ()


def find_weights(name: str | os.PathLike[str], *, arch: str | None) -> Source:
    """Return where the weights ``name`` lie on this machine, after a download if they are not there yet.

    A file is downloaded once, by one process, and its hash is checked. It has its name in the cache only when
    it is whole.

    Args:
        name: a path, which is not looked at; or a name in one of ``FORMS``.
        arch: the architecture, which names of torchvision need.

    Raises:
        UsageError: the name is not valid, or its package is not installed.
        UserError: the download failed. The message says where to put the file by hand.
    """
    text = os.fspath(name)
    scheme = _SCHEME.match(text)
    if scheme is None:
        if "://" in text:
            raise UsageError(f"{printable(text)} is no name of weights. Give a path, {FORMS}.")
        return Source(Path(name))
    kind, rest = scheme[1].lower(), text[scheme.end() :]
    if kind == "torchvision":
        return _of_torchvision(rest, arch)
    return _of_hub(rest) if kind == "hf" else _of_url(f"{kind}://{rest}")


def _of_torchvision(member: str, arch: str | None) -> Source:
    name = printable(f"torchvision:{member}")
    if arch is None:
        raise UsageError(f"{name} is of every architecture: give --arch, such as --arch x1_0.")
    try:
        models: Any = importlib.import_module("torchvision.models")
    except Exception as error:  # one that is made for another torch raises RuntimeError
        raise UsageError(
            f"{name} needs the package torchvision ({error}): pip install 'shufflenet-fn[vision]'"
        ) from error
    arch = canonical_name(arch)
    known = {
        key: weights for key, weights in models.get_model_weights(arch).__members__.items() if weights.url
    }
    found = next((weights for key, weights in known.items() if key.lower() == member.lower()), None)
    if found is None:
        raise UsageError(
            f"{name} does not exist: torchvision has {', '.join(known) or 'no weights'} for {arch}."
        )
    source = _of_pytorch(found.url)
    resize = getattr(found.transforms, "keywords", {}).get("resize_size", 256)
    advice = () if resize == 256 else (f"torchvision evaluates these weights with --eval-resize {resize}",)
    return source._replace(notes=(*source.notes, *advice))


def _of_pytorch(url: str) -> Source:
    """The file that ``torch.hub`` keeps for ``url``."""
    file = url.rpartition("/")[2]
    beginning = _IN_FILE_NAME.search(file)
    if beginning is None:
        _refuse_without_hash(url)
    return _downloaded(url, Path(torch.hub.get_dir()) / "checkpoints" / file, beginning[1])


def _of_url(name: str) -> Source:
    url, _, fragment = name.partition("#")
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname if parts.port != 0 else None
    except ValueError:
        host = None
    file = url.partition("?")[0].rpartition("/")[2]
    if not host or not file or "@" in parts.netloc:
        reason = "has a user name in it" if host and "@" in parts.netloc else "names no file on a host"
        raise UsageError(f"{printable(name)} {reason}. Give https://HOST/FILE#sha256=HEX.")
    given = _SHA256.fullmatch(fragment)
    if given is not None:
        sha256 = given[1].lower()
        return _downloaded(url, cache_root() / "weights" / f"{sha256[:16]}-{file[-80:]}", sha256)
    if not fragment and host == "download.pytorch.org" and _IN_FILE_NAME.search(file):
        return _of_pytorch(url)
    _refuse_without_hash(name)


def _refuse_without_hash(name: str) -> NoReturn:
    raise UsageError(
        f"{printable(name)} does not say which file it must be: add #sha256=HEX, the 64 hexadecimal digits "
        "that sha256sum prints for it."
    )


def _of_hub(rest: str) -> Source:
    name = f"hf://{rest}"
    form = _ON_HUB.fullmatch(rest)
    if form is None:
        raise UsageError(f"{printable(name)} is not valid. Give hf://ORG/NAME[/FILE][@REVISION].")
    repository, file, revision = form.groups()
    try:
        hub: Any = importlib.import_module("huggingface_hub")
        get = functools.partial(hub.hf_hub_download, repository, revision=revision)
    except ImportError as error:  # also of what its attributes import
        raise UsageError(
            f"{printable(name)} needs the package huggingface_hub ({error}): pip install 'shufflenet-fn[hub]'"
        ) from error
    try:
        found = _first_there(get, file or "model.safetensors")
        if found is None:
            files = sorted(hub.list_repo_files(repository, revision=revision))
            weights = [each for each in files if each.endswith(_WEIGHTS)]
            if file or len(weights) != 1:
                wrong = "does not exist" if file else "does not say which file"
                raise UsageError(
                    f"{printable(name)} {wrong}. The repository has "
                    f"{printable(', '.join(files[:20])) or 'no files'}. Give hf://{repository}/FILE."
                )
            found = get(weights[0])
    except UserError:
        raise
    # The client raises errors of its own, of its HTTP library and of the system.
    except Exception as error:
        known = next((_HUB_REASONS[kind] for kind in _kinds(error) if kind in _HUB_REASONS), None)
        if known is not None:
            raise UsageError(f"cannot get {printable(name)}: {known}.") from error
        reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        if "LocalEntryNotFoundError" in _kinds(error):
            reason = "there is no network, and the file is not in the cache"
        url = hub.hf_hub_url(repository, file or "model.safetensors", revision=revision)
        raise UserError(
            f"cannot get {printable(name)}: {reason}. To do without the network, "
            f"download {url} elsewhere, and give the path of that file."
        ) from error
    path, sha256 = Path(found), _sha256(Path(found))
    return Source(path, sha256, (_note(name, path, sha256),))


def _first_there(get: Callable[[str], str], file: str) -> str | None:
    """The path of ``file``; ``None`` if its repository has none of this name."""
    try:
        return get(file)
    except Exception as error:
        kinds = _kinds(error)
        if "EntryNotFoundError" not in kinds or "LocalEntryNotFoundError" in kinds:
            raise
        return None


def _kinds(error: Exception) -> list[str]:
    """Names, as the client's classes have moved between its modules."""
    return [kind.__name__ for kind in type(error).__mro__]


def _downloaded(url: str, target: Path, expected: str) -> Source:
    """The file ``target``, downloaded if it is missing. Its hash begins with ``expected``."""
    try:
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            # Its name is fixed, so that what a killed process left is overwritten.
            partial = target.with_name(f".{target.name}.partial")
            with FileLock(target.with_name(".download.lock")):
                if not target.exists():
                    try:
                        with open(partial, "wb") as file:
                            file.writelines(_chunks(url, target))
                        if not (found := _sha256(partial)).startswith(expected):
                            raise UserError(
                                f"{printable(url)} is another file: its sha256 is {found}, and must be "
                                f"{expected}{'…' * (len(expected) < 64)}. Correct the URL or the hash."
                            )
                        partial.replace(target)
                    finally:
                        partial.unlink(missing_ok=True)
        sha256 = _sha256(target)
    except OSError as error:
        raise UserError(
            f"cannot keep {printable(url)} as {printable(target)}: {error.strerror or error}. Free some "
            "space, make the folder writable, or set XDG_CACHE_HOME (for PyTorch's own files TORCH_HOME)."
        ) from error
    if not sha256.startswith(expected):
        raise UserError(
            f"{printable(target)} has the sha256 {sha256}, and not {expected}{'…' * (len(expected) < 64)}. "
            f"Remove it to download {printable(url)} again."
        )
    return Source(target, sha256, (_note(url, target, sha256),))


def _note(name: str, path: Path, sha256: str) -> str:
    return f"weights: {printable(name)} is {printable(path)}, sha256 {sha256}"


def _chunks(url: str, target: Path) -> Iterator[bytes]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    print(f"downloading {printable(url)} to {printable(target)}", file=sys.stderr, flush=True)
    console, columns, done = Console(stderr=True), (BarColumn(), DownloadColumn(), TimeRemainingColumn()), 0
    try:
        request = urllib.request.Request(url, headers={"User-Agent": "shufflenet-fn"})
        with (
            urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response,
            Progress(*columns, console=console, disable=not console.is_terminal) as progress,
        ):
            total: int | None = response.length
            task = progress.add_task("", total=total)
            while chunk := response.read(_CHUNK):
                done += len(chunk)
                if max(done, total or 0) > _MAX_BYTES:
                    raise ValueError(f"it has more than {_MAX_BYTES:,} bytes")
                progress.update(task, completed=done)
                yield chunk
            if total is not None and done != total:
                raise ValueError(f"the server ended after {done:,} of {total:,} bytes")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UserError(
            f"cannot download {printable(url)}: {_reason(error)}. To do without the network, put the file at "
            f"{printable(target)}."
        ) from error


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        if 300 <= error.code < 400:
            return f"the server redirects in a circle, or to no web address (HTTP {error.code})"
        return f"the server answered {error.code} {error.reason}"
    inner = getattr(error, "reason", error)  # of URLError
    if isinstance(inner, TimeoutError):
        return f"no answer within {_TIMEOUT_S:.0f} s"
    return str(getattr(inner, "strerror", None) or inner or type(inner).__name__)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as opened:
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()

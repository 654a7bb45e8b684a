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
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

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

_ADD_HASH: Final = "has no hash: add #sha256=HEX, the 64 hexadecimal digits that sha256sum prints."
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
        raise UsageError(f"{name} exists for several architectures: give --arch, such as --arch x1_0.")
    try:
        models: Any = importlib.import_module("torchvision.models")
    except Exception as error:  # one that is made for another torch raises RuntimeError
        raise UsageError(
            f"{name} needs the package torchvision ({error}): pip install 'shufflenet-fn[vision]'"
        ) from error
    arch = canonical_name(arch)
    known = {key: each for key, each in models.get_model_weights(arch).__members__.items() if each.url}
    found = next((each for key, each in known.items() if key.lower() == member.lower()), None)
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
        raise UsageError(f"{printable(url)} {_ADD_HASH}")
    return _downloaded(url, Path(torch.hub.get_dir()) / "checkpoints" / file, beginning[1])


def _of_url(name: str) -> Source:
    url, _, fragment = name.partition("#")
    file = url.partition("?")[0].rpartition("/")[2]
    try:
        parts = urllib.parse.urlsplit(url)
        valid = parts.hostname and file and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        valid = False
    if not valid:
        raise UsageError(
            f"{printable(name)} is not valid. Give https://HOST/FILE#sha256=HEX, without a password."
        )
    if not fragment and parts.scheme == "https" and parts.hostname == "download.pytorch.org":
        return _of_pytorch(url)
    given = _SHA256.fullmatch(fragment)
    if given is None:
        raise UsageError(f"{printable(name)} {_ADD_HASH}")
    sha256 = given[1].lower()
    return _downloaded(url, cache_root() / "weights" / f"{sha256[:16]}-{file[-40:]}", sha256)


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
        try:
            found = get(file or "model.safetensors")
        except Exception as error:
            kinds = _kinds(error)
            if "EntryNotFoundError" not in kinds or "LocalEntryNotFoundError" in kinds:
                raise
            files = sorted(hub.list_repo_files(repository, revision=revision))
            weights = [each for each in files if each.endswith(_WEIGHTS)]
            if file or len(weights) != 1:
                wrong = "does not exist" if file else "does not say which file"
                raise UsageError(
                    f"{printable(name)} {wrong}. The repository has {printable(', '.join(files[:20]))}. Give "
                    f"hf://{repository}/FILE."
                ) from None
            found = get(weights[0])
    except UserError:
        raise
    # The client raises errors of its own, of its HTTP library and of the system.
    except Exception as error:
        for kind in _kinds(error):
            if kind in _HUB_REASONS:
                raise UsageError(f"cannot get {printable(name)}: {_HUB_REASONS[kind]}.") from error
        reason = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        if "LocalEntryNotFoundError" in _kinds(error):
            reason = "there is no network, and the file is not in the cache"
        url = hub.hf_hub_url(repository, file or "model.safetensors", revision=revision)
        raise UserError(
            f"cannot get {printable(name)}: {reason}. To do without the network, download {url} elsewhere, "
            "and give the path of that file."
        ) from error
    return _source(name, Path(found))


def _kinds(error: Exception) -> list[str]:
    # Names, as the client's classes have moved between its modules.
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
                        wrong = f"{printable(url)} is another file"
                        _check(_source(url, partial), expected, wrong, "Correct the URL or the hash.")
                        partial.replace(target)
                    finally:
                        partial.unlink(missing_ok=True)
        source = _source(url, target)
    except OSError as error:
        raise UserError(
            f"cannot keep {printable(url)} as {printable(target)}: {error.strerror or error}. Free some "
            "space, make the folder writable, or set XDG_CACHE_HOME (for PyTorch's own files TORCH_HOME)."
        ) from error
    _check(source, expected, f"{printable(target)} is another file", "Remove it to download it again.")
    return source


def _check(source: Source, expected: str, wrong: str, advice: str) -> None:
    if not str(source.sha256).startswith(expected):
        rest = "…" * (len(expected) < 64)
        raise UserError(f"{wrong}: its sha256 is {source.sha256}, and must be {expected}{rest}. {advice}")


def _source(name: str, file: Path) -> Source:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while chunk := content.read(_CHUNK):
            digest.update(chunk)
    sha256 = digest.hexdigest()
    return Source(file, sha256, (f"weights: {printable(name)} is {printable(file)}, sha256 {sha256}",))


def _chunks(url: str, target: Path) -> Iterator[bytes]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn

    print(f"downloading {printable(url)} to {printable(target)}", file=sys.stderr, flush=True)
    console, columns, done = Console(stderr=True), (BarColumn(), DownloadColumn(), TimeRemainingColumn()), 0
    try:
        quoted = urllib.parse.quote(url, safe="%/:=&?~+!$,;'@()*[]")  # spaces, and letters beyond ASCII
        request = urllib.request.Request(quoted, headers={"User-Agent": "shufflenet-fn"})
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

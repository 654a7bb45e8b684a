"""Removal of private data from texts: paths, names and addresses."""

from __future__ import annotations

import contextlib
import getpass
import ipaddress
import os
import platform
import pwd
import re
import socket
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

PATH: Final = "PATH"
USER: Final = "USER"
HOST: Final = "HOST"
ADDRESS: Final = "ADDRESS"

# Folders that are the same on every machine, and show what is installed.
_PUBLIC: Final = r"/(?:usr/local/Ascend|usr/lib\w*|usr/bin|lib\w*|bin|dev|proc|sys|etc)\b"
_CODE: Final = re.compile(r".*/(?=(?:site-packages|dist-packages|shufflenet_fn\w*|python3\.\d+)/[\w./@+-]*$)")
_END: Final = r"[^\s'\"`,;:()\[\]{}<>|]"
_QUOTED_PATH: Final = re.compile(r"(?P<quote>['\"])(?P<path>~?/[^'\"\n]*)(?P=quote)")
_ANY_PATH: Final = re.compile(rf"(?<![\w.:/~>-])(?P<path>~?/{_END}+)")
_VERSION_4: Final = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w]|\.\d)")
_VERSION_6: Final = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f.]{0,15}(?:%\w+)?(?![\w:])")
_CARD: Final = re.compile(r"(?<![\w:])(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}(?![\w:])")


class Private(NamedTuple):
    """Private data: ``folders`` with their contents, names of ``users`` and of ``hosts``."""

    folders: tuple[str, ...]
    users: tuple[str, ...]
    hosts: tuple[str, ...]


def private_here(*folders: str | Path, environment: Mapping[str, str] = os.environ) -> Private:
    """Return the private data of this user and machine, including ``folders``, which the user named."""
    users = {environment.get(name) for name in ("USER", "LOGNAME", "USERNAME", "SUDO_USER")}
    with contextlib.suppress(KeyError, OSError):  # this user has no passwd entry
        users |= {getpass.getuser(), pwd.getpwuid(os.geteuid()).pw_name}
    home, here = Path("~").expanduser(), Path.cwd()
    users.add(home.name)
    named = [home, here, tempfile.gettempdir(), *folders]
    absolute = [Path(folder).expanduser().absolute() for folder in named]
    return Private(
        _longest_first(text for path in absolute for text in (str(path), str(path.resolve()))),
        _longest_first(users),
        _longest_first({socket.gethostname(), platform.node(), environment.get("HOSTNAME")}),
    )


def scrub(text: str, private: Private, *, versions: Iterable[str] = ()) -> str:
    """Return ``text`` with placeholders for paths, user names, host names and addresses.

    The part of a path within an installed package is kept. Paths in folders that every machine has
    (/usr/local/Ascend, /dev and other system folders) are kept completely.

    Args:
        text: any text.
        private: known private data, which is replaced everywhere.
        versions: versions of four numbers to keep, because they look like addresses.
    """
    for folder in private.folders:
        # Replace a folder with all that follows. Its name may contain spaces, which end other paths.
        text = re.sub(rf"(?<![\w.]){re.escape(folder)}(?![\w-])(?:/{_END}*)*", lambda m: _of_code(m[0]), text)
    text = _QUOTED_PATH.sub(lambda m: f"{m['quote']}{_path(m['path'])}{m['quote']}", text)
    text = _ANY_PATH.sub(lambda m: _path(m["path"]), text)
    text = _CARD.sub(ADDRESS, text)
    kept = frozenset(versions)
    text = _VERSION_4.sub(lambda m: m[0] if m[0] in kept else ADDRESS, text)
    text = _VERSION_6.sub(_address, text)
    for name in private.hosts:
        text = re.sub(_word(name) + r"(?:\.[A-Za-z][\w-]*)*", HOST, text, flags=re.I)
    for name in private.users:
        text = re.sub(_word(name), USER, text)
    return text


def scrub_values(value: Any, private: Private, *, versions: Iterable[str] = ()) -> Any:
    """Return a JSON value with all its strings scrubbed. Keys are ours and are not changed."""
    if isinstance(value, str):
        return scrub(value, private, versions=versions)
    if isinstance(value, Mapping):
        return {key: scrub_values(item, private, versions=versions) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [scrub_values(item, private, versions=versions) for item in value]
    return value


def _path(path: str) -> str:
    return path if re.match(_PUBLIC, path) or len(path) < 2 else _of_code(path)


def _of_code(path: str) -> str:
    inside = _CODE.match(path)
    return f"{PATH}/{path[inside.end() :]}" if inside else PATH


def _address(match: re.Match[str]) -> str:
    text = match[0].partition("%")[0]
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return match[0]
    return ADDRESS if text.strip(":") else match[0]


def _word(name: str) -> str:
    return rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])"


def _longest_first(names: Iterable[str | None]) -> tuple[str, ...]:
    # A single character, or /, would match everywhere.
    useful = {name for name in names if name and len(name) > 1 and name != "localhost"}
    return tuple(sorted(useful, key=lambda name: (-len(name), name)))

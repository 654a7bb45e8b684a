"""Model of the states that a power failure can leave after a sequence of file operations.

A killed process loses nothing that it has passed to the operating system, but a machine that loses power may.
The model replays recorded operations and yields the states that the next start may find:

* a file whose content was not flushed may be complete, empty, truncated, zeros, or as it was before;
* any subset of the changes to a folder's names since its last flush may have happened.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Union

from shufflenet_fn.io import Content, Disk


class Operation(NamedTuple):
    """One call of ``Disk``: its name, its paths, and the content of a write."""

    kind: str
    path: Path
    target: Path | None = None
    content: bytes = b""


class Recorder(Disk):
    """A disk that records its operations."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def make_folder(self, path: Path) -> None:
        super().make_folder(path)
        self.operations.append(Operation("make_folder", path))

    def write(self, path: Path, content: Content) -> None:
        super().write(path, content)
        self.operations.append(Operation("write", path, content=path.read_bytes()))

    def flush(self, path: Path) -> None:
        super().flush(path)
        self.operations.append(Operation("flush", path))

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        self.operations.append(Operation("rename", old, new))

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self.operations.append(Operation("unlink", path))

    def remove_folder(self, path: Path) -> None:
        super().remove_folder(path)
        self.operations.append(Operation("remove_folder", path))


@dataclass(eq=False)
class _File:
    content: bytes
    durable: bytes | None = None
    flushed: bool = False

    def variants(self) -> list[bytes]:
        """Return the possible contents after a crash, the complete content first."""
        if self.flushed:
            return [self.content]
        half = self.content[: len(self.content) // 2]
        found = [self.content, b"", half, bytes(len(self.content))]
        return found if self.durable is None else [*found, self.durable]


_Change = dict[str, Union["_File", "_Folder", None]]
"""Names that one operation assigns or removes. It happens completely or not at all."""


@dataclass(eq=False)
class _Folder:
    durable: dict[str, _File | _Folder] = field(default_factory=dict)
    pending: list[_Change] = field(default_factory=list)

    def names(self, happened: Sequence[bool] | None = None) -> dict[str, _File | _Folder]:
        """Return the entries if the marked pending changes happened (all changes if not given)."""
        names = dict(self.durable)
        for number, change in enumerate(self.pending):
            if happened is None or happened[number]:
                for name, node in change.items():
                    names.pop(name, None)
                    if node is not None:
                        names[name] = node
        return names


class CrashModel:
    """A disk in memory that tracks which changes are durable. ``root`` exists and is empty at first."""

    def __init__(self, root: Path) -> None:
        self._root_path = root
        self._root = _Folder()

    def apply(self, operation: Operation) -> None:
        """Apply ``operation``."""
        node = self._find(operation.path)
        folder, name = self._find(operation.path.parent), operation.path.name
        match operation.kind:
            case "flush":
                if isinstance(node, _File):
                    node.durable, node.flushed = node.content, True
                elif isinstance(node, _Folder):
                    node.durable, node.pending = node.names(), []
            case "make_folder":
                self._change(folder, {name: _Folder()})
            case "write" if isinstance(node, _File):
                node.content, node.flushed = operation.content, False
            case "write":
                self._change(folder, {name: _File(operation.content)})
            case "rename":
                assert operation.target is not None
                self._change(folder, {name: None, operation.target.name: node})
            case "unlink" | "remove_folder":
                self._change(folder, {name: None})

    def outcomes(self, rng: random.Random, limit: int) -> Iterator[dict[str, bytes | None]]:
        """Yield the possible states after a crash now: relative path to content, ``None`` for a folder.

        Yields every combination if there are at most ``limit``. Otherwise it yields: nothing lost, everything
        lost, each single change lost or kept, and random combinations up to ``limit``.
        """
        folders, files = self._volatile()
        choices: list[list[int]] = [[1, 0] for folder in folders for _ in folder.pending]
        choices += [list(range(len(file.variants()))) for file in files]
        for picked in _picks(choices, rng, limit):
            flags = iter(picked)
            happened = {id(f): [bool(next(flags)) for _ in f.pending] for f in folders}
            contents = {id(file): file.variants()[next(flags)] for file in files}
            found: dict[str, bytes | None] = {}
            _lay_out(self._root, "", happened, contents, found)
            yield found

    def _change(self, folder: object, change: _Change) -> None:
        assert isinstance(folder, _Folder)
        folder.pending.append(change)

    def _find(self, path: Path) -> _File | _Folder | None:
        node: _File | _Folder | None = self._root
        if not path.is_relative_to(self._root_path):
            return None
        for part in path.relative_to(self._root_path).parts:
            node = node.names().get(part) if isinstance(node, _Folder) else None
        return node

    def _volatile(self) -> tuple[list[_Folder], list[_File]]:
        """Return all reachable folders with pending changes and all reachable files that are not flushed."""
        folders: dict[int, _Folder] = {}
        files: dict[int, _File] = {}
        seen: set[int] = set()
        waiting: list[_File | _Folder] = [self._root]
        while waiting:
            node = waiting.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            if isinstance(node, _File):
                if not node.flushed:
                    files[id(node)] = node
                continue
            if node.pending:
                folders[id(node)] = node
            waiting += node.durable.values()
            waiting += [n for change in node.pending for n in change.values() if n is not None]
        return list(folders.values()), list(files.values())


def materialise(found: dict[str, bytes | None], folder: Path) -> None:
    """Create ``folder``, which must not exist, with a state that ``CrashModel.outcomes`` yielded."""
    folder.mkdir()
    for name, content in found.items():
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)


def _lay_out(
    folder: _Folder,
    prefix: str,
    happened: dict[int, list[bool]],
    contents: dict[int, bytes],
    found: dict[str, bytes | None],
) -> None:
    for name, node in folder.names(happened.get(id(folder))).items():
        if isinstance(node, _File):
            found[prefix + name] = contents.get(id(node), node.content)
        else:
            found[prefix + name] = None
            _lay_out(node, f"{prefix}{name}/", happened, contents, found)


def _picks(choices: list[list[int]], rng: random.Random, limit: int) -> Iterator[tuple[int, ...]]:
    total = 1
    for options in choices:
        total *= len(options)
    if total <= limit:
        yield from itertools.product(*choices)
        return
    kept, lost = [options[0] for options in choices], [options[1] for options in choices]
    picked = [tuple(kept), tuple(lost)]
    for number in range(len(choices)):
        for base, other in ((kept, lost), (lost, kept)):
            picked.append((*base[:number], other[number], *base[number + 1 :]))
    while len(picked) < limit:
        picked.append(tuple(rng.choice(options) for options in choices))
    yield from picked

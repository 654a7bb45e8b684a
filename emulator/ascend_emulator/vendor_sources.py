"""The vendor's documents and kernels that the emulated functions were compared with.

The C++ in ``sources/`` names them above each function::

    // Follows ops-math@9.1.0 math/add/docs/aclnnAdds.md
    ACLNN(aclnnAdds, …

One statement may define several functions through a macro. ``// aclnnX follows …`` then names one of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from ascend_emulator.compiling import SOURCES

Kind = Literal["operator", "runtime", "hccl"]
KINDS: tuple[Kind, ...] = ("operator", "runtime", "hccl")

_FOLLOWS = re.compile(r"// (?:Follows|(\w+) follows) (\S+@\S+ \S+)$")
_FUNCTION = re.compile(r"EMULATOR_API [^(=;]*?\b(\w+)\(")
_OPERATOR = re.compile(r"\bACLNN\(\s*([\w#]+)\s*,")
_MACRO = re.compile(r"#define ([A-Z_]+)\((\w+)\b")
_CALL = re.compile(r"\b([A-Z_]+)\(\s*(\w+)\s*,")
_OURS = "emulator_"


class Function(NamedTuple):
    """An emulated function of CANN, with the sources that it was compared with, as "REPO@VERSION PATH"."""

    kind: Kind
    name: str
    file: str
    sources: tuple[str, ...]


def emulated_functions(folder: Path = SOURCES) -> list[Function]:
    """Return all emulated functions, by kind, file and position, except those that only fail."""
    functions = [
        one
        for path in sorted(folder.glob("*/*.cpp"))
        for one in _functions(
            path.read_text(encoding="utf-8"),
            path.relative_to(folder).as_posix(),
            "hccl" if path.parent.name == "hccl" else "runtime",
        )
    ]
    return sorted(functions, key=lambda one: KINDS.index(one.kind))


def _functions(text: str, file: str, kind: Kind) -> Iterator[Function]:
    macros: dict[str, tuple[str, ...]] = {}
    comment: list[str] = []
    for statement in _statements(text):
        if statement.startswith("//"):
            comment.append(statement)
            continue
        if macro := _MACRO.match(statement):
            macros[macro[1]] = tuple(_templates(statement, macro[2], macros))
        elif operators := _operators(statement, macros):
            yield from _sourced("operator", operators, file, comment)
        elif (function := _FUNCTION.match(statement)) and not function[1].startswith(_OURS):
            yield from _sourced(kind, (function[1],), file, comment)
        comment = []


def _statements(text: str) -> Iterator[str]:
    """Yield lines, with the continuation lines of macros joined."""
    yield from text.replace("\\\n", " ").splitlines()


def _templates(definition: str, parameter: str, macros: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield templates of the operator names that a macro defines, with ``{}`` for its first argument."""
    for operator in _OPERATOR.findall(definition):
        yield re.sub(rf"##{parameter}\b(##)?", "{}", operator)
    for called, argument in _CALL.findall(definition):
        if argument == parameter:
            yield from macros.get(called, ())


def _operators(statement: str, macros: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    if operator := _OPERATOR.match(statement):
        return (operator[1],)
    if call := _CALL.match(statement):
        return tuple(template.format(call[2]) for template in macros.get(call[1], ()))
    return ()


def _sourced(kind: Kind, names: Iterable[str], file: str, comment: Sequence[str]) -> Iterator[Function]:
    found = [match.groups() for match in map(_FOLLOWS.match, comment) if match]
    for name in names:
        yield Function(kind, name, file, tuple(source for one, source in found if one in (None, name)))

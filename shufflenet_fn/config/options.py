"""Declarations of settings: default, flags, limits and help in one place.

The command line, config files and the stored ``config.json`` are derived from these declarations, so a
setting cannot exist in only one of them. Does not import torch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from shufflenet_fn_backends.names import suggestion
from shufflenet_fn_backends.support.errors import UsageError


@dataclass(frozen=True)
class Option:
    """Flags, help and allowed values of a setting.

    ``flags``: command-line spellings, ours first, then the original's; an empty first one stands for the name
    of the setting. ``choices``: allowed values, empty for any. ``minimum`` and ``maximum`` are inclusive,
    ``above`` and ``below`` exclusive.
    """

    flags: tuple[str, ...]
    help: str
    panel: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    below: float | None = None

    def check(self, value: Any) -> None:
        """Raise ``UsageError`` unless ``value`` is allowed."""
        if value is None:
            return
        flag = self.flags[0]
        if self.choices and value not in self.choices:
            raise UsageError(
                f"{flag} {value!r} is not valid{suggestion(str(value), self.choices)}. "
                f"Choose one of: {', '.join(self.choices)}."
            )
        if isinstance(value, (int, float)):
            rules = (
                (value == value, "a number"),
                (abs(value) != math.inf, "finite"),
                (self.minimum is None or not value < self.minimum, f"at least {self.minimum}"),
                (self.maximum is None or not value > self.maximum, f"at most {self.maximum}"),
                (self.above is None or not value <= self.above, f"above {self.above}"),
                (self.below is None or not value >= self.below, f"below {self.below}"),
            )
            wrong = [text for holds, text in rules if not holds]
            if wrong:
                raise UsageError(f"{flag} {value} is not valid: it must be {' and '.join(wrong)}.")


def option(default: Any, *flags: str, help: str, panel: str, **limits: Any) -> Any:
    """Return a dataclass field with its ``Option``."""
    return dataclasses.field(default=default, metadata={"option": Option(flags, help, panel, **limits)})


def like(settings: Any, name: str, default: Any = ..., **changes: Any) -> Any:
    """Return a field like the one of this name in ``settings``, with another default and ``changes``."""
    field = settings.__dataclass_fields__[name]
    option = dataclasses.replace(field.metadata["option"], **changes)
    value = field.default if default is ... else default
    return dataclasses.field(default=value, metadata={"option": option})


class Declared(NamedTuple):
    """A field of a settings class: its name, plain type, whether ``None`` is allowed, default, option."""

    name: str
    type: type
    optional: bool
    default: Any
    option: Option


def declared(settings: type) -> Iterator[Declared]:
    """Yield the declarations of a settings dataclass, in order."""
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        arguments = [a for a in typing.get_args(hints[field.name]) if a is not type(None)]
        plain = arguments[0] if arguments else hints[field.name]
        option = field.metadata["option"]
        if not option.flags[0]:
            name = field.name.replace("_", "-")
            flag = f"--{name}/--no-{name}" if plain is bool else f"--{name}"
            option = dataclasses.replace(option, flags=(flag, *option.flags[1:]))
        yield Declared(field.name, plain, bool(arguments), field.default, option)


def check_options(settings: Any) -> None:
    """Raise ``UsageError`` unless every value of a settings dataclass is allowed."""
    for item in declared(type(settings)):
        item.option.check(getattr(settings, item.name))


def convert(item: Declared, value: Any, source: str) -> Any:
    """Return ``value`` from a config file, typed or as text, in the declared type.

    Raises:
        UsageError: it is of another type.
    """
    if value is None and item.optional:
        return None
    if isinstance(value, str) and item.type in _PARSERS:
        with contextlib.suppress(ValueError, KeyError):
            return _PARSERS[item.type](value)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and item.type in (float, str):
        return item.type(value)
    if type(value) is not item.type:
        raise UsageError(
            f"{item.name} in {source} is {'empty' if value is None else repr(value)}, but must be "
            f"{_NAMES.get(item.type, item.type)}."
        )
    return value


_TRUTH: Final = {**dict.fromkeys(("true", "yes", "on"), True), **dict.fromkeys(("false", "no", "off"), False)}
_PARSERS: Final[dict[type, Callable[[str], Any]]] = {
    int: int,
    float: float,
    bool: lambda text: _TRUTH[text.lower()],
}
_NAMES = {int: "an integer", float: "a number", bool: "true or false", str: "text"}


def expand_home(path: str) -> str:
    """Return ``path`` with a leading ``~`` or ``~user`` replaced by that home directory.

    Raises:
        UsageError: there is none, and no folder of this name.
    """
    expanded = os.path.expanduser(path)
    if expanded.startswith("~") and not os.path.lexists(path):
        name = path.partition("/")[0]
        raise UsageError(
            f"{path}: {name} is no home directory here. Write the whole path, or "
            f"./{path} for a folder of this name."
        )
    return expanded


_UNITS: Final = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_PARTS: Final = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")
_SLURM: Final = re.compile(r"(?:(\d+)-(?=\d+(?::\d{2}){0,2}$))?(\d+)(?::(\d{2}))?(?::(\d{2}))?")


def parse_duration(text: str, option: str) -> float:
    """Return the seconds in ``90``, ``90s``, ``30m``, ``2h``, ``11h30m`` or, for Slurm, ``1-12:00:00``.

    In Slurm's format, ``A:B`` is minutes and seconds, and ``D-A:B`` is days, hours and minutes. A plain
    number means seconds, whereas Slurm reads it as minutes.

    Raises:
        UsageError: ``text`` has none of these forms, or is zero.
    """
    given = text.strip().lower()
    seconds = 0
    if given.isdecimal():
        seconds = int(given)
    elif match := _SLURM.fullmatch(given):
        days, *rest = match.groups()
        numbers = [int(number) for number in rest if number is not None]
        units = "hms" if days is not None or len(numbers) == 3 else "ms"
        seconds = int(days or 0) * _UNITS["d"]
        seconds += sum(n * _UNITS[u] for n, u in zip(numbers, units, strict=False))
    elif match := _PARTS.fullmatch(given):
        seconds = sum(int(n or 0) * _UNITS[u] for n, u in zip(match.groups(), "dhms", strict=True))
    if seconds <= 0:
        raise UsageError(
            f"{option} {text!r} is not a length of time: give seconds (90), units (90s, 30m, 2h, 11h30m, "
            "1d12h), or Slurm's form (D-HH:MM:SS, HH:MM:SS, MM:SS)."
        )
    return float(seconds)

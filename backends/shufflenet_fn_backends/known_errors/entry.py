"""An entry of the table of known errors."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KnownError:
    """An error that is recognised by its text.

    Args:
        key: search words for users: a code, a library, a few words of the text.
        pattern: a regular expression to search for in the text.
        meaning: what happened: a sentence without its full stop.
        fix: what to do: a sentence without its full stop.
        source: where the text was seen or is documented.
        echo: whether this is a consequence of another failure, in another rank or an earlier operation. The
            first error of all ranks then shows the cause.
    """

    key: str
    pattern: str
    meaning: str
    fix: str
    source: str
    echo: bool = False

    def __str__(self) -> str:
        return f"{self.meaning} ({self.key}). {self.fix}."


def code(numbers: str) -> str:
    """Return the pattern for a return code of CANN, as torch_npu and C++ programs print it.

    Args:
        numbers: the code, or a regular expression for several.
    """
    return rf"error ?[cC]ode(?: is|:| =) ?(?:{numbers})\b"

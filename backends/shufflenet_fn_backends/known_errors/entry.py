"""One row of the table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class KnownError:
    """An error that is known by its text.

    Args:
        key: what a user would search for: a code, a library, a few words of the text.
        pattern: a regular expression that is found in the text.
        meaning: what happened, a sentence without its full stop.
        fix: what to do, likewise.
        source: where the text was seen or is documented.
        echo: this is how a failure elsewhere, of another rank or of an earlier operation, shows here; the
            first error of all ranks is the one to look at.
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
    """Return the pattern for a return code of CANN, as torch_npu and programs of C++ print it.

    Args:
        numbers: the code, or a regular expression for several.
    """
    return rf"error ?[cC]ode(?: is|:| =) ?(?:{numbers})\b"

"""Functions for the operators that torch_npu looks up and the emulator does not have.

torch_npu looks up an operator by name in libopapi.so. If the name is missing, it reports an error or, for
many operators, silently uses an older interface (aclop). So the library has a function for every name, which
fails and names the file in which to add the operator. When the library is linked, the emulated operators
replace these functions.
"""

from __future__ import annotations

import re
from pathlib import Path

_LOOKED_UP = re.compile(rb"\b(aclnn[A-Z]\w*)GetWorkspaceSize\0")
_HEAD = """// Made by build.py from the names in {library}.

extern "C" {{
__attribute__((visibility("hidden"))) int emulator_missing_operator(const char* name);
"""
_FUNCTIONS = """
__attribute__((weak, visibility("default"))) int {name}GetWorkspaceSize() {{
  return emulator_missing_operator("{name}");
}}
__attribute__((weak, visibility("default"))) int {name}() {{
  return emulator_missing_operator("{name}");
}}
"""


def operators_looked_up(library: Path) -> list[str]:
    """Return the sorted names of the aclnn operators that ``library`` (libtorch_npu.so) may look up."""
    return sorted({match.decode() for match in _LOOKED_UP.findall(library.read_bytes())})


def source(library: Path) -> str:
    """Return C++ source that defines a failing function for each name, to be linked into libopapi.so."""
    functions = (_FUNCTIONS.format(name=name) for name in operators_looked_up(library))
    return _HEAD.format(library=library.name) + "".join(functions) + "}\n"

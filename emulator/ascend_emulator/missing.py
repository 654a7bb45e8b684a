"""Functions for the operators that torch_npu looks up and the emulator does not have.

torch_npu finds an operator by name in libopapi.so. Where the name is not there it says so, or, for many
operators, goes over to an older interface (aclop) without a word. So the library gets a function for every
name, which fails and tells the file to add the operator in; the emulated operators take its place when the
library is linked.
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
    """Names of the aclnn operators that ``library`` (libtorch_npu.so) may look up, sorted."""
    return sorted({match.decode() for match in _LOOKED_UP.findall(library.read_bytes())})


def source(library: Path) -> str:
    """C++ that defines a failing function for each of them, to be linked into libopapi.so."""
    functions = (_FUNCTIONS.format(name=name) for name in operators_looked_up(library))
    return _HEAD.format(library=library.name) + "".join(functions) + "}\n"

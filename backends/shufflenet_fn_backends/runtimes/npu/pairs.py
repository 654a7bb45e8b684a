"""Compatible versions of torch, torch_npu and CANN, as listed by Ascend, for doctor and docs/ascend.md.

Sources: COMPATIBILITY.md and README.md of Ascend/pytorch at 9e73e70. The bound on numpy is not in that table.
    It was reported for CANN 8.2.1 (vllm-ascend issue 2210) and is kept for 8.3 as a precaution. Ascend's own
    pip commands for CANN 9.0.0 install numpy 2.1.2 on Python 3.13
    (docs/zh/installation_guide/references/installation_via_pip.md). For 8.5 nothing is known.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

DATE: Final = "2026-08-21"
"""Date of the commit that the table was read from."""

TESTED: Final = "2.13.0"
"""Version of torch and torch_npu in the tests and in the extra ``npu``. Not in the table yet."""

CPU_WHEELS: Final = "https://download.pytorch.org/whl/cpu"
NUMPY_1: Final = "numpy<2"


class Pair(NamedTuple):
    """A row. ``python``: oldest and newest minor version."""

    torch: str
    torch_npu: str
    cann: str
    python: tuple[int, int]
    source: str = "COMPATIBILITY.md"

    @property
    def extra(self) -> str:
        """The extra of shufflenet-fn that installs the recommended pair of this CANN."""
        major, minor = cann_minor(self.cann) or (0, 0)
        return f"npu-cann{major}{minor}"

    @property
    def numpy(self) -> str:
        """pip's requirement on numpy; empty if any version works."""
        return numpy_bound(self.cann)


# Newest CANN first, then newest torch. Only torch 2.7 and newer, which shufflenet-fn needs.
PAIRS: Final = (
    Pair("2.12.0", "2.12.0", "9.1.0", (10, 14)),
    Pair("2.11.0", "2.11.0", "9.1.0", (10, 14)),
    Pair("2.10.0", "2.10.0.post4", "9.1.0", (10, 13)),
    Pair("2.9.0", "2.9.0.post6", "9.1.0", (10, 13)),
    Pair("2.7.1", "2.7.1.post8", "9.1.0", (10, 13)),
    Pair("2.10.0", "2.10.0.post2", "9.0.0", (10, 13), source="README.md"),
    Pair("2.9.0", "2.9.0.post2", "9.0.0", (10, 13)),
    Pair("2.8.0", "2.8.0.post4", "9.0.0", (10, 13)),
    Pair("2.7.1", "2.7.1.post4", "9.0.0", (10, 13)),
    Pair("2.9.0", "2.9.0", "8.5.0", (10, 13)),
    Pair("2.8.0", "2.8.0.post2", "8.5.0", (10, 13)),
    Pair("2.7.1", "2.7.1.post2", "8.5.0", (10, 13)),
    Pair("2.8.0", "2.8.0", "8.3.RC1", (10, 13)),
    Pair("2.7.1", "2.7.1", "8.3.RC1", (10, 13)),
)

# The newest rows of these are for torch 2.6.0, 2.5.1 and 2.4.0.
TOO_OLD: Final = "CANN 8.0, 8.1 and 8.2 have no torch_npu for torch 2.7 or newer"


class Compatibility(NamedTuple):
    """Whether versions are listed as compatible, a sentence about it, and the fix if they are not."""

    fits: bool
    text: str
    fix: str = ""


def cann_minor(version: str | None) -> tuple[int, int] | None:
    """Return major and minor number of a CANN version such as ``8.3.RC1``. Patches share a row."""
    found = re.match(r"(\d+)\.(\d+)", version or "")
    return (int(found[1]), int(found[2])) if found else None


def find(torch_npu: str) -> Pair | None:
    """Return the row of a version of torch_npu."""
    plain = torch_npu.partition("+")[0]
    return next((pair for pair in PAIRS if pair.torch_npu == plain), None)


def recommended(cann: str | None) -> Pair | None:
    """Return the pair to install for a CANN: the newest of COMPATIBILITY.md, or ``None``."""
    rows = [pair for pair in PAIRS if cann_minor(pair.cann) == cann_minor(cann)]
    return next((pair for pair in rows if pair.source == "COMPATIBILITY.md"), None)


def numpy_bound(cann: str | None) -> str:
    """Return pip's requirement on numpy for a CANN; empty if any version works or CANN is unknown."""
    minor = cann_minor(cann)
    return NUMPY_1 if minor is not None and minor <= (8, 3) else ""


def reads_alloc_conf(torch_npu: str | None) -> bool:
    """Return whether this torch_npu reads PYTORCH_ALLOC_CONF, and refuses PYTORCH_NPU_ALLOC_CONF with it.

    Releases from 26.2.0 do (docs/zh/.../PYTORCH_NPU_ALLOC_CONF.md); all rows above are older. A version that
    is not in the table counts as newer, because setting both variables would end the process.
    """
    return torch_npu is None or find(torch_npu) is None


def pip_install(pair: Pair, *, machine: str = "x86_64") -> str:
    """Return the command that installs ``pair``. On x86-64, PyPI has only CUDA builds of torch."""
    bound = f" '{pair.numpy}'" if pair.numpy else ""
    if machine != "x86_64":
        return f"pip install torch=={pair.torch} torch_npu=={pair.torch_npu}{bound}"
    return (
        f"pip install torch=={pair.torch} --index-url {CPU_WHEELS} && "
        f"pip install torch_npu=={pair.torch_npu}{bound}"
    )


def compatibility(torch: str, torch_npu: str, cann: str | None, *, machine: str = "x86_64") -> Compatibility:
    """Return whether the three versions are listed as compatible."""
    three = f"torch {torch}, torch_npu {torch_npu}, CANN {cann or 'of unknown version'}"
    row, best = find(torch_npu), recommended(cann)
    install = f"Install the pair of this CANN: {pip_install(best, machine=machine)}" if best else ""
    newest = PAIRS[0]
    if cann_minor(cann) is not None and best is None:
        if cann_minor(cann) < cann_minor(PAIRS[-1].cann):  # type: ignore[operator]  # both are known
            fix = f"{TOO_OLD}. Install CANN {newest.cann}, and: {pip_install(newest, machine=machine)}"
            return Compatibility(False, f"{three}: no pair", fix)
        return Compatibility(False, f"{three}: this CANN is newer than the table of {DATE}", _ASK)
    if row is None:
        text = f"{three}: not in Ascend's table of {DATE}"
        if _plain(torch_npu) == TESTED:
            text += "; the tests of shufflenet-fn run with this torch_npu"
        other = f"{install}, or see" if install else "See"
        return Compatibility(False, text, f"{other} {_WHERE}")
    if _plain(torch) != row.torch:
        fix = f"torch_npu {row.torch_npu} is for torch {row.torch}: {pip_install(row, machine=machine)}"
        return Compatibility(False, f"{three}: no pair", fix)
    if cann is None:
        return Compatibility(True, f"{three}; it is listed with CANN {row.cann}")
    if cann_minor(cann) != cann_minor(row.cann):
        fix = f"{install}. Or install CANN {row.cann}, which this torch_npu is listed with"
        return Compatibility(False, f"{three}: no pair", fix)
    return Compatibility(True, f"{three}: a pair of Ascend's table of {DATE}")


_WHERE: Final = "docs/ascend.md for the pairs that go together"
_ASK: Final = "See COMPATIBILITY.md of Ascend/pytorch for the torch_npu of this CANN"


def _plain(version: str) -> str:
    return version.partition("+")[0]

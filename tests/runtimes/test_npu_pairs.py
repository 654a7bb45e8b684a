"""Ascend's table of versions: search, extras, and the page in the docs."""

from __future__ import annotations

import re
import sys

import pytest

from shufflenet_fn_backends.runtimes.npu.pairs import (
    DATE,
    PAIRS,
    TESTED,
    TOO_OLD,
    compatibility,
    find,
    numpy_bound,
    pip_install,
    reads_alloc_conf,
    recommended,
)
from tests.conftest import REPOSITORY


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: str(pair.torch_npu))
def test_every_row_is_a_pair(pair: object) -> None:
    row = PAIRS[PAIRS.index(pair)]  # type: ignore[arg-type]
    assert find(row.torch_npu) == row
    assert compatibility(f"{row.torch}+cpu", row.torch_npu, row.cann).fits
    assert row.torch_npu == row.torch or row.torch_npu.startswith(f"{row.torch}.post")
    assert row.numpy == numpy_bound(row.cann)


@pytest.mark.parametrize(
    ("versions", "machine", "words"),
    [
        (
            ("2.12.0+cpu", "2.12.0", "8.5.0"),
            "x86_64",
            "pip install torch==2.9.0 --index-url https://download.pytorch.org/whl/cpu && "
            "pip install torch_npu==2.9.0. Or install CANN 9.1.0",
        ),
        (("2.9.0", "2.9.0", "8.3.RC1"), "aarch64", "pip install torch==2.8.0 torch_npu==2.8.0 'numpy<2'"),
        (("2.7.1", "2.7.1", "8.2.RC1"), "aarch64", "CANN 8.0, 8.1 and 8.2 have no torch_npu"),
        (("2.13.0+cpu", TESTED, "9.1.0"), "aarch64", "pip install torch==2.12.0 torch_npu==2.12.0"),
        (("2.13.0+cpu", TESTED, None), "aarch64", "docs/ascend.md"),
        (("2.8.0", "2.9.0", "8.5.0"), "aarch64", "torch_npu 2.9.0 is for torch 2.9.0"),
        (("2.12.0", "2.12.0", "9.2.0"), "x86_64", "COMPATIBILITY.md"),
    ],
)
def test_what_is_no_pair(versions: tuple[str, str, str | None], machine: str, words: str) -> None:
    found = compatibility(*versions, machine=machine)
    assert not found.fits
    assert words in found.fix
    assert all(str(version or "unknown") in found.text for version in versions)


def test_a_patch_of_cann_shares_the_row() -> None:
    assert compatibility("2.9.0", "2.9.0", "8.5.1").fits


def test_an_unknown_cann_is_named() -> None:
    found = compatibility("2.9.0", "2.9.0.post2", None)
    assert found.fits and "listed with CANN 9.0.0" in found.text


def test_only_versions_in_no_row_read_alloc_conf() -> None:
    assert reads_alloc_conf(TESTED)
    assert not any(reads_alloc_conf(pair.torch_npu) for pair in PAIRS)


def test_the_extras_install_the_recommended_pairs() -> None:
    if sys.version_info < (3, 11):
        pytest.skip("tomllib comes with Python 3.11")
    import tomllib

    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    best = {pair.extra: pair for pair in map(recommended, {p.cann for p in PAIRS}) if pair}
    assert extras["npu"] == [f"torch=={TESTED}", f"torch_npu=={TESTED}"]
    assert {name for name in extras if name.startswith("npu-")} == set(best)
    for name, pair in best.items():
        bound = [pair.numpy] if pair.numpy else []
        assert extras[name] == [f"torch=={pair.torch}", f"torch_npu=={pair.torch_npu}", *bound]


def test_the_document_has_the_table() -> None:
    page = (REPOSITORY / "docs" / "ascend.md").read_text()
    found = re.search(r"<!-- versions: begin -->\n(.*?)\n<!-- versions: end -->", page, re.S)
    assert found and DATE in found.group(1) and TOO_OLD in found.group(1)
    rows = [line for line in found.group(1).splitlines() if line.startswith("| ")][2:]
    for pair, row in zip(PAIRS, rows, strict=True):
        extra = f"`[{pair.extra}]`" if recommended(pair.cann) == pair else ""
        python = f"3.{pair.python[0]} to 3.{pair.python[1]}"
        numpy = f"`{pair.numpy}`" if pair.numpy else "no bound known"
        cells = (pair.cann, pair.torch, pair.torch_npu, python, numpy, extra)
        assert row == f"| {' | '.join(cells)} |"
    for pair in filter(None, map(recommended, {p.cann for p in PAIRS})):
        assert pip_install(pair).replace(" && ", "\n") in found.group(1)

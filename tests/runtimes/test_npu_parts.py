"""Parts of the NPU runtime that need no NPU: chips, environment, probe of batch norm."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from shufflenet_fn_backends.batch_norm import CHANNELS, Probe, decide, probe
from shufflenet_fn_backends.primitives import ThirdResult
from shufflenet_fn_backends.runtimes.npu.chip import (
    check_together,
    dtypes,
    float32_warning,
    half,
    has_bfloat16,
)
from shufflenet_fn_backends.runtimes.npu.environment import RECOMMENDED, set_recommended
from shufflenet_fn_backends.runtimes.npu.pairs import (
    DATE,
    PAIRS,
    TESTED,
    TOO_OLD,
    compatibility,
    find,
    pip_install,
    reads_alloc_conf,
    recommended,
)
from shufflenet_fn_backends.support.errors import DeviceError, UsageError
from tests.conftest import REPOSITORY

OLD = ("Ascend910A", "Ascend910ProA", "Ascend910PremiumA", "Ascend910B", "Ascend910ProB", "Ascend310P3")
NEW = ("Ascend910B1", "Ascend910B2C", "Ascend910B4-1", "Ascend910_9391", "Ascend950DT")


@pytest.mark.parametrize("soc", OLD + NEW)
def test_chips_with_and_without_bfloat16(soc: str) -> None:
    able = soc in NEW
    assert has_bfloat16(soc) == able
    assert (torch.bfloat16 in dtypes(soc)) == able
    assert torch.float64 not in dtypes(soc)
    assert half(soc).dtype == (torch.bfloat16 if able else torch.float16)
    assert soc in half(soc).reason
    warning = float32_warning(soc)
    assert (warning is None) == able
    assert warning is None or ("--precision O2" in warning and soc in warning)


def test_the_environment_is_set_where_it_is_not() -> None:
    environment: dict[str, str] = {}
    (note,) = set_recommended(environment)
    assert environment == RECOMMENDED
    assert all(f"{name}={value}" in note for name, value in RECOMMENDED.items())
    assert set_recommended(environment) == ()


@pytest.mark.parametrize(
    ("own", "torch_npu", "left"),
    [
        ({"HCCL_CONNECT_TIMEOUT": "1200", "TASK_QUEUE_ENABLE": "0"}, None, ()),
        # torch_npu ends the process where both of its variables are set, from release 26.2.0 on.
        ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}, "2.13.0", ("PYTORCH_NPU_ALLOC_CONF",)),
    ],
)
def test_what_the_user_has_set_stays(
    own: dict[str, str], torch_npu: str | None, left: tuple[str, ...]
) -> None:
    environment = dict(own)
    set_now, kept = set_recommended(environment, torch_npu=torch_npu)
    recommended = {name: value for name, value in RECOMMENDED.items() if name not in left}
    assert environment == {**recommended, **own}
    assert "HCCL_EXEC_TIMEOUT=544" in set_now and not any(name in set_now for name in (*own, *left))
    assert all(f"{name}={value}" in kept for name, value in own.items())


def test_older_torch_npu_reads_its_own_variable_alone() -> None:
    environment = {"PYTORCH_ALLOC_CONF": "max_split_size_mb:64"}
    set_recommended(environment, torch_npu="2.12.0")
    assert environment["PYTORCH_NPU_ALLOC_CONF"] == RECOMMENDED["PYTORCH_NPU_ALLOC_CONF"]


def together(soc: str, *devices: int, visible: str | None = None, dev: Path = Path("/nowhere")) -> str | None:
    """Why devices cannot train together, or ``None``."""
    environment = {} if visible is None else {"ASCEND_RT_VISIBLE_DEVICES": visible}
    try:
        check_together(soc, devices, environment=environment, dev=dev)
    except UsageError as error:
        return str(error)
    return None


TWO_GROUPS = "0-3 or all in 4-7"


@pytest.mark.parametrize(
    ("devices", "visible", "said"),
    [
        *(
            (devices, None, None)
            for devices in ((5,), (0, 3), (4, 6), (0, 1, 2, 3), (7, 6, 5, 4), tuple(range(8)))
        ),
        *((devices, None, "1, 2, 4 or 8") for devices in ((0, 1, 2), (0, 1, 2, 3, 4, 5))),
        *((devices, None, TWO_GROUPS) for devices in ((0, 1, 4, 5), (3, 4))),
        # The groups are the machine's; the numbers that a run is given count what it sees.
        ((0, 1), "4,5", None),
        ((0, 1), "3,4", "which are 3,4 of the machine"),
        ((2, 3), "0,1,4,5", None),
    ],
)
def test_devices_that_a_910a_joins(devices: tuple[int, ...], visible: str | None, said: str | None) -> None:
    for soc in ("Ascend910A", "Ascend910ProB"):
        text = together(soc, *devices, visible=visible)
        if said is None:
            assert text is None
        else:
            assert text is not None and said in text and ",".join(map(str, devices)) in text
    assert together("Ascend910B1", *devices, visible=visible) is None


def test_a_container_keeps_the_numbers_of_files(tmp_path: Path) -> None:
    for name in ("davinci2", "davinci3", "davinci4", "davinci_manager"):
        (tmp_path / name).touch()
    assert together("Ascend910A", 0, 1, dev=tmp_path) is None
    text = together("Ascend910A", 1, 2, dev=tmp_path)
    assert text is not None and "which are 3,4 of the machine" in text
    assert together("Ascend910A", 0, 1, dev=tmp_path, visible="1,2") is not None


def test_the_timeouts_fit_each_other() -> None:
    """A collective gives up before the process group's watchdog does, and in steps of 68 s on old chips."""
    from inspect import signature

    from shufflenet_fn.distributed.group import process_group
    from shufflenet_fn.distributed.world import JOIN_TIMEOUT_S

    group = signature(process_group).parameters["timeout_s"].default
    execute, connect = (int(RECOMMENDED[f"HCCL_{name}_TIMEOUT"]) for name in ("EXEC", "CONNECT"))
    assert execute < group and connect < group
    assert execute % 68 == 0
    assert JOIN_TIMEOUT_S <= connect <= 7200


@pytest.mark.parametrize(
    ("kinds", "kind"),
    [
        (("var",) * 3, "var"),
        (("invstd",) * 3, "invstd"),
        *(((("var", "var", "invstd")), None), (("var", None, "var"), None), ((None,) * 3, None)),
    ],
)
def test_third_result_is_what_all_kernels_agree_on(
    kinds: tuple[ThirdResult | None, ...], kind: ThirdResult | None
) -> None:
    probes = [Probe(c, 5.5, 5.0, 0.4, found) for c, found in zip(CHANNELS, kinds, strict=True)]
    if kind is not None:
        assert decide(probes, "npu:0") == kind
        return
    with pytest.raises(DeviceError, match=r"63 channels: 5\.5 \(variance 5, inverse .* 0\.4\)"):
        decide(probes, "npu:0")


def test_probe_tells_the_third_results_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    original = torch.native_batch_norm

    def kernel(third: Callable[[torch.Tensor], torch.Tensor]) -> Callable[..., Any]:
        def batch_norm(x: torch.Tensor, *arguments: object) -> tuple[torch.Tensor, ...]:
            return *original(x, *arguments)[:2], third(x.var((0, 2, 3), correction=0))

        return batch_norm

    found = {}
    for name, third in {
        "var": lambda var: var,
        "invstd": lambda var: (var + 0.25).rsqrt(),
        "unbiased": lambda var: var * 4 / 3,
        "eps": lambda var: var + 0.25,
    }.items():
        monkeypatch.setattr(torch, "native_batch_norm", kernel(third))
        found[name] = [one.kind for one in probe(torch.device("cpu"))]
    assert found == {"var": ["var"] * 3, "invstd": ["invstd"] * 3, "unbiased": [None] * 3, "eps": [None] * 3}


# ---- ascend's table of versions: search, extras, and the page in the docs ----


def test_every_row_is_a_pair() -> None:
    for row in PAIRS:
        assert find(row.torch_npu) == row
        assert compatibility(f"{row.torch}+cpu", row.torch_npu, row.cann).fits
        assert row.torch_npu == row.torch or row.torch_npu.startswith(f"{row.torch}.post")
        assert not reads_alloc_conf(row.torch_npu)
    assert reads_alloc_conf(TESTED)
    assert compatibility("2.9.0", "2.9.0", "8.5.1").fits, "a patch of CANN shares the row"
    unknown = compatibility("2.9.0", "2.9.0.post2", None)
    assert unknown.fits and "listed with CANN 9.0.0" in unknown.text


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

"""Reading the vendor's sources out of the emulator's C++, and the command that prints them."""

from __future__ import annotations

import json
from pathlib import Path

from ascend_emulator.vendor_sources import Function, emulated_functions
from tests.conftest import Command

_OPERATORS = """
#define PAIR(Name, types, f)                              \\
  ACLNN(aclnn##Name, types, In self, Out out) { f; }      \\
  ACLNN(aclnnInplace##Name##Scalar, types, InOut self) { f; }
#define BOTH(Name, types, f) \\
  PAIR(Name, types, f)       \\
  ACLNN(aclnn##Name##Tensor, types, In self, Out out) { f; }

// Adds.
// Follows ops-math@9.1.0 math/add/docs/aclnnAdd&aclnnInplaceAdd.md
// Follows op-plugin@517f2e7d op_plugin/ops/Add.cpp
ACLNN(aclnnAdd, numbers, In self, Out out) { }

// aclnnEqTensor follows ops-math@9.1.0 math/equal/docs/aclnnEqTensor.md
BOTH(Eq, numbers, at::eq)
// Follows ops-math@9.1.0 math/ne.md

PAIR(Ne, numbers, at::ne)
EMULATOR_MISSING(aclmdlRIDestroy)
EMULATOR_API const char* aclrtGetSocName() { return soc(); }
EMULATOR_API void emulator_counters_reset() { }
"""
_COLLECTIVES = """
// Follows hccl@9.1.0 docs/HcclSend.md
EMULATOR_API HcclResult HcclSend(void* sendBuf,
                                 uint64_t count) {
"""


def test_functions_and_their_sources(tmp_path: Path) -> None:
    for folder, text in (("aclnn", _OPERATORS), ("hccl", _COLLECTIVES)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "some.cpp").write_text(text, encoding="utf-8")
    file, equal = "aclnn/some.cpp", "ops-math@9.1.0 math/equal/docs/aclnnEqTensor.md"
    add = (
        "ops-math@9.1.0 math/add/docs/aclnnAdd&aclnnInplaceAdd.md",
        "op-plugin@517f2e7d op_plugin/ops/Add.cpp",
    )
    assert emulated_functions(tmp_path) == [
        Function("operator", "aclnnAdd", file, add),
        Function("operator", "aclnnEqTensor", file, (equal,)),
        Function("operator", "aclnnEq", file, ()),
        Function("operator", "aclnnInplaceEqScalar", file, ()),
        Function("operator", "aclnnNe", file, ()),
        Function("operator", "aclnnInplaceNeScalar", file, ()),
        Function("runtime", "aclrtGetSocName", file, ()),
        Function("hccl", "HcclSend", "hccl/some.cpp", ("hccl@9.1.0 docs/HcclSend.md",)),
    ]


def test_command_prints_the_shipped_sources(process: Command) -> None:
    table, as_json = process("sources"), process("sources", "--json")
    assert table.code == as_json.code == 0, table.err + as_json.err
    report = json.loads(as_json.out)
    by_name = {one["name"]: one for one in report["functions"]}
    assert len(by_name) == len(report["functions"]) == report["compared"] + report["not_compared"]
    assert by_name["aclnnMm"]["sources"][0] == ("ops-nn@9.1.0 matmul/mat_mul_v3/docs/aclnnMm.md")
    assert {one["kind"] for one in report["functions"]} == {"operator", "runtime", "hccl"}
    assert table.out.rstrip().endswith(
        f"all: {report['compared']} compared, {report['not_compared']} not compared"
    )

"""Known error texts are matched by their own entries, and the documentation lists every entry."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from shufflenet_fn_backends.known_errors import explain, explain_all, known_errors, telling_line
from tests.conftest import REPOSITORY

RECORDED: list[dict[str, Any]] = yaml.safe_load(Path(__file__).with_name("recorded_texts.yaml").read_text())


@pytest.mark.parametrize("record", RECORDED, ids=lambda record: str(record["source"])[-60:])
def test_a_recorded_text_is_explained(record: dict[str, Any]) -> None:
    known = explain(record["text"])
    assert known is not None
    assert known.key == record["key"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("first\nERR00100 PTA call acl api failed.\n EI0002: rank 1 is late\n", "EI0002: rank 1 is late"),
        ("first\nRuntimeError: NPU out of memory. Tried to", "RuntimeError: NPU out of memory. Tried to"),
        ("\n  shape is invalid\nfor input", "shape is invalid"),
        ("", ""),
    ],
)
def test_telling_line_is_the_most_informative(text: str, line: str) -> None:
    assert telling_line(text) == line


@pytest.mark.parametrize(
    ("code", "key"),
    [
        (107001, "invalid device (107001)"),
        (107002, "context is empty (107002)"),
        (107020, "EI0002, 507048, 107020"),
        (107025, "stream that was not joined (107025)"),
        (107027, "stream is captured (107027, 107030)"),
        (107030, "stream is captured (107027, 107030)"),
        (207001, "out of memory"),
        (207004, "set ASCEND_RT_VISIBLE_DEVICES error (207004)"),
        (207008, "Insufficient_Stream_Resources (EL0009, 207008)"),
        (507008, "Failed to obtain the SOC version (507008)"),
        (507010, "ACL stream synchronize failed (507010 to 507050)"),
        (507011, "ACL stream synchronize failed (507010 to 507050)"),
        (507014, "ACL stream synchronize failed (507010 to 507050)"),
        (507015, "ACL stream synchronize failed (507010 to 507050)"),
        (507018, "aicpu exception (507018, retCode=0x2a)"),
        (507033, "Failed to start the device (507033)"),
        (507034, "ACL stream synchronize failed (507010 to 507050)"),
        (507035, "vector core execution is abnormal (507035)"),
        (507042, "ACL stream synchronize failed (507010 to 507050)"),
        (507046, "stream sync timeout (507046, EE1002)"),
        (507047, "stream sync timeout (507046, EE1002)"),
        (507048, "EI0002, 507048, 107020"),
        (507049, "ACL stream synchronize failed (507010 to 507050)"),
        (507054, "ECC error"),
        (507899, "ERR00100, ERR01100"),
    ],
)
def test_each_return_code_has_its_entry(code: int, key: str) -> None:
    known = explain(
        f"RuntimeError: synchronize:NPUStream.cpp:361 NPU function error: call(), error code is {code}\n"
        "[ERROR] 2026-01-01-00:00:00 (PID:1, Device:0, RankID:-1) ERR00100 PTA call acl api failed"
    )
    assert known is not None
    assert known.key == key


def test_numpy_comes_first_for_500001() -> None:
    known = explain("AclSetCompileopt(ACL_PRECISION_MODE, precision_mode), error code is 500001")
    assert known is not None
    assert known.fix.index("'numpy<2'") < known.fix.index("decorator")


def test_ports_of_host_and_device_differ() -> None:
    known = explain("EI0019: the IP address and port have been bound already")
    assert known is not None
    host, device = known.fix.split("Port 16666")
    assert "HCCL_IF_BASE_PORT" in host and "ip_local_reserved_ports=60000-60031" in host
    assert "HCCL_NPU_SOCKET_PORT_RANGE" in device and "HCCL_IF_BASE_PORT" not in device


def test_every_entry_has_a_recorded_text() -> None:
    assert {entry.key for entry in known_errors()} == {record["key"] for record in RECORDED}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "RuntimeError: shape '[2, 3]' is invalid for input of size 5",
        "epoch 1/90 step 10/834 loss 6.9100 Acc@1 0.12 FPS 5038",
        "KeyError: 'stage5'",
    ],
)
def test_unknown_texts_are_not_explained(text: str) -> None:
    assert explain(text) is None
    assert explain_all(text) == []


@pytest.mark.parametrize("entry", known_errors(), ids=lambda entry: str(entry.key))
def test_entries_are_whole(entry: Any) -> None:
    assert len(entry.meaning) > 20 and len(entry.fix) > 20 and entry.source
    # They are put together to sentences.
    assert not entry.meaning.endswith(".") and not entry.fix.endswith(".")
    re.compile(entry.pattern)


def test_keys_are_different() -> None:
    keys = [entry.key for entry in known_errors()]
    assert len(set(keys)) == len(keys)


def test_a_log_with_several_errors() -> None:
    log = "\n".join(str(record["text"]) for record in RECORDED if "EI0006" in record["key"])
    found = explain_all(log + "\nRuntimeError: NPU out of memory. Tried to allocate 52.00 MiB")
    # The general ERR01100, which is in the text as well, adds nothing.
    assert [entry.key for entry in found] == ["out of memory", "EI0006, EI0015"]


def test_document_has_the_whole_table() -> None:
    page = (REPOSITORY / "docs" / "ascend.md").read_text()
    head = "| text | what happened | what to do | source |\n| --- | --- | --- | --- |\n"
    rows = (f"| {e.key} | {e.meaning} | {e.fix} | {e.source} |\n" for e in known_errors())
    written = head + page.partition(head)[2].partition("\n\n")[0] + "\n"
    assert written == head + "".join(rows)


def test_doctor_explains_a_log(command: Callable[..., Any], tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text(RECORDED[0]["text"])
    outcome = command("doctor", "--explain", log)
    assert outcome.code == 0
    assert "libhccl.so" in outcome.out and "set_env.sh" in outcome.out
    assert "Source: MinerU issue 2537" in outcome.out
    known = json.loads(command("doctor", "--explain", log, "--json").out)["known"]
    assert [entry["source"][:17] for entry in known] == ["MinerU issue 2537"]
    log.write_text("all is well")
    assert "no error that is known" in command("doctor", "--explain", log).out
    missing = command("doctor", "--explain", tmp_path / "none.txt")
    assert missing.code == 2 and "none.txt" in missing.err

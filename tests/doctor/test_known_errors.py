"""Texts that users met are explained, each by the entry for it, and the document lists every entry."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from shufflenet_fn_backends.known_errors import explain, explain_all, known_errors, telling_line
from tests.conftest import REPOSITORY

RECORDED: list[dict[str, Any]] = yaml.safe_load(
    Path(__file__).with_name("recorded_texts.yaml").read_text()
)


@pytest.mark.parametrize("record", RECORDED, ids=lambda record: str(record["source"])[-60:])
def test_a_recorded_text_is_explained(record: dict[str, Any]) -> None:
    known = explain(record["text"])
    assert known is not None
    assert known.key == record["key"]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            "first\nERR00100 PTA call acl api failed.\n EI0002: rank 1 is late\n",
            "EI0002: rank 1 is late",
        ),
        (
            "first\nRuntimeError: NPU out of memory. Tried to",
            "RuntimeError: NPU out of memory. Tried to",
        ),
        ("\n  shape is invalid\nfor input", "shape is invalid"),
        ("", ""),
    ],
)
def test_the_line_that_says_most(text: str, line: str) -> None:
    assert telling_line(text) == line


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
def test_other_texts_are_not(text: str) -> None:
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
    assert [entry.key for entry in found] == ["out of memory", "EI0006"]


def test_the_document_lists_every_error() -> None:
    page = (REPOSITORY / "docs" / "ascend.md").read_text()
    for entry in known_errors():
        row = f"| {entry.key.replace('|', '/')} | {entry.meaning} | {entry.fix} |"
        assert row in page, f"docs/ascend.md lacks or differs in the row:\n{row}"


def test_doctor_explains_a_log(command: Callable[..., Any], tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    log.write_text(RECORDED[0]["text"])
    outcome = command("doctor", "--explain", log)
    assert outcome.code == 0
    assert "libhccl.so" in outcome.out and "set_env.sh" in outcome.out
    log.write_text("all is well")
    assert "no error that is known" in command("doctor", "--explain", log).out
    missing = command("doctor", "--explain", tmp_path / "none.txt")
    assert missing.code == 2 and "none.txt" in missing.err

"""Checkpoints that somebody made to do harm: each is refused with its reason, and nothing of it is used."""

from __future__ import annotations

import json
import os
import resource
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shufflenet_fn.checkpoint.format import (
    FORMAT,
    MANIFEST,
    OWN_HASH,
    STATE,
    WEIGHTS,
    DamagedCheckpoint,
    NewerCheckpoint,
    StoredFile,
    encode_manifest,
    sha256,
)
from shufflenet_fn.checkpoint.inventory import newest_good
from shufflenet_fn.checkpoint.read import read_checkpoint, verify
from shufflenet_fn.checkpoint.weights import read_weights
from shufflenet_fn.errors import UsageError
from shufflenet_fn.io import Disk
from tests.checkpoint.support import small


def signed(content: dict[str, Any]) -> bytes:
    """A manifest with a true hash of itself: anyone can make one."""
    blank = json.dumps({**content, OWN_HASH: "0" * 64})
    return blank.replace("0" * 64, sha256(blank.encode()), 1).encode()


def rewritten(checkpoint: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    changed = change(manifest)
    (checkpoint / MANIFEST).write_bytes(signed(changed if changed is not None else manifest))


def vouched(checkpoint: Path, name: str, content: bytes) -> None:
    """Replace a file and have the manifest vouch for it."""
    (checkpoint / name).write_bytes(content)

    def change(manifest: dict[str, Any]) -> None:
        manifest["files"][name] = {"sha256": sha256(content), "bytes": len(content)}

    rewritten(checkpoint, change)


def header(entries: dict[str, Any], data: bytes = b"", length: int | None = None) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


@pytest.mark.parametrize(
    "name", ["../../victim", "/etc/passwd", "a/b", "..", ".", "", "manifest.json", "x\0y", "weights"]
)
def test_only_files_of_a_checkpoint_are_ever_opened(folder: Path, name: str) -> None:
    checkpoint = small(folder, 1)
    rewritten(checkpoint, lambda m: m["files"].update({name: m["files"][WEIGHTS]}))
    with pytest.raises(DamagedCheckpoint, match="a file that no checkpoint has"):
        verify(checkpoint)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: {**m, "files": {}}, "does not list"),
        (lambda m: {**m, "files": [WEIGHTS, STATE]}, "does not list"),
        (lambda m: m["files"].update({WEIGHTS: {"sha256": "a"}}), "no hash and size"),
        (lambda m: m["files"][STATE].update(bytes=-1), "no hash and size"),
        (lambda m: m["files"][STATE].update(bytes=10**18), "has .* bytes and not"),
        (lambda m: m["files"][STATE].update(sha256="0" * 63), "no hash and size"),
        (lambda m: {**m, "step": -1}, "as its step"),
        (lambda m: {**m, "step": 1.0}, "as its step"),
        (lambda m: {**m, "step": True}, "as its step"),
        (lambda m: {**m, "step": 2}, "is of step 2"),
        (lambda m: {**m, "format": "1"}, "not of a checkpoint of shufflenet-fn"),
        (lambda m: {**m, "format": 0}, "not of a checkpoint of shufflenet-fn"),
        (lambda m: {**m, "format": True}, "not of a checkpoint of shufflenet-fn"),
    ],
)
def test_inconsistent_manifest_is_damage(
    folder: Path, change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    checkpoint = small(folder, 1)
    rewritten(checkpoint, change)
    with pytest.raises(DamagedCheckpoint, match=said):
        verify(checkpoint)


def test_a_newer_format_is_named_and_passed_over(folder: Path) -> None:
    good, newer = small(folder, 1), small(folder, 2)
    rewritten(newer, lambda m: {**m, "format": FORMAT + 1, "files": "of another form"})
    with pytest.raises(NewerCheckpoint, match=r"format 2, and this version .* Upgrade"):
        verify(newer)
    found, notes = newest_good(folder)
    assert found is not None and found.path == good and "format 2" in notes[0]


@pytest.mark.parametrize(
    "content",
    [
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1, "a": 2}',
        b"[" * 200_000,
        b'{"a": ' * 50_000,
        b"\xff\xfe{}",
        b"1" * 10_000,
        b"{} {}",
        b"\0" * 100,
        *(b"[]", b"null", b"{}", b'{"sha256": 3}', b'{"sha256": {}}'),
    ],
)
def test_manifest_of_another_form_is_damage(folder: Path, content: bytes) -> None:
    checkpoint = small(folder, 1)
    (checkpoint / MANIFEST).write_bytes(content)
    with pytest.raises(DamagedCheckpoint, match=MANIFEST):
        verify(checkpoint)


@pytest.mark.parametrize("name", [MANIFEST, WEIGHTS, STATE])
def test_symbolic_links_and_pipes_are_not_read(folder: Path, name: str) -> None:
    checkpoint = small(folder, 1)
    other = folder.parent / "same content elsewhere"
    (checkpoint / name).rename(other)
    (checkpoint / name).symlink_to(other)
    with pytest.raises(DamagedCheckpoint, match=f"{name} is a symbolic link"):
        verify(checkpoint)
    (checkpoint / name).unlink()
    os.mkfifo(checkpoint / name)
    with pytest.raises(DamagedCheckpoint, match=f"{name} is no regular file"):
        verify(checkpoint)


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}

BAD_HEADERS: dict[str, bytes] = {
    "longer than the file": header({}, length=10**6),
    "the longest there is": header({}, length=2**64 - 1),
    "no length": b"\x08\0\0",
    "huge shape": header({"a": {**ONE, "shape": [2**40, 2**40]}}, bytes(4)),
    "shape of zero and huge": header({"a": {**ONE, "shape": [0, 2**62], "data_offsets": [0, 4]}}, bytes(4)),
    "negative": header({"a": {**ONE, "shape": [-1, -1]}}, bytes(4)),
    "beyond the end": header({"a": {**ONE, "data_offsets": [4, 8]}}, bytes(4)),
    "overlapping": header({"a": ONE, "b": ONE}, bytes(8)),
    "hole": header({"a": ONE}, bytes(8)),
    "not an object": header([]),  # type: ignore[arg-type]
    "no entry": header({"a": 3}),
    "NaN": struct.pack("<Q", 9) + b'{"a":NaN}',
}


@pytest.mark.parametrize("kind", BAD_HEADERS)
def test_bad_header_with_true_hash_is_refused(folder: Path, kind: str) -> None:
    good, checkpoint = small(folder, 1), small(folder, 2)
    vouched(checkpoint, STATE, BAD_HEADERS[kind])
    for read in (verify, read_checkpoint):
        with pytest.raises(DamagedCheckpoint, match=STATE):
            read(checkpoint)
    found, _ = newest_good(folder)
    assert found is not None and found.path == good
    file = folder.parent / "w.safetensors"
    file.write_bytes(BAD_HEADERS[kind])
    with pytest.raises(UsageError, match="damaged") as error:
        read_weights(file)
    assert str(file) in str(error.value)


def test_huge_files_are_refused_before_reading(tmp_path: Path) -> None:
    file = tmp_path / "huge"
    with open(file, "wb") as opened:
        opened.truncate(8 << 30)  # sparse: takes no space
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    checkpoint = small(tmp_path / "checkpoints", 1)
    (checkpoint / STATE).unlink()
    os.link(file, checkpoint / STATE)
    rewritten(checkpoint, lambda m: m["files"][STATE].update(bytes=8 << 30))
    with pytest.raises(DamagedCheckpoint, match="more than"):
        verify(checkpoint)
    (checkpoint / MANIFEST).unlink()
    os.link(file, checkpoint / MANIFEST)
    with pytest.raises(DamagedCheckpoint, match="more than"):
        verify(checkpoint)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


def test_a_checkpoint_of_something_else_is_not_resumed(command: Callable[..., Any], tmp_path: Path) -> None:
    """Its hashes are true, but nothing in it is of a training run."""
    run = tmp_path / "run"
    run.mkdir()
    about: dict[str, Any] = {
        **dict(arch="shufflenet_v2_x0_5", classes=["a"], epoch=0, steps_per_epoch=1),
        **dict(unfinished=None, skipped_in_a_row=0, best=None, scores=None),
        **dict(device="cpu", backend="cpu", lanes=1, global_batch=1, threads=1, identity={}),
        **dict(settings={}, origin={}, preset=None),
    }
    for changed in (
        {"classes": [1]},
        {"steps_per_epoch": 0},
        {"best": {"accuracy1": "high", "epoch": 1}},
        {"unfinished": {}},
        {"settings": []},
        {"settings": {"epochs": "many"}},
        {"settings": {"keep": -1}},
    ):
        small(run / "checkpoints", 1, **{**about, **changed})
        outcome = command("train", "--resume", run)
        assert outcome.code in (1, 2), changed
        assert outcome.err.startswith("error: ") and "Traceback" not in outcome.err
        assert next(iter(changed)) in outcome.err or "keep" in outcome.err or "epochs" in outcome.err


def test_extra_fields_cannot_override_manifest(folder: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_manifest({"loss": float("nan")}, 1, {})
    text = encode_manifest({"format": 7, "step": 9, "files": 1}, 1, {WEIGHTS: StoredFile("0", 1)})
    assert json.loads(text)["format"] == FORMAT and json.loads(text)["step"] == 1


def test_write_does_not_follow_symbolic_link(folder: Path) -> None:
    folder.mkdir()
    victim = folder.parent / "victim"
    victim.write_text("precious")
    (folder / ".step-00000001.partial").symlink_to(folder.parent)
    (folder / ".latest.json.partial").symlink_to(victim)
    small(folder, 1)
    with pytest.raises(OSError):
        Disk().write(folder / ".latest.json.partial", b"lost")
    assert victim.read_text() == "precious" and (folder / "step-00000001").is_dir()

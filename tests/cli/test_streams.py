"""Standard streams that fail, are closed or cannot encode, and paths of any bytes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest

from shufflenet_fn_cli.main import main

Command = Callable[..., tuple[int, str, str]]

TINY = ("--arch", "x0_5", "--image-size", "32", "--batch-size", "8", "--device", "cpu")
LOST = " cannot be written: "


def broken_pipe() -> int:
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def opened(kind: str, path: Path) -> TextIO:
    """A stream of this kind; a good one writes to ``path``."""
    target: dict[str, Callable[[], int | str]] = {
        "full": lambda: "/dev/full",
        "pipe": broken_pipe,
        "closed": lambda: os.open(os.devnull, os.O_RDONLY),
    }
    encoding = "ascii" if kind == "ascii" else "utf-8"
    return open(target.get(kind, lambda: str(path))(), "w", encoding=encoding)


Streams = Callable[..., tuple[int, str, str]]


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Streams:
    """Run a command in this process with kinds of standard output and error."""
    monkeypatch.chdir(tmp_path)
    written = tmp_path / "out", tmp_path / "err"

    def run(*arguments: str, out: str = "good", err: str = "good") -> tuple[int, str, str]:
        for path in written:
            path.write_text("")
        with (
            opened(out, written[0]) as output,
            opened(err, written[1]) as error,
            monkeypatch.context() as patch,
        ):
            patch.setattr(sys, "stdout", output)
            patch.setattr(sys, "stderr", error)
            patch.setattr(sys, "argv", ["shufflenet-fn", *arguments])
            with pytest.raises(SystemExit) as end:
                main()
        shown, said = (path.read_text(encoding="utf-8") for path in written)
        return int(str(end.value.code or 0)), shown, said

    return run


@pytest.mark.parametrize(
    ("out", "err", "lost"),
    [
        ("full", "good", "standard output cannot be written: No space left on device"),
        ("pipe", "good", "standard output cannot be written: Broken pipe"),
        ("good", "full", "standard error cannot be written: No space left on device"),
        ("pipe", "pipe", "standard output cannot be written: Broken pipe"),
        ("ascii", "ascii", None),
    ],
)
def test_training_outlives_its_streams(
    streams: Streams, image_folder: Path, tmp_path: Path, out: str, err: str, lost: str | None
) -> None:
    arguments = ("train", *TINY, "--data", str(image_folder), "--run-dir", "r", "--epochs", "1")
    # A warm-up that is not over is a warning on standard error.
    code, shown, said = streams(*arguments, "--warm-up-epochs", "2", out=out, err=err)
    assert code == 0
    assert (tmp_path / "r" / "results.json").exists()
    assert (tmp_path / "r" / "checkpoints" / "step-00000003").exists()
    log = (tmp_path / "r" / "log.txt").read_text(encoding="utf-8")
    assert log.count("32²") == 1
    if lost is None:
        assert LOST not in log and "at 32\\xb2" in shown
        return
    assert log.count(f"warning: {lost}. The command goes on without it.") == 1
    if "good" in (out, err):
        assert (shown + said).count(lost) == 1


@pytest.mark.parametrize(
    ("out", "code", "words"),
    [
        ("pipe", 0, ""),
        ("closed", 0, "warning: standard output cannot be written: it is closed"),
        ("full", 1, "warning: standard output cannot be written: No space left"),
        ("ascii", 0, ""),
    ],
)
def test_printing_verb_whose_output_is_lost(
    streams: Streams, run: Path, out: str, code: int, words: str
) -> None:
    for verb in ("list", "show", "verify"):
        got, _, said = streams("checkpoint", verb, str(run), out=out)
        assert got == code
        assert said.startswith(words) and said.count("\n") == bool(words)


def test_tables_are_whole_outside_a_terminal(
    command: Command, process: Command, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    shown = command("checkpoint", "show", run)[1]
    assert "opt_state.momentum.stage4.3.branch2.dw.bn.weight" in shown
    listed = command("checkpoint", "list", run)[1].splitlines()
    assert len(listed) == 1 + 3
    # Typer reads the width of its help when it is first imported.
    assert "--no-multiprocessing-distributed" in process("train", "--help")[1]


def test_json_stays_alone_when_errors_are_lost(streams: Streams, run: Path) -> None:
    _, shown, _ = streams("evaluate", str(run), "--json", err="full")
    assert json.loads(shown)["num_images"] == 10
    _, shown, _ = streams("evaluate", str(run), err="full")
    assert "warning: standard error cannot be written" in shown


def test_ranks_with_closed_descriptors(image_folder: Path, tmp_path: Path) -> None:
    command = (sys.executable, "-m", "shufflenet_fn_cli.main", "train", *TINY)
    options = ("--data", str(image_folder), "--devices", "2", "--run-dir", "r", "--max-steps", "1")
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&-', "sh", *command, *options],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    lost = "standard output cannot be written: it is closed"
    assert done.stderr.count(lost) == 1
    assert lost in (tmp_path / "r" / "log.txt").read_text()
    assert not (tmp_path / "r" / "log.rank1.txt").read_text().count(lost)


def test_paths_that_are_not_utf8(command: Command, image_folder: Path, tmp_path: Path) -> None:
    data, run, packed = (os.fsdecode(name) for name in (b"caf\xe9", b"r\xff", b"p\xfe"))
    try:
        shutil.copytree(image_folder, tmp_path / data)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    train = ("train", *TINY, "--data", data, "--run-dir", run, "--profile", run + "p")
    code, out, err = command(*train, "--epochs", 1)
    assert code == 0, err
    assert "data: caf\\xe9, 24 training images" in out
    assert list((tmp_path / (run + "p")).glob("rank0*.json"))
    log = (tmp_path / run / "log.txt").read_text(encoding="utf-8")
    assert "run directory: r\\xff\n" in log
    settings = json.loads((tmp_path / run / "config.json").read_text())["settings"]
    assert (settings["data"], settings["run_dir"]) == (data, run)
    for arguments, words in (
        (("train", "--resume", run, "--epochs", 2), "done in"),
        (("train", "--config", f"{run}/config.json", "--run-dir", f"{run}2"), "data=caf\\xe9"),
        (("evaluate", run), "Acc@1"),
        (("evaluate", run, "--json"), '"r\\udcff/checkpoints'),
        (("checkpoint", "show", run), "data=caf\\xe9"),
        (("data", "pack", data, packed), "--data p\\xfe"),
        (("data", "info", packed, "--json"), '"folder": "p\\udcfe"'),
        (("data", "info", packed), "p\\xfe: packed"),
    ):
        code, out, err = command(*arguments)
        assert code == 0 and words in out, err


def test_home_in_arguments(
    command: Command, monkeypatch: pytest.MonkeyPatch, image_folder: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    shutil.copytree(image_folder, tmp_path / "home" / "images")
    train = ("train", *TINY, "--data_path=~/images", "--output=~/runs", "--max-steps", 1)
    assert command(*train)[0] == 0
    assert command("checkpoint", "list", "~/runs/x0_5-001")[0] == 0
    assert command("data", "info", "~/images")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    code, _, err = command("data", "info", "~nobody-here/images")
    assert code == 2 and "~nobody-here is no home directory" in err

"""On a terminal, shells complete the values of options, and rich draws."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shufflenet_fn.model.config import get_config
from shufflenet_fn.training.loss_scale import parse_loss_scaling
from shufflenet_fn.training.precision import get_policy
from shufflenet_fn_cli.options import KNOWN
from tests.cli.conftest import TINY

Command = Callable[..., object]
DEADLINE_S = 120


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("train --arch x", "x0_5 x1_0 x1_5 x2_0"),
        ("train --arch shufflenet_v2_x1", "shufflenet_v2_x1_0 shufflenet_v2_x1_5"),
        ("train --preset asc", "ascend-1p ascend-8p"),
        ("train --backend r", "reference routed"),
        ("train --precision O", "O0 O1 O2 O3"),
        ("train --loss-scale ", "auto dynamic none"),
        ("evaluate runs/1 --split ", "val train"),
        ("predict runs/1 --engine o", "onnxruntime openvino"),
        ("predict runs/1 photos --format ", "table csv jsonl"),
        ("embed runs/1 photos --at stage", "stage2 stage3 stage4"),
        ("export runs/1 --input ", "image tensor"),
        ("data pack a b --on-bad-image ", "stop skip"),
        ("bench infer --arch x2", "x2_0"),
        ("train --data ", ""),
        ("predict ", ""),  # the shell completes files
        ("emb", "embed"),
    ],
)
def test_values_of_options_are_completed(
    line: str, expected: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = f"shufflenet-fn {line}".split(" ")
    monkeypatch.setenv("_SHUFFLENET_FN_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "\n".join(words))
    monkeypatch.setenv("COMP_CWORD", str(len(words) - 1))
    assert command() == (0, "".join(f"{word}\n" for word in expected.split()) or "\n", "")


def test_completed_values_are_valid() -> None:
    for name, read in (("arch", get_config), ("precision", get_policy), ("loss_scale", parse_loss_scaling)):
        for value in KNOWN[name]:
            if value != "auto":
                read(value)


# Opening the terminal makes it the controlling one of the new session, as shells expect.
IN_TERMINAL = "import os, sys; os.open(os.ttyname(0), os.O_RDWR); os.execvp(sys.argv[1], sys.argv[1:])"


class Terminal:
    """A shell on a pseudo-terminal."""

    def __init__(self, arguments: list[str], environment: dict[str, str]) -> None:
        self._descriptor, inside = pty.openpty()
        self._shell = subprocess.Popen(
            [sys.executable, "-c", IN_TERMINAL, *arguments],
            env=environment,
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
        )
        os.close(inside)
        self.shown = b""

    def type(self, text: str) -> None:
        os.write(self._descriptor, text.encode())

    def wait_for(self, text: str) -> None:
        end = time.monotonic() + DEADLINE_S
        while text.encode() not in self.shown:
            assert time.monotonic() < end, self.shown
            if select.select([self._descriptor], [], [], 1)[0]:
                self.shown += os.read(self._descriptor, 4096)

    def close(self) -> None:
        self._shell.kill()
        self._shell.wait()
        os.close(self._descriptor)


SHELLS = {"bash": ["--norc", "--noprofile", "-i"], "zsh": ["-f", "-i"], "fish": ["--no-config", "-i"]}
START = {"bash": "", "zsh": "autoload -Uz compinit; compinit -u; ", "fish": ""}


@pytest.fixture(params=SHELLS)
def terminal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Terminal]:
    """A shell in which our command and its completion are installed."""
    shell = request.param
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    program = tmp_path / "shufflenet-fn"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m shufflenet_fn_cli.main "$@"\n')
    program.chmod(0o755)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "HOME": str(tmp_path), "TERM": "dumb", "PS1": "$ "}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    opened = Terminal([shell, *SHELLS[shell]], environment)
    script = f"_SHUFFLENET_FN_COMPLETE=source_{shell} shufflenet-fn > script; source script"
    opened.type(f"cd {tmp_path}; {START[shell]}{'env ' if shell == 'fish' else ''}{script}; echo re''ady\n")
    opened.wait_for("ready")
    yield opened
    opened.close()


def test_shell_completes_a_value(terminal: Terminal) -> None:
    terminal.type("shufflenet-fn train --arch x2\t")
    terminal.wait_for("x2_0")


@pytest.fixture
def program(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Terminal]:
    """Run ``shufflenet-fn`` on a terminal, in ``tmp_path``."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.chdir(tmp_path)
    screen = {"TERM": "xterm-256color", "COLUMNS": "160", "LINES": "50"}

    def run(*arguments: object, **variables: str) -> Terminal:
        environment = {**os.environ, **screen, "PYTHONPATH": os.pathsep.join(sys.path), **variables}
        words = ["-m", "shufflenet_fn_cli.main", *map(str, arguments)]
        opened = Terminal([sys.executable, *words], environment)
        request.addfinalizer(opened.close)
        return opened

    return run


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_progress_is_drawn_in_colour(
    program: Callable[..., Terminal], variables: dict[str, str], coloured: bool, image_folder: Path
) -> None:
    opened = program("data", "check", image_folder, **variables)
    opened.wait_for("a training run would not stop")
    assert "━━━━".encode() in opened.shown
    assert bool(re.search(rb"\x1b\[[\d;]*3[0-9]", opened.shown)) == coloured


def test_training_is_shown_live(program: Callable[..., Terminal], image_folder: Path) -> None:
    opened = program("train", *TINY, "--data", image_folder, "--epochs", 2, "--run-dir", "run")
    opened.wait_for("done in")
    for word in ("Acc@1 val", "2/2", "ETA", "FPS", "1p-CPU"):
        assert word.encode() in opened.shown, word

"""The README and docs are true: their code runs, their commands parse, their links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *REPOSITORY.glob("docs/*.md")]


def blocks(page: Path, language: str) -> list[str]:
    """The contents of a page's fenced code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), re.M | re.S)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_python_code_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    program = "\n".join(blocks(page, "python"))
    with warnings.catch_warnings():
        # As for a user, to whom torch's own FutureWarnings are not errors.
        warnings.simplefilter("default")
        warnings.simplefilter("error", UserWarning)
        exec(compile(program, str(page), "exec"), {"__name__": "__main__"})


def documented_commands() -> list[str]:
    text = "\n".join(block for page in PAGES for block in blocks(page, "sh"))
    return [
        line[line.index("shufflenet-fn ") :] for line in text.splitlines() if "shufflenet-fn " in line
    ] + [
        "shufflenet-fn " + line.partition("shufflenet_fn_cli.main ")[2]
        for line in text.splitlines()
        if "shufflenet_fn_cli.main " in line
    ]


@pytest.mark.parametrize("line", documented_commands())
def test_commands_parse(line: str, command: Callable[..., Any]) -> None:
    # An option that does not exist is reported before the help is shown.
    outcome = command(*shlex.split(line, comments=True)[1:], "--help")
    assert outcome.code == 0, outcome.err
    assert "Usage: shufflenet-fn" in outcome.out


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_changelog_knows_the_version() -> None:
    assert f"## [{version('shufflenet-fn')}]" in (REPOSITORY / "CHANGELOG.md").read_text()


def test_ci_runs_the_command_of_the_readme() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    found = re.search(r"<!-- command: tests -->\n```sh\n(.+)\n```", readme)
    assert found and found.group(1).endswith("nox")
    assert "command: tests" in (REPOSITORY / ".ci" / "run").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shorter", "least"),
    [(("--epochs", "4"), 60), pytest.param((), 90, marks=pytest.mark.campaign)],
    ids=["shorter", "as printed"],
)
def test_the_demo_command_learns(shorter: tuple[str, ...], least: int, tmp_path: Path) -> None:
    """The README's first command, without its installation."""
    readme = (REPOSITORY / "README.md").read_text()
    found = re.search(r"<!-- command: demo -->\n```sh\n(.+)\n```", readme)
    assert found
    words = shlex.split(found.group(1).rpartition("&&")[2])
    assert words[0] == ".venv/bin/shufflenet-fn"
    done = subprocess.run(
        [sys.executable, "-m", "shufflenet_fn_cli.main", *words[1:], *shorter],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    accuracy = re.search(r"^done in .*: Acc@1 ([\d.]+)", done.stdout, re.M)
    assert accuracy and float(accuracy.group(1)) > least, done.stdout

"""Fixtures for the whole suite. Nothing here reads anything that is not in the repository."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parent.parent
# Three times what CONTRIBUTING allows: even CPU time doubles on a slow or busy machine.
SLOW_CPU_SECONDS = 60


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device",
        choices=("cpu", "cuda", "npu"),
        default="cpu",
        help="where tests/parity computes (default: cpu)",
    )


def pytest_configure(config: pytest.Config) -> None:
    # In the background of a shell, or under nohup, these are ignored, also by all processes that tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    name = config.getoption("device")
    if name == "cpu":
        return
    from shufflenet_fn_backends.runtimes.select import select_runtime
    from shufflenet_fn_backends.support.errors import DeviceError

    try:
        select_runtime(name)
    except DeviceError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out ``tests/npu`` where it could only skip; naming it on the command line still collects it."""
    from ascend_emulator.build import LIBRARIES

    off_emulator = not os.environ.get(LIBRARIES)
    return True if off_emulator and collection_path == REPOSITORY / "tests" / "npu" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put modules with slow tests first: at the end, one slow test keeps all other workers waiting."""
    first = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in first)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Note the CPU time of a test and of the processes that it waited for."""
    before = _cpu_seconds()
    try:
        yield
    finally:
        item.user_properties.append(("cpu_s", _cpu_seconds() - before))


def _cpu_seconds() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail if a test needs the marker ``slow``."""
    if _unmarked(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if unmarked := _unmarked(terminalreporter.config):
        terminalreporter.section(f"failed: above {SLOW_CPU_SECONDS} CPU seconds without the marker slow")
        for seconds, name in unmarked:
            terminalreporter.write_line(f"{seconds:.0f} s  {name}")


def _unmarked(config: pytest.Config) -> list[tuple[float, str]]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    found = [
        (dict(report.user_properties).get("cpu_s", 0.0), report.nodeid)
        for report in (reporter.stats.get("passed", []) if reporter else [])
        if not {"slow", "campaign", "interop"} & set(report.keywords)
    ]
    return sorted((one for one in found if one[0] > SLOW_CPU_SECONDS), reverse=True)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of this test session that all of pytest-xdist's workers see."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(autouse=True, scope="session")
def _private_cache(shared_folder: Path) -> None:
    """The demo data set and everything else cached goes to a folder of this test session.

    One for all workers: what is compiled on first use is compiled once.
    """
    os.environ["XDG_CACHE_HOME"] = str(shared_folder / "cache")


class Outcome(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """Run ``shufflenet-fn`` through its entry point, in this process and in ``tmp_path``."""
    from shufflenet_fn_cli.main import main

    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["shufflenet-fn", *map(str, arguments)])
        code: object = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        captured = capsys.readouterr()
        return Outcome(int(str(code or 0)), captured.out, captured.err)

    return run


@pytest.fixture
def process(tmp_path: Path) -> Command:
    """Run ``shufflenet-fn`` as a process of its own in ``tmp_path``."""

    def run(*arguments: object, timeout: float = 300.0) -> Outcome:
        done = subprocess.run(
            [sys.executable, "-m", "shufflenet_fn_cli.main", *map(str, arguments)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small learnable ImageFolder: 3 classes told apart by colour, 24 + 10 JPEGs of 40×48."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, per_class in (("train", 8), ("val", 4)):
        for label, name in enumerate(("blue", "green", "red")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(per_class - (1 if split == "val" and label else 0)):
                pixels = rng.integers(0, 90, (40, 48, 3), dtype=np.uint8)
                pixels[..., 2 - label] += 150
                Image.fromarray(pixels).save(folder / f"{number:02d}.jpg", quality=95)
    return root

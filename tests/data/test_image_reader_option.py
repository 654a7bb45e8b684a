"""Which image reader ``--image-reader`` selects, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shufflenet_fn.data.native.reader import choose_image_reader, functions, pillow_libjpeg


@pytest.fixture
def nothing_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    functions.cache_clear()
    yield
    functions.cache_clear()


@pytest.mark.usefixtures("nothing_built")
def test_reason_for_python_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: Callable[..., Any]
) -> None:
    monkeypatch.setenv("CXXFLAGS", "-no-such-flag")
    assert choose_image_reader("auto").reason == (
        "image reader python: not native, cannot build the image reader: g++ failed with exit code 1"
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    chosen = choose_image_reader("auto")
    assert chosen.reader is None
    assert chosen.reason == "image reader python: not native, no C++ compiler: there is no g++"
    outcome = command("train", "--data", tmp_path, "--image-reader", "native", "--output", tmp_path)
    assert outcome.code == 3
    assert "no C++ compiler" in outcome.err and "--image-reader python" in outcome.err


def test_image_reader_option_is_followed() -> None:
    assert choose_image_reader("python").reader is None
    assert choose_image_reader("native").reason == "image reader native: asked for"
    assert choose_image_reader("auto").reader is not None


@pytest.mark.parametrize(
    "place", ["pillow.libs/libjpeg-6dc8d115.so.62.4.0", "PIL/.dylibs/libjpeg.62.4.0.dylib"]
)
def test_where_wheels_have_the_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str) -> None:
    monkeypatch.setattr("PIL.__file__", str(tmp_path / "PIL" / "__init__.py"))
    assert pillow_libjpeg() is None
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).touch()
    assert pillow_libjpeg() == tmp_path / place

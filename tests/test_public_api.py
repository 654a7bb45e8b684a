"""What `import shufflenet_fn` offers, and what importing does not cost."""

from __future__ import annotations

import doctest
import importlib
import subprocess
import sys

import pytest

import shufflenet_fn


def loaded_after(statement: str) -> set[str]:
    """Top-level modules in a fresh interpreter after ``statement``."""
    code = f"{statement}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_every_public_name_is_there_and_documented() -> None:
    assert sorted(shufflenet_fn.__all__) == shufflenet_fn.__all__ == dir(shufflenet_fn)
    for name in shufflenet_fn.__all__:
        value = getattr(shufflenet_fn, name)
        assert value is not None and (not callable(value) or (value.__doc__ or "").strip()), name
    with pytest.raises(AttributeError, match="nonsense"):
        shufflenet_fn.nonsense  # noqa: B018


def test_import_is_light() -> None:
    heavy = {"torch", "torchvision", "cv2", "simplejpeg", "PIL", "matplotlib", "typer"}
    assert not loaded_after("import shufflenet_fn") & heavy
    assert not loaded_after("from shufflenet_fn import apply, init") & (heavy - {"torch"})


def test_model_setup_does_not_load_the_compiler() -> None:
    """Each start of a run counts the model and finds its channel order."""
    statement = (
        "import torch\n"
        "from shufflenet_fn import get_config, init\n"
        "from shufflenet_fn.model.channel_order import to_permuted\n"
        "from shufflenet_fn.model.count import count_macs\n"
        "config = get_config('x0_5')\n"
        "count_macs(config), to_permuted(config, init(config, torch.Generator()))"
    )
    assert "sympy" in loaded_after("import torch._dynamo"), "the compiler does without it now"
    assert "sympy" not in loaded_after(statement)


@pytest.mark.parametrize("verb", ["train", "doctor"])
def test_help_does_not_import_torch(verb: str) -> None:
    statement = (
        f"import sys; sys.argv = ['shufflenet-fn', {verb!r}, '--help']\n"
        "import io, contextlib\n"
        "from shufflenet_fn_cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): main()"
    )
    assert not loaded_after(statement) & {"torch", "numpy", "cv2", "yaml"}


@pytest.mark.parametrize(
    "module", ["shufflenet_fn", "shufflenet_fn.model.config", "shufflenet_fn.training.precision"]
)
def test_examples_in_docstrings(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0

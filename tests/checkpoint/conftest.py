from pathlib import Path

import pytest

from shufflenet_fn.checkpoint.write import save_checkpoint
from tests.checkpoint.support import NOTE, trained
from tests.model.support import TINY, one_thread

__all__ = ["one_thread"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint for tests that leave it as it is."""
    return save_checkpoint(tmp_path_factory.mktemp("kept"), TINY, trained(), NOTE)

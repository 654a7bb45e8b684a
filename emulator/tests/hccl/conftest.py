"""The collectives of the emulated HCCL, compiled without CANN's headers and without torch's libraries."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from tests.conftest import REPOSITORY

SOURCES = REPOSITORY / "ascend_emulator/sources"


@pytest.fixture(scope="session")
def hccl_library(shared_folder: Path) -> Path:
    """Compiled once for all of the session's workers, as one file: it is parsing that takes the time."""
    compiler = os.environ.get("CXX", "g++")
    if shutil.which(compiler) is None:
        pytest.skip(f"no C++ compiler: there is no {compiler}")
    library = shared_folder / "libhccl_test.so"
    with FileLock(shared_folder / "hccl.lock"):
        if not library.is_file():
            sources = sorted((SOURCES / "hccl").glob("*.cpp"))
            own = [source for source in sources if not source.name.startswith("api")]
            assert own
            everything = shared_folder / "hccl_test.cpp"
            files = [*own, Path(__file__).with_name("driver.cpp")]
            everything.write_text("".join(f'#include "{file}"\n' for file in files))
            partial = library.with_suffix(".partial")
            subprocess.run(
                [
                    compiler,
                    *("-std=c++20", "-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Werror", "-pthread"),
                    *("-isystem", str(Path(torch.__file__).parent / "include"), "-I", str(SOURCES)),
                    *(str(everything), "-o", str(partial)),
                ],
                check=True,
            )
            partial.replace(library)
    return library

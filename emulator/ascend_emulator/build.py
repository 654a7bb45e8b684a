"""Build of the libraries that torch_npu loads from ``sources/``, in the cache, once per pair of versions."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from ascend_emulator import missing, symbols
from ascend_emulator.compiling import (
    SOURCES,
    Failed,
    Toolchain,
    check,
    compile_all,
    object_name,
    run,
    toolchain,
)
from ascend_emulator.errors import DeviceError
from ascend_emulator.installed import Installed, find_installed

LIBRARIES: Final = "ASCEND_EMULATOR_LIBRARIES"
"""Variable with the libraries' folder, in a process that runs on the emulator."""

Say = Callable[[str], None]


class _Library(NamedTuple):
    """A shared library: folder in ``sources/``, name, CANN's other names for it, and libraries to link."""

    folder: str
    name: str
    aliases: tuple[str, ...]
    needs: tuple[str, ...]


_RUNTIME = _Library(
    "runtime",
    "libascendcl.so",
    (
        "libacl_op_compiler.so",
        "libacl_tdt_channel.so",
        "libascend_hal.so",
        "libge_runner.so",
        "libgraph.so",
        "libmsprofiler.so",
    ),
    (),
)
_COLLECTIVES = _Library("hccl", "libhccl.so", ("libhcomm.so",), ("ascendcl",))
_OPERATORS = _Library("aclnn", "libopapi.so", ("libnnopbase.so",), ("torch_cpu", "c10", "ascendcl"))
_ALL = (_RUNTIME, _COLLECTIVES, _OPERATORS)


def build(say: Say = lambda text: None) -> Path:
    """Return the folder with the libraries, and build them if they are missing.

    Several processes may call this at once.
    In a process that runs on the emulator, returns the folder of that process if it is up to date.

    Args:
        say: called with a line before a long operation.

    Raises:
        DeviceError: torch or torch_npu is missing or they do not match, there is no compiler, it failed, or
            the cache cannot be written.
    """
    from filelock import FileLock

    installed = find_installed()
    tools = toolchain(installed)
    name = _name(installed, tools)
    current = Path(os.environ.get(LIBRARIES, ""))
    if current.name == name and current.is_dir():
        return current
    root = _cache()
    folder = root / name
    try:
        if folder.is_dir():
            return folder
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / "build.lock"):
            if not folder.is_dir():
                _build(installed, tools, folder, say)
    except OSError as error:
        raise DeviceError(
            f"cannot build the emulator in {root}: {error.strerror or error}. Make the folder writable, or "
            "set XDG_CACHE_HOME to one that is."
        ) from error
    return folder


def _cache() -> Path:
    """Return ``$XDG_CACHE_HOME/ascend-emulator``, or ``~/.cache/ascend-emulator``."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    except RuntimeError as error:
        raise DeviceError(
            "no folder for caches: this user has no home directory. Set XDG_CACHE_HOME to a writable folder."
        ) from error
    return folder / "ascend-emulator"


def _name(installed: Installed, tools: Toolchain) -> str:
    """Return the folder's name, which depends on sources, headers, compiler, and packages and their place."""
    digest = hashlib.sha256(f"{installed.torch} {installed.torch_npu}".encode())
    for module in (__file__, missing.__file__, symbols.__file__):
        digest.update(Path(module).read_bytes())
    for source in _sources(_ALL):
        digest.update(object_name(tools, source).encode())
    return digest.hexdigest()[:16]


def _sources(libraries: Iterable[_Library]) -> list[Path]:
    return [file for one in libraries for file in sorted((SOURCES / one.folder).glob("*.cpp"))]


def _build(installed: Installed, tools: Toolchain, folder: Path, say: Say) -> None:
    sources = _sources(_ALL)
    say(f"building the emulator ({len(sources)} files) in {folder}")
    objects = compile_all(tools, sources, folder.parent / "objects")
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        place = Path(scratch) / folder.name
        place.mkdir()
        try:
            stubs = _stubs(installed, tools, objects.values(), Path(scratch))
            for library in _ALL:
                own = [objects[source] for source in _sources([library])]
                _link(installed, tools, library, [*own, *stubs.get(library.folder, ())], place)
        except Failed as error:
            check([error])
        _lay_out(place)
        os.replace(place, folder)


def _lay_out(place: Path) -> None:
    """Create the other files that torch_npu expects in ``ASCEND_HOME_PATH``."""
    for name in ("runtime", "compiler", "opp"):
        (place / name).mkdir()
    (place / "ascend_toolkit_install.info").write_text("version=9.1.0\n", encoding="utf-8")


def _stubs(
    installed: Installed, tools: Toolchain, objects: Iterable[Path], scratch: Path
) -> dict[str, list[Path]]:
    """Compile stubs for functions that no source defines. Return objects by the folder in charge."""
    needed = symbols.needed(symbols.torch_npu_libraries(installed.torch_npu))
    needed -= symbols.defined(objects)
    collectives = {name for name in needed if name.lower().startswith("hccl")}
    torch_npu = installed.torch_npu / "lib" / "libtorch_npu.so"
    texts = {
        "runtime": symbols.stubs(needed - collectives, "sources/runtime/"),
        "hccl": symbols.stubs(collectives, "sources/hccl/"),
        "aclnn": missing.source(torch_npu),
    }
    built: dict[str, list[Path]] = {}
    for folder, text in texts.items():
        source = scratch / f"missing_{folder}.cpp"
        source.write_text(text, encoding="utf-8")
        target = source.with_suffix(".o")
        # Thousands of one-line functions: optimizing them would take most of the build time.
        run([*tools.command, "-O0", "-g0", "-c", str(source), "-o", str(target)])
        built[folder] = [target]
    return built


def _link(
    installed: Installed, tools: Toolchain, library: _Library, objects: list[Path], place: Path
) -> None:
    torch = installed.torch / "lib"
    run(
        [
            *tools.compiler,
            "-shared",
            *map(str, objects),
            "-o",
            str(place / library.name),
            f"-Wl,-soname,{library.name}",
            # Report undefined functions now, not when they are called.
            "-Wl,-z,defs",
            "-Wl,--no-as-needed",
            f"-L{place}",
            f"-L{torch}",
            *(f"-l{name}" for name in library.needs),
            f"-Wl,-rpath,$ORIGIN:{torch}",
            "-pthread",
        ]
    )
    for alias in library.aliases:
        (place / alias).symlink_to(library.name)

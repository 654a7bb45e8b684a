"""The runtimes that execute an exported model, each as a function from an input array to logits."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shufflenet_fn.data.paths import printable
from shufflenet_fn_backends.support.errors import UsageError

Array = npt.NDArray[Any]
Engine = Callable[[Array], npt.NDArray[np.float32]]

ONNX_ENGINES = ("onnxruntime", "openvino")
THREAD_SAFE = ("onnxruntime",)
"""Engines that several threads may call at once, which is faster than one call with several threads."""


def import_failure(package: str) -> str:
    """Import a package and return what is wrong with it, such as "is not installed"; empty if nothing is."""
    try:
        importlib.import_module(package)
    # One that is damaged, or built for other versions, may raise anything.
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == package.split(".")[0]:
            return "is not installed"
        return f"cannot be imported ({type(error).__name__}: {error})"
    return ""


def required(package: str, what: str, install: str) -> Any:
    """Return a package that ``what`` needs. Raises ``UsageError`` if it cannot be imported."""
    if failure := import_failure(package):
        raise UsageError(
            f"{what} needs {package}, which {failure}. Install or repair it: pip install {install}"
        )
    return importlib.import_module(package)


def choose_engine(asked: str, device: str) -> tuple[str, str]:
    """Return the engine for a model that is not exported, on a device of kind ``device``, and the reason.

    ``auto`` is ONNX Runtime on a CPU if it can be imported, and torch otherwise.
    """
    if asked != "auto":
        return asked, "as asked"
    if device != "cpu":
        return "torch", f"computes on {device}"
    packages = {package: import_failure(package) for package in ("onnx", "onnxruntime")}
    if failures := [f"{package} {failure}" for package, failure in packages.items() if failure]:
        return "torch", (
            f"{' and '.join(failures)}; ONNX Runtime is faster on a CPU: pip install 'shufflenet-fn[export]'"
        )
    return "onnxruntime", "the fastest on a CPU"


def open_engine(name: str, content: bytes, *, threads: int) -> Engine:
    """Return engine ``name``, among ``ONNX_ENGINES``, with an ONNX model. It computes in float32 on the CPU.

    Raises:
        UsageError: it cannot be imported, or cannot read the model.
    """
    required(name, f"engine {name}", name)
    opener = {"onnxruntime": _onnxruntime, "openvino": _openvino}[name]
    try:
        return opener(content, threads)
    # Each engine has exceptions of its own for a model that it cannot read.
    except Exception as error:
        said = str(error).strip().split("\n")[-1] or type(error).__name__
        raise UsageError(f"{name} cannot run the model: {said}") from error


def open_program(file: Path) -> Engine:
    """Return the program of a ``.pt2`` file. Raises ``UsageError`` if torch cannot read it."""
    torch: Any = importlib.import_module("torch")
    try:
        program = torch.export.load(str(file)).module()
    except Exception as error:
        raise UsageError(f"torch.export cannot load {printable(file)}: {error}") from error

    def run(x: Array) -> Array:
        with torch.no_grad():
            logits: Array = program(torch.from_numpy(x)).numpy()
        return logits

    return run


def in_batches(engine: Engine, rows: int | str) -> Engine:
    """Return ``engine`` for any number of images. ``rows``: how many it takes at a time; a name is any."""
    if isinstance(rows, str):
        return engine

    def run(x: Array) -> Array:
        full = np.concatenate((x, np.repeat(x[-1:], -len(x) % rows, 0)))
        parts = [engine(full[start : start + rows]) for start in range(0, len(full), rows)]
        return np.concatenate(parts)[: len(x)]

    return run


def _onnxruntime(content: bytes, threads: int) -> Engine:
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def _openvino(content: bytes, threads: int) -> Engine:
    openvino: Any = importlib.import_module("openvino")
    core = openvino.Core()
    # In its default precision it computes in bfloat16 where the processor can.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads}
    compiled = core.compile_model(core.read_model(content), "CPU", settings)
    return lambda x: compiled(x)[0]

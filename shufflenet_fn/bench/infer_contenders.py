"""The contenders of ``bench infer``: the logits of one batch, all with the same weights."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shufflenet_fn.bench.contenders import ONNX, OURS, Peer, peers, settled, torchvision_model
from shufflenet_fn.bench.settings import InferBenchSettings
from shufflenet_fn.bench.workers import Step
from shufflenet_fn.checkpoint.torchvision import to_torchvision
from shufflenet_fn.model.config import get_config
from shufflenet_fn.model.inference import make_predictor
from shufflenet_fn.model.network import apply
from shufflenet_fn.model.variables import Variables, init
from shufflenet_fn.precision import get_policy
from shufflenet_fn_backends.registry import select_backend
from shufflenet_fn_backends.runtimes import cpu

PEERS = peers(folding=True)
_ONNX_PACKAGES = ("onnxruntime", "onnx", "onnxscript")


class InferCase(NamedTuple):
    """One batch size with one number of threads."""

    settings: InferBenchSettings
    batch_size: int
    threads: int


def build_pass(name: str, case: str, chosen: InferCase) -> Step:
    """One forward pass of the contender ``name``, which returns its logits. There is one case."""
    settings = chosen.settings
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    size = settings.image_size
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(chosen.batch_size, 3, size, size, generator=generator)
    variables = seasoned_variables(settings.arch)
    if name == OURS:
        return _ours(settings, variables, images)
    state_dict = to_torchvision(variables, get_config(settings.arch))
    model = torchvision_model("bench infer", settings.arch, state_dict).eval()
    if name == ONNX:
        return _onnx(model, images, chosen.threads)
    return _torchvision(model, images.to(dtype), PEERS[name])


def seasoned_variables(arch: str) -> Variables:
    """Fresh weights with the running statistics that they have on random images.

    With those of a fresh batch norm, 0 and 1, folding would change nothing that a test could see.
    """
    config = get_config(arch)
    variables = init(config, torch.Generator().manual_seed(0))
    images = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for _ in range(30):  # until 0.9^30 = 4 % of the initial statistics are left
        _, batch_stats = apply(config, variables, images, train=True)
        variables = variables._replace(batch_stats=batch_stats)
    return variables


def onnx_is_missing() -> str | None:
    """Why ONNX Runtime cannot be shown, or ``None`` if it can."""
    missing = [name for name in _ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        return None
    return f"not installed: {', '.join(missing)} (pip install 'shufflenet-fn[bench]')"


def _ours(settings: InferBenchSettings, variables: Variables, images: Tensor) -> Step:
    if settings.allocator == "default":
        cpu.keep_freed_memory()
    predict = make_predictor(
        get_config(settings.arch),
        variables,
        backend=select_backend(settings.backend, "cpu").backend,
        policy=get_policy(settings.precision),
    )
    images = images.contiguous(memory_format=cpu.runtime().memory_format)
    return lambda: predict(images)


def _torchvision(model: Any, images: Tensor, peer: Peer) -> Step:
    if peer.folded:
        # torch.fx is what torch.compile is built on; this pass of it folds without quantising anything.
        model = importlib.import_module("torch.fx.experimental.optimization").fuse(model)
    model = model.to(images.dtype).to(memory_format=peer.memory_format)
    if peer.compiled:
        model = torch.compile(model)
    images = images.contiguous(memory_format=peer.memory_format)

    def run() -> Tensor:
        with torch.inference_mode():
            logits: Tensor = model(images)
        return logits

    return settled(run) if peer.compiled else run


def _onnx(model: Any, images: Tensor, threads: int) -> Step:
    runtime = importlib.import_module("onnxruntime")
    exported: Any = torch.onnx.export(model, (images,), dynamo=True, verbose=False)
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    # Its threads spin on after a pass, in other contenders' turns.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = runtime.InferenceSession(
        exported.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {session.get_inputs()[0].name: images.numpy()}

    def run() -> Tensor:
        return torch.from_numpy(session.run(None, feed)[0])

    return run

"""``bench infer``: logits of a batch, ours compared with all variants of torchvision's model."""

from __future__ import annotations

import importlib
import importlib.util
import statistics
from dataclasses import replace
from importlib.metadata import version
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from shufflenet_fn.bench.peers import (
    OURS,
    Field,
    Peer,
    available,
    peers,
    settled,
    torchvision_model,
    torchvision_models,
)
from shufflenet_fn.bench.rounds import (
    Progress,
    against_peers,
    ratio,
    ratio_fields,
    reported,
    run_rounds,
    silent,
)
from shufflenet_fn.bench.settings import InferBenchSettings, counts
from shufflenet_fn.bench.workers import ALLOCATORS, Step, workers
from shufflenet_fn.checkpoint.torchvision import to_torchvision
from shufflenet_fn.config.options import check_options
from shufflenet_fn.model.config import canonical_name, get_config
from shufflenet_fn.model.inference import make_predictor
from shufflenet_fn.model.network import apply
from shufflenet_fn.model.variables import Variables, init
from shufflenet_fn.training.precision import get_policy
from shufflenet_fn_backends.registry import select_backend
from shufflenet_fn_backends.runtimes import cpu


def run_infer_bench(settings: InferBenchSettings, *, progress: Progress = silent) -> dict[str, Any]:
    """Measure and return the JSON object of ``bench infer --json``.

    ``cases`` has an object for each batch size and number of threads:

    * ``ours_ms`` and ``peers_ms``: milliseconds of a pass, medians over rounds;
    * ``ratios``, ``ratio_intervals``, ``best_peer``, ``ratio_best_peer``, ``conclusive`` and ``advice``: as
      in ``bench step``;
    * ``onnxruntime``: the same for ONNX Runtime on torchvision's export, or ``null``. It does not count as a
      peer.

    ``left_out`` lists the candidates that were not measured, with the reasons.

    Raises:
        UsageError: a setting is not allowed, or torchvision is missing.
    """
    check_options(settings)
    settings = replace(settings, arch=canonical_name(settings.arch))
    batch_sizes = counts("--batch-size", settings.batch_size)
    threads = counts("--threads", settings.threads)
    torchvision_models("bench infer")
    backend = select_backend(settings.backend, "cpu")
    progress(backend.reason)
    field = _field(settings)
    for warning in field.warnings():
        progress(warning)
    return {
        **reported(settings, "arch", "image_size", "precision", "allocator", "rounds"),
        "turn_seconds": settings.turn_seconds,
        "backend": backend.backend.name,
        "onnxruntime_version": None if ONNX in field.left_out else version(ONNX),
        "left_out": field.left_out,
        "cases": [
            _case(InferCase(settings, size, count), field, progress)
            for size in batch_sizes
            for count in threads
        ],
    }


PEERS: Final = peers(folding=True)
ONNX: Final = "onnxruntime"


class InferCase(NamedTuple):
    """One batch size with one number of threads."""

    settings: InferBenchSettings
    batch_size: int
    threads: int


def _field(settings: InferBenchSettings) -> Field:
    field = available(PEERS, compiled=settings.compile)
    reason = onnx_is_missing()
    if not settings.onnx:
        reason = "--no-onnx"
    elif settings.precision != "fp32":
        reason = f"--precision {settings.precision}"
    return field if reason is None else field._replace(left_out={**field.left_out, ONNX: reason})


def _case(chosen: InferCase, field: Field, progress: Progress) -> dict[str, Any]:
    settings = chosen.settings
    names = [OURS, *field.present, *([] if ONNX in field.left_out else [ONNX])]
    progress(f"batch {chosen.batch_size}, {chosen.threads} threads: building and warming up")
    environment = ALLOCATORS[settings.allocator]
    with workers(names, build_pass, chosen, threads=chosen.threads, environment=environment) as candidates:
        seconds = run_rounds(
            candidates, rounds=settings.rounds, turn_seconds=settings.turn_seconds, progress=progress
        )
    milliseconds = {name: 1000 * statistics.median(column) for name, column in seconds.items()}
    peers = {name: seconds[name] for name in field.present}
    onnx = ratio(seconds[OURS], seconds[ONNX]) if ONNX in seconds else None
    return {
        "batch_size": chosen.batch_size,
        "threads": chosen.threads,
        "ours_ms": milliseconds[OURS],
        "peers_ms": {name: milliseconds[name] for name in field.present},
        **against_peers(seconds[OURS], peers, settings.rounds),
        "onnxruntime": onnx and {"ms": milliseconds[ONNX], **ratio_fields(onnx)},
    }


def build_pass(name: str, case: str, chosen: InferCase) -> Step:
    """Build one forward pass of the candidate ``name``. It returns its logits. There is only one case."""
    settings = chosen.settings
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
    dtype = get_policy(settings.precision).compute_dtype
    return _torchvision(model, images.to(dtype), PEERS[name])


def seasoned_variables(arch: str) -> Variables:
    """Return initial weights with the running statistics of random images.

    With the initial statistics, 0 and 1, a test would not detect an error in folding.
    """
    config = get_config(arch)
    variables = init(config, torch.Generator().manual_seed(0))
    images = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for _ in range(30):  # until 0.9^30 = 4 % of the initial statistics are left
        _, batch_stats = apply(config, variables, images, train=True)
        variables = variables._replace(batch_stats=batch_stats)
    return variables


def onnx_is_missing() -> str | None:
    """Return why ONNX Runtime cannot be measured, or ``None`` if it can."""
    missing = [
        name for name in ("onnxruntime", "onnx", "onnxscript") if importlib.util.find_spec(name) is None
    ]
    return f"not installed: {', '.join(missing)} (pip install 'shufflenet-fn[bench]')" if missing else None


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
        # This pass of torch.fx folds batch norms without quantisation.
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
    # Otherwise its threads keep spinning after a pass, during the turns of other candidates.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = runtime.InferenceSession(
        exported.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {session.get_inputs()[0].name: images.numpy()}

    def run() -> Tensor:
        return torch.from_numpy(session.run(None, feed)[0])

    return run

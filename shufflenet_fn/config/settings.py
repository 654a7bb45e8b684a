"""Settings of a training run. Every option of the original is accepted in its spelling.

Does not import torch, because ``shufflenet-fn --help`` reads this module.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from shufflenet_fn.config.options import option
from shufflenet_fn_backends.names import BACKEND_NAMES, DEVICE_NAMES

_DATA = "Data"
_MODEL = "Model"
_RECIPE = "Recipe"
_PRECISION = "Precision"
_DEVICES = "Devices"
_RUN = "Run"

_RENAMED: Final = {
    "world_size": "num_nodes",
    "rank": "node_rank",
    "addr": "master_addr",
    "dist_url": "rdzv_endpoint",
    "lanes": "microbatches",
}


def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings that version 0.1 stored, with their names in this version."""
    return {_RENAMED.get(name, name): value for name, value in values.items()}


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """All settings of a training run, with the values that the command line shows."""

    data: str | None = option(
        None,
        "--data",
        "--data_path",
        help="Folder with train/CLASS/*.jpg and val/CLASS/*.jpg, a folder that `data pack` wrote, or 'demo' "
        "for the built-in set.",
        panel=_DATA,
    )
    image_size: int = option(
        224, "--image-size", help="Side of the training and evaluation crop.", panel=_DATA, minimum=8
    )
    eval_resize: int | None = option(
        None,
        "--eval-resize",
        help="Short side before the evaluation crop; image size × 256/224 if not given.",
        panel=_DATA,
        minimum=8,
    )
    crop_scale: float = option(
        0.08,
        "--crop-scale",
        help="Smallest share of the image area that a training crop covers.",
        panel=_DATA,
        above=0,
        maximum=1,
    )
    crop_scale_max: float = option(
        1.0,
        "--crop-scale-max",
        help="Largest share of the image area that a training crop covers.",
        panel=_DATA,
        above=0,
        maximum=1,
    )
    crop_ratio: float = option(
        4 / 3,
        "--crop-ratio",
        help="Largest width / height of a training crop; the smallest is its inverse.",
        panel=_DATA,
        minimum=1,
    )
    color_jitter: float = option(
        0.2,
        "--color-jitter",
        help="Strength of brightness, contrast and saturation jitter.",
        panel=_DATA,
        minimum=0,
        maximum=1,
    )
    flip: float = option(
        0.5, "--flip", help="Probability of a horizontal flip.", panel=_DATA, minimum=0, maximum=1
    )
    auto_augment: str = option(
        "none",
        "--auto-augment",
        help="trivial is TrivialAugment-wide, rand is RandAugment; after crop, jitter and flip.",
        panel=_DATA,
        choices=("none", "trivial", "rand"),
    )
    rand_ops: int = option(
        2, "--rand-ops", help="Number of RandAugment operations per image.", panel=_DATA, minimum=1
    )
    rand_magnitude: int = option(
        9,
        "--rand-magnitude",
        help="Level of RandAugment's operations, 0 to 30.",
        panel=_DATA,
        minimum=0,
        maximum=30,
    )
    erase: float = option(
        0.0,
        "--erase",
        "--random-erase",
        help="Probability that a rectangle of an image is erased.",
        panel=_DATA,
        minimum=0,
        maximum=1,
    )
    mixup: float = option(
        0.0,
        "--mixup",
        "--mixup-alpha",
        help="alpha of mixup's Beta(alpha, alpha); 0 disables it. With --cutmix, each step uses one of them.",
        panel=_DATA,
        minimum=0,
    )
    cutmix: float = option(
        0.0,
        "--cutmix",
        "--cutmix-alpha",
        help="alpha of cutmix's Beta(alpha, alpha); 0 disables it.",
        panel=_DATA,
        minimum=0,
    )
    repeats: int = option(
        1,
        "--repeats",
        "--ra-reps",
        help="Repeated augmentation: how often an image appears in a batch. An epoch has the same number of "
        "steps with fewer different images.",
        panel=_DATA,
        minimum=1,
    )
    on_bad_image: str = option(
        "stop",
        "--on-bad-image",
        help="If a file is damaged or not an image: stop and name it, or skip it and train on another.",
        panel=_DATA,
        choices=("stop", "skip"),
    )
    max_bad: str = option(
        "0.1%",
        "--max-bad",
        help="With --on-bad-image skip: how many images of a split may be bad, as a percentage or a number.",
        panel=_DATA,
    )
    workers: int | None = option(
        None,
        "--workers",
        "-j",
        help="Loader threads over all devices of this machine; the cores it may use if not given.",
        panel=_DATA,
        minimum=0,
    )
    image_reader: str = option(
        "auto",
        "--image-reader",
        help="native decodes only what a crop needs, in C++ compiled on first use; python gives the same "
        "pixels with libraries, more slowly. auto: native if it can be built.",
        panel=_DATA,
        choices=("auto", "native", "python"),
    )
    arch: str = option(
        "shufflenet_v2_x1_0",
        "--arch",
        "-a",
        help="shufflenet_v2_x0_5, …_x1_0, …_x1_5 or …_x2_0, or a short form such as x1_0.",
        panel=_MODEL,
    )
    num_classes: int | None = option(
        None,
        "--num-classes",
        help="Width of the classifier; the number of classes in the data if not given.",
        panel=_MODEL,
        minimum=1,
    )
    pretrained: str | None = option(
        None,
        "--pretrained",
        help="Start from these weights (.safetensors, .pth, .pth.tar, a checkpoint or a run directory), or "
        "from a name: torchvision:IMAGENET1K_V1, https://…#sha256=HEX or hf://ORG/NAME/FILE. "
        "A classifier of another width is replaced by a newly initialised one.",
        panel=_MODEL,
    )
    freeze: str = option(
        "none",
        "--freeze",
        help="Parts of the network that are not trained, of stem, stage2, stage3, stage4 and conv5: for "
        "example stem,stage2. Their batch norms keep their statistics.",
        panel=_MODEL,
    )
    epochs: int = option(
        90, "--epochs", "--epoch", help="Passes over the training data.", panel=_RECIPE, minimum=1
    )
    batch_size: int = option(
        256, "--batch-size", "-b", help="Images per step over all devices together.", panel=_RECIPE, minimum=1
    )
    accumulate: int = option(
        1,
        "--accumulate",
        help="Steps of --batch-size whose gradients are averaged for one update.",
        panel=_RECIPE,
        minimum=1,
    )
    microbatches: int | None = option(
        None,
        "--microbatches",
        "--lanes",
        help="Microbatches per update, each normalised with its own statistics; devices × accumulated steps "
        "if not given. A resume keeps the number, so that another number of devices computes the same.",
        panel=_RECIPE,
        minimum=1,
    )
    benchmark: int = option(
        0,
        "--benchmark",
        "-bm",
        help="The original's switch: 1 accumulates up to 2048 images per device and update.",
        panel=_RECIPE,
        minimum=0,
        maximum=1,
    )
    learning_rate: float = option(
        0.1, "--learning-rate", "--lr", help="Peak learning rate.", panel=_RECIPE, above=0
    )
    head_lr: float | None = option(
        None,
        "--head-lr",
        help="Peak learning rate of the classifier, on the same schedule; --lr if not given.",
        panel=_RECIPE,
        above=0,
    )
    schedule: str = option(
        "epoch-cosine",
        "--schedule",
        help="epoch-cosine is the original's: constant within an epoch. The others change each step.",
        panel=_RECIPE,
        choices=("epoch-cosine", "cosine", "linear", "constant"),
    )
    warm_up_epochs: int = option(
        0, "--warm-up-epochs", "--warm_up_epochs", help="Epochs of linear warm-up.", panel=_RECIPE, minimum=0
    )
    opt: str = option(
        "sgd",
        "--opt",
        help="Optimizer. adamw is Adam with decoupled weight decay, and needs --lr.",
        panel=_RECIPE,
        choices=("sgd", "adamw"),
    )
    momentum: float = option(0.9, "--momentum", help="Momentum of SGD.", panel=_RECIPE, minimum=0, below=1)
    nesterov: bool = option(False, "--nesterov/--no-nesterov", help="Nesterov momentum.", panel=_RECIPE)
    weight_decay: float = option(
        1e-4,
        "--weight-decay",
        "--wd",
        help="Weight decay: an L2 penalty with sgd, decoupled with adamw.",
        panel=_RECIPE,
        minimum=0,
    )
    decay_on: str = option(
        "all",
        "--decay-on",
        help="Decay all parameters (the original) or only weights with two or more dimensions (the paper).",
        panel=_RECIPE,
        choices=("all", "weights"),
    )
    label_smoothing: float = option(
        0.0,
        "--label-smoothing",
        help="Label smoothing ε: the target is (1-ε)·one-hot + ε/K.",
        panel=_RECIPE,
        minimum=0,
        below=1,
    )
    clip_norm: float | None = option(
        None, "--clip-norm", help="Clip the global gradient norm to this.", panel=_RECIPE, above=0
    )
    ema_decay: float | None = option(
        None,
        "--ema-decay",
        help="Keep, evaluate and save an average of the weights with this decay, such as 0.999.",
        panel=_RECIPE,
        above=0,
        below=1,
    )
    bn_stats: str = option(
        "mean",
        "--bn-stats",
        help="Running statistics: the mean over devices, or those of rank 0 (the original).",
        panel=_RECIPE,
        choices=("mean", "rank0"),
    )
    seed: int = option(
        49,
        "--seed",
        help="Seed of initial weights, data order and augmentation.",
        panel=_RECIPE,
        minimum=0,
        below=2**63,
    )
    amp: bool = option(
        False, "--amp/--no-amp", help="Use mixed precision at the level of --opt-level.", panel=_PRECISION
    )
    opt_level: str = option(
        "O2",
        "--opt-level",
        help="apex's levels, used with --amp: O1 autocast, O2 float16 with float32 batch norm and "
        "master weights, O3 float16 throughout.",
        panel=_PRECISION,
        choices=("O0", "O1", "O2", "O3"),
    )
    precision: str | None = option(
        None,
        "--precision",
        help="fp32, bf16, O0 to O3, or written out like 'p=f32,c=bf16,o=f32'. auto: the lowest precision "
        "that the device trains well in. Not together with --amp.",
        panel=_PRECISION,
    )
    loss_scale: str = option(
        "auto",
        "--loss-scale",
        help="A number (static), 'dynamic' or 'none'. auto: dynamic for float16, else none.",
        panel=_PRECISION,
    )
    device: str = option(
        "auto",
        "--device",
        help="auto: npu if available, else cuda, else cpu; the log shows the reason.",
        panel=_DEVICES,
        choices=("auto", *DEVICE_NAMES),
    )
    devices: int | None = option(
        None,
        "--devices",
        "--device-num",
        "--device_num",
        help="Devices of this machine, one process each; 1 if not given.",
        panel=_DEVICES,
        minimum=1,
    )
    device_list: str | None = option(
        None,
        "--device-list",
        "--device-id",
        "--gpu",
        help="Device numbers, such as 0,2,5; takes precedence over --devices.",
        panel=_DEVICES,
    )
    backend: str = option(
        "auto",
        "--backend",
        help="Primitives that the network computes with. auto: the fastest in a result of bench step --keep "
        "for the same case, else the one chosen for the device.",
        panel=_DEVICES,
        choices=("auto", *BACKEND_NAMES),
    )
    compile: bool = option(
        False,
        "--compile/--no-compile",
        help="Compile the step with torch.compile; `bench step --ours-compile` measures the effect.",
        panel=_DEVICES,
    )
    running_stats: str = option(
        "auto",
        "--running-stats",
        help="What updates the running statistics: batch norm's kernels (fewer launches on an NPU), or the "
        "training step after them. auto: kernel on npu, else step.",
        panel=_DEVICES,
        choices=("auto", "kernel", "step"),
    )
    memory_format: str = option(
        "auto",
        "--memory-format",
        help="Layout of activations. auto: the layout recommended for the device.",
        panel=_DEVICES,
        choices=("auto", "nchw", "channels_last"),
    )
    threads: int | None = option(
        None,
        "--threads",
        help="Compute threads per process; usable cores / devices if not given.",
        panel=_DEVICES,
        minimum=1,
    )
    dist_backend: str = option(
        "auto",
        "--dist-backend",
        help="Collective library. auto: hccl on npu, nccl on cuda, gloo on cpu.",
        panel=_DEVICES,
        choices=("auto", "hccl", "nccl", "gloo"),
    )
    deterministic: bool = option(
        False,
        "--deterministic/--no-deterministic",
        help="Use operators and collectives that give the same bits in every run; slower on accelerators.",
        panel=_DEVICES,
    )
    multiprocessing_distributed: bool = option(
        False,
        "--multiprocessing-distributed/--no-multiprocessing-distributed",
        help="The original's switch for data-parallel training: all devices if no number is given.",
        panel=_DEVICES,
    )
    num_nodes: int = option(
        1, "--nnodes", "--world-size", help="Number of machines.", panel=_DEVICES, minimum=1
    )
    node_rank: int = option(
        0, "--node-rank", "--rank", help="Rank of this machine, from 0.", panel=_DEVICES, minimum=0
    )
    master_addr: str | None = option(
        None, "--addr", help="Host name or address of machine 0.", panel=_DEVICES
    )
    rdzv_endpoint: str | None = option(
        None,
        "--rdzv-endpoint",
        "--dist-url",
        help="Rendezvous endpoint, HOST:PORT or tcp://HOST:PORT; port 29688 if only --addr is given.",
        panel=_DEVICES,
    )
    run_dir: str | None = option(
        None, "--run-dir", help="Directory of this run; must be new or empty.", panel=_RUN
    )
    output: str = option(
        "runs",
        "--output",
        "--workspace",
        help="Folder in which the run directory ARCH-NNN is created if --run-dir is not given.",
        panel=_RUN,
    )
    resume: str | None = option(
        None,
        "--resume",
        help="Resume this run directory or checkpoint, with its settings. auto: resume if there is a "
        "checkpoint, else start.",
        panel=_RUN,
    )
    print_freq: int = option(10, "--print-freq", "-p", help="Steps between log lines.", panel=_RUN, minimum=1)
    eval_freq: int = option(
        1,
        "--eval-freq",
        "-ef",
        help="Epochs between evaluations; in the last tenth of the run, every epoch is evaluated.",
        panel=_RUN,
        minimum=1,
    )
    checkpoint_freq: int = option(
        0,
        "--checkpoint-freq",
        "--checkpoint_freq",
        help="Steps between checkpoints within an epoch; 0 saves at the ends of epochs only.",
        panel=_RUN,
        minimum=0,
    )
    max_bad_steps: int | None = option(
        None,
        "--max-bad-steps",
        help="Stop after this many updates in a row whose loss or gradient is not finite, and dump the last "
        "one. Such updates are skipped. If not given: 100 with a loss scale, else 1.",
        panel=_RUN,
        minimum=1,
    )
    keep: int = option(2, "--keep", help="Number of newest checkpoints to keep.", panel=_RUN, minimum=1)
    keep_best: int = option(
        1, "--keep-best", help="Number of checkpoints with the highest top-1 to keep.", panel=_RUN, minimum=1
    )
    keep_every: int = option(
        0,
        "--keep-every",
        help="Epochs between checkpoints that are kept permanently; 0 for none.",
        panel=_RUN,
        minimum=0,
    )
    max_time: str | None = option(
        None,
        "--max-time",
        help="Save and exit with 75 before this time is over: 90s, 30m, 11h30m, or Slurm's D-HH:MM:SS.",
        panel=_RUN,
    )
    hang_timeout: float | None = option(
        None,
        "--hang-timeout",
        help="Abort the run when a rank makes no progress for this many seconds. If not given: 600 for "
        "several processes; a single process is not watched.",
        panel=_RUN,
        above=0,
    )
    join_timeout: float = option(
        300.0,
        "--join-timeout",
        help="Seconds that machines wait for each other at the start.",
        panel=_RUN,
        above=0,
    )
    max_restarts: int = option(
        0,
        "--max-restarts",
        help="After a failure, restart all processes from the newest undamaged checkpoint, at most this many "
        "times; on one machine only.",
        panel=_RUN,
        minimum=0,
    )
    profile: str | None = option(
        None,
        "--profile",
        help="Record a trace of a few steps of rank 0 in this folder, with torch's or Ascend's profiler.",
        panel=_RUN,
    )
    max_steps: int | None = option(
        None,
        "--max-steps",
        help="Stop after this many updates, for trials. The schedule is that of the full run.",
        panel=_RUN,
        minimum=1,
    )

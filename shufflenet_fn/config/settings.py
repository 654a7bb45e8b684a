"""Settings of a training run and of an evaluation. Every option of the original is accepted in its spelling.

Does not import torch, because ``shufflenet-fn --help`` reads this module.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from shufflenet_fn.config.options import like, option
from shufflenet_fn_backends.names import BACKEND_NAMES, DEVICE_NAMES


def _setting(panel: str, default: Any, help: str, *aliases: str, flag: str = "", **limits: Any) -> Any:
    """Return a field whose option is ``flag``, by default the field's name, with other spellings of it."""
    return option(default, flag, *aliases, help=help, panel=panel, **limits)


_data = partial(_setting, "Data")
_model = partial(_setting, "Model")
_recipe = partial(_setting, "Recipe")
_precision = partial(_setting, "Precision")
_devices = partial(_setting, "Devices")
_run = partial(_setting, "Run")


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """All settings of a training run, with the values that the command line shows."""

    data: str | None = _data(
        None,
        "Folder with train/CLASS/*.jpg and val/CLASS/*.jpg, a folder that `data pack` wrote, or 'demo' "
        "for the built-in set.",
        "--data-path",
    )
    image_size: int = _data(224, "Side of the training and evaluation crop.", minimum=8)
    eval_resize: int | None = _data(
        None, "Short side before the evaluation crop; image size × 256/224 if not given.", minimum=8
    )
    crop_scale: float = _data(
        0.08, "Smallest share of the image area that a training crop covers.", above=0, maximum=1
    )
    crop_scale_max: float = _data(
        1.0, "Largest share of the image area that a training crop covers.", above=0, maximum=1
    )
    crop_ratio: float = _data(
        4 / 3, "Largest width / height of a training crop; the smallest is its inverse.", minimum=1
    )
    color_jitter: float = _data(
        0.2, "Strength of brightness, contrast and saturation jitter.", minimum=0, maximum=1
    )
    flip: float = _data(0.5, "Probability of a horizontal flip.", minimum=0, maximum=1)
    auto_augment: str = _data(
        "none",
        "trivial is TrivialAugment-wide, rand is RandAugment; after crop, jitter and flip.",
        choices=("none", "trivial", "rand"),
    )
    rand_ops: int = _data(2, "Number of RandAugment operations per image.", minimum=1)
    rand_magnitude: int = _data(9, "Level of RandAugment's operations, 0 to 30.", minimum=0, maximum=30)
    erase: float = _data(
        0.0, "Probability that a rectangle of an image is erased.", "--random-erase", minimum=0, maximum=1
    )
    mixup: float = _data(
        0.0,
        "alpha of mixup's Beta(alpha, alpha); 0 disables it. With --cutmix, each step uses one of them.",
        "--mixup-alpha",
        minimum=0,
    )
    cutmix: float = _data(
        0.0, "alpha of cutmix's Beta(alpha, alpha); 0 disables it.", "--cutmix-alpha", minimum=0
    )
    repeats: int = _data(
        1,
        "Repeated augmentation: how often an image appears in a batch. An epoch has the same number of "
        "steps with fewer different images.",
        "--ra-reps",
        minimum=1,
    )
    on_bad_image: str = _data(
        "stop",
        "If a file is damaged or not an image: stop and name it, or skip it and train on another.",
        choices=("stop", "skip"),
    )
    max_bad: str = _data(
        "0.1%",
        "With --on-bad-image skip: how many images of a split may be bad, as a percentage or a number.",
    )
    workers: int | None = _data(
        None,
        "Loader threads over all devices of this machine; the cores it may use if not given.",
        "-j",
        minimum=0,
    )
    image_reader: str = _data(
        "auto",
        "native decodes only what a crop needs, in C++ compiled on first use; python gives the same "
        "pixels with libraries, more slowly. auto: native if it can be built.",
        choices=("auto", "native", "python"),
    )
    arch: str = _model(
        "shufflenet_v2_x1_0",
        "shufflenet_v2_x0_5, …_x1_0, …_x1_5 or …_x2_0, or a short form such as x1_0.",
        "-a",
    )
    num_classes: int | None = _model(
        None, "Width of the classifier; the number of classes in the data if not given.", minimum=1
    )
    pretrained: str | None = _model(
        None,
        "Start from these weights (.safetensors, .pth, .pth.tar, a checkpoint or a run directory), or "
        "from a name: torchvision:IMAGENET1K_V1, https://…#sha256=HEX or hf://ORG/NAME/FILE. "
        "A classifier of another width is replaced by a newly initialised one.",
    )
    freeze: str = _model(
        "none",
        "Parts of the network that are not trained, of stem, stage2, stage3, stage4 and conv5: for "
        "example stem,stage2. Their batch norms keep their statistics.",
    )
    epochs: int = _recipe(90, "Passes over the training data.", "--epoch", minimum=1)
    batch_size: int = _recipe(256, "Images per step over all devices together.", "-b", minimum=1)
    accumulate: int = _recipe(
        1, "Steps of --batch-size whose gradients are averaged for one update.", minimum=1
    )
    microbatches: int | None = _recipe(
        None,
        "Microbatches per update, each normalised with its own statistics; devices × accumulated steps "
        "if not given. A resume keeps the number, so that another number of devices computes the same.",
        "--lanes",
        minimum=1,
    )
    benchmark: int = _recipe(
        0,
        "The original's switch: 1 accumulates up to 2048 images per device and update.",
        "-bm",
        minimum=0,
        maximum=1,
    )
    learning_rate: float = _recipe(0.1, "Peak learning rate.", "--lr", above=0)
    head_lr: float | None = _recipe(
        None, "Peak learning rate of the classifier, on the same schedule; --lr if not given.", above=0
    )
    schedule: str = _recipe(
        "epoch-cosine",
        "epoch-cosine is the original's: constant within an epoch. The others change each step.",
        choices=("epoch-cosine", "cosine", "linear", "constant"),
    )
    warm_up_epochs: int = _recipe(0, "Epochs of linear warm-up.", minimum=0)
    opt: str = _recipe(
        "sgd",
        "Optimizer. adamw is Adam with decoupled weight decay, and needs --lr.",
        choices=("sgd", "adamw"),
    )
    momentum: float = _recipe(0.9, "Momentum of SGD.", minimum=0, below=1)
    nesterov: bool = _recipe(False, "Nesterov momentum.")
    weight_decay: float = _recipe(
        1e-4, "Weight decay: an L2 penalty with sgd, decoupled with adamw.", "--wd", minimum=0
    )
    decay_on: str = _recipe(
        "all",
        "Decay all parameters (the original) or only weights with two or more dimensions (the paper).",
        choices=("all", "weights"),
    )
    label_smoothing: float = _recipe(
        0.0, "Label smoothing ε: the target is (1-ε)·one-hot + ε/K.", minimum=0, below=1
    )
    clip_norm: float | None = _recipe(None, "Clip the global gradient norm to this.", above=0)
    ema_decay: float | None = _recipe(
        None,
        "Keep, evaluate and save an average of the weights with this decay, such as 0.999.",
        above=0,
        below=1,
    )
    bn_stats: str = _recipe(
        "mean",
        "Running statistics: the mean over devices, or those of rank 0 (the original).",
        choices=("mean", "rank0"),
    )
    seed: int = _recipe(49, "Seed of initial weights, data order and augmentation.", minimum=0, below=2**63)
    amp: bool = _precision(False, "Use mixed precision at the level of --opt-level.")
    opt_level: str = _precision(
        "O2",
        "apex's levels, used with --amp: O1 autocast, O2 float16 with float32 batch norm and "
        "master weights, O3 float16 throughout.",
        choices=("O0", "O1", "O2", "O3"),
    )
    precision: str | None = _precision(
        None,
        "fp32, bf16, O0 to O3, or written out like 'p=f32,c=bf16,o=f32'. auto: the lowest precision "
        "that the device trains well in. Not together with --amp.",
    )
    loss_scale: str = _precision(
        "auto", "A number (static), 'dynamic' or 'none'. auto: dynamic for float16, else none."
    )
    device: str = _devices(
        "auto",
        "auto: npu if available, else cuda, else cpu; the log shows the reason.",
        choices=("auto", *DEVICE_NAMES),
    )
    devices: int | None = _devices(
        None, "Devices of this machine, one process each; 1 if not given.", "--device-num", minimum=1
    )
    device_list: str | None = _devices(
        None, "Device numbers, such as 0,2,5; takes precedence over --devices.", "--device-id", "--gpu"
    )
    backend: str = _devices(
        "auto",
        "Primitives that the network computes with. auto: the fastest in a result of bench step --keep "
        "for the same case, else the one chosen for the device.",
        choices=("auto", *BACKEND_NAMES),
    )
    compile: bool = _devices(
        False, "Compile the step with torch.compile; `bench step --ours-compile` measures the effect."
    )
    running_stats: str = _devices(
        "auto",
        "What updates the running statistics: batch norm's kernels (fewer launches on an NPU), or the "
        "training step after them. auto: kernel on npu, else step.",
        choices=("auto", "kernel", "step"),
    )
    memory_format: str = _devices(
        "auto",
        "Layout of activations. auto: the layout recommended for the device.",
        choices=("auto", "nchw", "channels_last"),
    )
    threads: int | None = _devices(
        None, "Compute threads per process; usable cores / devices if not given.", minimum=1
    )
    dist_backend: str = _devices(
        "auto",
        "Collective library. auto: hccl on npu, nccl on cuda, gloo on cpu.",
        choices=("auto", "hccl", "nccl", "gloo"),
    )
    deterministic: bool = _devices(
        False, "Use operators and collectives that give the same bits in every run; slower on accelerators."
    )
    multiprocessing_distributed: bool = _devices(
        False, "The original's switch for data-parallel training: all devices if no number is given."
    )
    num_nodes: int = _devices(1, "Number of machines.", "--world-size", flag="--nnodes", minimum=1)
    node_rank: int = _devices(0, "Rank of this machine, from 0.", "--rank", minimum=0)
    master_addr: str | None = _devices(None, "Host name or address of machine 0.", flag="--addr")
    rdzv_endpoint: str | None = _devices(
        None,
        "Rendezvous endpoint, HOST:PORT or tcp://HOST:PORT; port 29688 if only --addr is given.",
        "--dist-url",
    )
    run_dir: str | None = _run(None, "Directory of this run; must be new or empty.")
    output: str = _run(
        "runs",
        "Folder in which the run directory ARCH-NNN is created if --run-dir is not given.",
        "--workspace",
    )
    resume: str | None = _run(
        None,
        "Resume this run directory or checkpoint, with its settings. auto: resume if there is a "
        "checkpoint, else start.",
    )
    print_freq: int = _run(10, "Steps between log lines.", "-p", minimum=1)
    eval_freq: int = _run(
        1,
        "Epochs between evaluations; in the last tenth of the run, every epoch is evaluated.",
        "-ef",
        minimum=1,
    )
    checkpoint_freq: int = _run(
        0, "Steps between checkpoints within an epoch; 0 saves at the ends of epochs only.", minimum=0
    )
    max_bad_steps: int | None = _run(
        None,
        "Stop after this many updates in a row whose loss or gradient is not finite, and dump the last "
        "one. Such updates are skipped. If not given: 100 with a loss scale, else 1.",
        minimum=1,
    )
    keep: int = _run(2, "Number of newest checkpoints to keep.", minimum=1)
    keep_best: int = _run(1, "Number of checkpoints with the highest top-1 to keep.", minimum=1)
    keep_every: int = _run(0, "Epochs between checkpoints that are kept permanently; 0 for none.", minimum=0)
    max_time: str | None = _run(
        None, "Save and exit with 75 before this time is over: 90s, 30m, 11h30m, or Slurm's D-HH:MM:SS."
    )
    hang_timeout: float | None = _run(
        None,
        "Abort the run when a rank makes no progress for this many seconds. If not given: 600 for "
        "several processes; a single process is not watched.",
        above=0,
    )
    join_timeout: float = _run(300.0, "Seconds that machines wait for each other at the start.", above=0)
    max_restarts: int = _run(
        0,
        "After a failure, restart all processes from the newest undamaged checkpoint, at most this many "
        "times; on one machine only.",
        minimum=0,
    )
    profile: str | None = _run(
        None, "Record a trace of a few steps of rank 0 in this folder, with torch's or Ascend's profiler."
    )
    max_steps: int | None = _run(
        None, "Stop after this many updates, for trials. The schedule is that of the full run.", minimum=1
    )


_eval = partial(_setting, "Evaluation")
_as_train = partial(like, TrainSettings, panel="Evaluation")


@dataclass(frozen=True, kw_only=True)
class EvalSettings:
    """All settings of an evaluation. For a checkpoint, missing values come from the run that wrote it."""

    data: str | None = _as_train("data", help="Folder with train/ and val/, packed data, or 'demo'.")
    split: str = _eval("val", "Split to evaluate.", choices=("val", "train"))
    arch: str | None = _as_train("arch", None, help="Architecture of a bare weights file.")
    image_size: int | None = _as_train("image_size", None, help="Side of the centre crop.")
    eval_resize: int | None = _as_train("eval_resize", help="Short side before the crop.")
    batch_size: int = _as_train("batch_size", help="Images per pass and device.")
    workers: int | None = _as_train("workers", help="Loader threads for all devices.")
    on_bad_image: str = _as_train(
        "on_bad_image",
        help="If a file is damaged or not an image: stop and name it, or skip it and report how many.",
    )
    max_bad: str = _as_train(
        "max_bad", help="With --on-bad-image skip: how many images may be bad, as a percentage or a number."
    )
    image_reader: str = _as_train("image_reader")
    precision: str = _as_train(
        "precision", "fp32", help="fp32, bf16, O0 to O3, or written out like 'p=f32,c=bf16,o=f32'."
    )
    device: str = _as_train("device", help="Kind of device.")
    engine: str = _eval(
        "auto",
        "What computes. auto: ONNX Runtime on a CPU in fp32 if it is installed, else torch.",
        choices=("auto", "torch", "onnxruntime"),
    )
    devices: int = _as_train("devices", 1, help="Devices, one process each.")
    backend: str = _as_train("backend", help="Primitives that the network computes with.")

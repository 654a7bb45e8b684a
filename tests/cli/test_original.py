"""Command lines of the original's documentation and scripts run as written."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shufflenet_fn.config.resolve import resolve
from shufflenet_fn.run import plan

Command = Callable[..., tuple[int, str, str]]

_ALL = (
    "--data=/data/xxx/ --addr=10.0.0.1 --seed=49 --eval-freq=5 --arch=shufflenet_v2_x1_0 "
    "--dist-url='tcp://127.0.0.1:50000' --dist-backend='hccl' --multiprocessing-distributed "
    "--world-size=1 --rank=0 --amp --momentum=0 --benchmark 0 "
)
_ONE = "--workers=128 --learning-rate=0.75 --print-freq=10 --device-list=0 --wd=3.0517578125e-05 "
_EIGHT = "--workers=184 --learning-rate=4 --print-freq=1 --device-list=0,1,2,3,4,5,6,7 --device_num=8 "
_DEFAULTS = (
    "-j 32 --start-epoch 0 -b 256 -p 10 -ef 5 --resume '' --world-size -1 --rank -1 -bm 0 --device npu "
    "--checkpoint-nameprefix checkpoint --checkpoint-freq 0 --device_num -1 --device-list '' "
    "--warm_up_epochs 0 --loss-scale 64.0 --opt-level O2 --num-classes 1000 --workspace ./ --local_rank 0"
)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--data_path=/data/xxx/ --batch_size=8192 --learning_rate=4", {"batch_size": 8192}),
        (f"{_ALL}{_ONE}--batch-size=1536 --epochs=240 --warm_up_epochs=1", {"device_list": "0"}),
        (f"{_ALL}{_ONE}--batch-size=1536 --epochs=2 --warm_up_epochs=1", {"epochs": 2}),
        (f"{_ALL}{_ONE}--batch-size=1024 --epochs=2 --warm_up_epochs=2", {"warm_up_epochs": 2}),
        (f"{_ALL}{_EIGHT}--batch-size=8192 --epoch=1 --warm_up_epochs=5", {"epochs": 1}),
        (f"{_ALL}{_EIGHT}--batch-size=8192 --epochs=240 --local_rank=0", {"batch_size": 8192}),
        (_DEFAULTS, {"devices": None, "num_nodes": 1, "loss_scale": "64.0", "output": "./"}),
        ("--gpu 2", {"device_list": "2"}),
    ],
)
def test_lines_are_read_as_written(
    command: Command, monkeypatch: pytest.MonkeyPatch, line: str, expected: dict[str, Any]
) -> None:
    resolved = []

    def stop(given: dict[str, Any], **other: Any) -> None:
        resolved.append(resolve(given).settings)
        raise SystemExit

    monkeypatch.setattr(plan, "prepare_run", stop)
    code, out, err = command("train", *shlex.split(line))
    assert (code, out, err) == (0, "", "")
    assert {name: getattr(resolved[0], name) for name in expected} == expected


def test_performance_run_and_evaluation(command: Command, image_folder: Path, tmp_path: Path) -> None:
    line = f"train {_ALL}{_ONE} --data_path={image_folder} --epoch=1 --warm_up_epochs=5 -b 8 -a x0_5"
    here = "--workers=4 --image-size 32 --dist-backend=gloo --device cpu --run-dir=r --max-steps=1"
    more = "--opt-level=O2 --loss-scale=64 --device_num=1"
    code, out, err = command(*shlex.split(f"{line} {here} {more}"))
    assert code == 0, err
    assert "--rdzv-endpoint is not used by one machine" in out
    assert "the warm-up of 5 epochs (command line) is not over when the run is" in err
    code, out, err = command("train", "--evaluate", "--resume=r", "--batch-size=8", "--lr=4")
    assert (code, out[:5]) == (0, "Acc@1") and "warning: --evaluate is shufflenet-fn evaluate" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--local_rank=3",), 0, "warning: --local_rank 3 does nothing"),
        (("--start-epoch=3",), 2, "error: --start-epoch 3 has no place here: --resume"),
        (("--evaluate",), 2, "error: --evaluate needs weights"),
    ],
)
def test_lines_that_do_nothing(
    command: Command, tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    outcome = command("train", "--data=demo", *arguments)
    assert outcome[0] == code and words in outcome[2]
    assert not list(tmp_path.iterdir())

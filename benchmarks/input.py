"""Our loader compared with torchvision's and NVIDIA DALI's, from disk to batches for the first convolution.

    python -m benchmarks.input --data DIR [--dali-python PATH] [--rounds 10] [--markdown FILE]

``DIR/train`` is repeated to get ``--images`` images. All candidates take turns in one run, each in a separate
process: torchvision with its best number of workers, on the files and on our packed JPEGs; ours on files,
packed JPEG and packed raw; DALI with both layouts of its result, in an interpreter that has
``nvidia-dali-cuda120`` and numpy. Further parts measure the same without colour jitter, two threads
    compared with one, and the data wait of devices at 80 % of the loader's maximum. ``--parts`` selects
    parts. Prints one JSON object; ``--markdown`` writes the tables.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.input_tables import tables
from shufflenet_fn.bench.data import (
    FILES,
    PACKINGS,
    PEER,
    best_peer,
    compared,
    loaded_in_rounds,
    make_tree,
    pack_tree,
    rates,
)
from shufflenet_fn.bench.input import run_input_bench
from shufflenet_fn.bench.loading import Loaded, Loading, Reader, build_loading
from shufflenet_fn.bench.settings import DataBenchSettings, InputBenchSettings
from shufflenet_fn.bench.workers import workers
from shufflenet_fn.data.opening import open_split
from shufflenet_fn.run.directory import environment
from shufflenet_fn_backends.runtimes.cpu import usable_cores
from shufflenet_fn_backends.support.errors import UserError

SMALL_FILES = "JPEG 256 files"
PACKED_JPEG, PACKED_RAW = PACKINGS
PEER_SMALL = f"{PEER}, {SMALL_FILES}"
DALI_LAYOUTS = {"DALI HWC": "HWC", "DALI CHW": "CHW"}
LOAD = 0.8
PARTS = ("jitter", "plain", "scaling", "waits")


class Bar(NamedTuple):
    """``ours`` must be ``least`` times as fast as the fastest of ``peers``; ``aim`` is the goal."""

    ours: str
    peers: tuple[str, ...]
    least: float
    aim: float | None = None


BARS = (
    Bar(FILES, (PEER,), 5.0),
    Bar(FILES, tuple(DALI_LAYOUTS), 2.2, 2.5),
    Bar(PACKED_JPEG, (PEER,), 8.0),
    Bar(PACKED_JPEG, (PEER_SMALL,), 3.0),
    Bar(PACKED_RAW, (PEER,), 12.0),
)
SCALING = 1.7
BESIDE = ", normalised beside"


class Dali:
    """A candidate in another interpreter, see ``dali_worker.py``."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self.name, self._process = name, process

    def value(self, case: str) -> Loaded:
        """Run a turn. Raise ``UserError`` if DALI fails; its output is on standard error."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        with contextlib.suppress(BrokenPipeError):
            stdin.write("turn\n")
            stdin.flush()
        answer = stdout.readline()
        if not answer:
            raise UserError(f"{self.name}: its process ended; see above for its output.")
        return Loaded(*json.loads(answer), waited=0.0)


@contextlib.contextmanager
def dali(python: str, name: str, settings: Mapping[str, Any]) -> Iterator[Dali]:
    worker = Path(__file__).with_name("dali_worker.py")
    process = subprocess.Popen(
        [python, str(worker), json.dumps(settings)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield Dali(name, process)
    finally:
        process.communicate()


def unpacked(packed: str, folder: Path) -> str:
    """Write the JPEGs of a packed training split as files and return their folder."""
    samples = open_split(packed, "train")
    for index in range(len(samples)):
        place = folder / "train" / samples.classes[int(samples.labels[index])] / f"{index:07d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(samples.read(index).data)
    return str(folder)


def speeds(roots: Mapping[str, str], settings: DataBenchSettings, dali_python: str | None) -> dict[str, Any]:
    """Measure all candidates in interleaved turns, and compare the ratios with the bars."""
    threads = usable_cores()
    best, trial = best_peer(roots[FILES], settings, tell)
    small, small_trial = best_peer(roots[SMALL_FILES], settings, tell)
    readers = {
        name: Reader("ours", roots[name], threads, settings.color_jitter)
        for name in (FILES, PACKED_JPEG, PACKED_RAW)
    }
    readers |= {PEER: best, PEER_SMALL: small}
    found = in_turns_with_dali(readers, settings, dali_python, roots[FILES], (threads,))
    return {
        "color_jitter": settings.color_jitter,
        "threads": threads,
        "contenders": {name: rates(turns) for name, turns in found.items()},
        "peer_workers": {PEER: trial, PEER_SMALL: small_trial},
        "bars": [held for bar in BARS if (held := hold(bar, found)) is not None],
    }


def scaling(roots: Mapping[str, str], settings: DataBenchSettings, dali_python: str | None) -> dict[str, Any]:
    """Measure two reading threads compared with one, for ours and for DALI.

    With normalisation, ours has one more thread, which consumes the batches. With one reading thread, it has
    a core of its own; with two, it shares their cores.
    """
    kinds = (FILES, PACKED_JPEG, PACKED_RAW)
    names = [*kinds, *(f"{name}{BESIDE}" for name in kinds)]
    readers = {
        f"{name}, {threads}": Reader(
            "ours",
            roots[name.removesuffix(BESIDE)],
            threads,
            settings.color_jitter,
            normalised=name.endswith(BESIDE),
        )
        for name in names
        for threads in (1, 2)
    }
    found = in_turns_with_dali(readers, settings, dali_python, roots[FILES], (1, 2))
    every = [*names, *(DALI_LAYOUTS if dali_python else ())]
    return {
        "contenders": {name: rates(turns) for name, turns in found.items()},
        "speedups": {
            name: compared(found[f"{name}, 2"], found[f"{name}, 1"])
            | ({"least": SCALING} if name in kinds else {})
            for name in every
        },
    }


def in_turns_with_dali(
    readers: Mapping[str, Reader],
    settings: DataBenchSettings,
    dali_python: str | None,
    root: str,
    threads: Sequence[int],
) -> dict[str, list[Loaded]]:
    """Measure ``readers`` and DALI, in both layouts with each number of threads, interleaved."""
    loading = Loading(readers, settings.batch_size, settings.image_size, settings.turn_seconds)
    common = {
        "root": root,
        "batch_size": settings.batch_size,
        "image_size": settings.image_size,
        "jitter": settings.color_jitter,
        "seconds": settings.turn_seconds,
    }
    with workers(list(readers), build_loading, loading, threads=1) as ours, contextlib.ExitStack() as stack:
        theirs = [
            stack.enter_context(
                dali(
                    dali_python,
                    name if len(threads) == 1 else f"{name}, {count}",
                    {**common, "layout": layout, "threads": count},
                )
            )
            for name, layout in DALI_LAYOUTS.items()
            for count in threads
            if dali_python is not None
        ]
        return loaded_in_rounds([*ours, *theirs], settings.rounds, tell)


def hold(bar: Bar, found: Mapping[str, Sequence[Loaded]]) -> dict[str, Any] | None:
    """Return a bar with its measured ratio, or ``None`` if its peer was not measured."""
    present = [name for name in bar.peers if name in found]
    if not present:
        return None
    peer = max(present, key=lambda name: rates(found[name])["images_s"])
    return {
        "ours": bar.ours,
        "peer": peer,
        "least": bar.least,
        "aim": bar.aim,
        **compared(found[bar.ours], found[peer]),
    }


def waits(root: str, settings: DataBenchSettings, seconds: float) -> list[dict[str, Any]]:
    """Measure the data wait at 80 % of the loader's maximum, for 1 and 2 devices."""
    return [
        run_input_bench(
            InputBenchSettings(
                data=root,
                devices=devices,
                load=LOAD,
                batch_size=settings.batch_size * devices,
                image_size=settings.image_size,
                color_jitter=settings.color_jitter,
                seconds=seconds,
            ),
            progress=tell,
        )
        for devices in (1, 2)
    ]


def tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def parts_of(text: str) -> tuple[str, ...]:
    """Parse ``--parts``."""
    parts = tuple(text.split(","))
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"{unknown[0]!r} is no part: give some of {', '.join(PARTS)}, with commas between."
        )
    return parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="image folder")
    parser.add_argument("--dali-python", help="an interpreter with DALI and numpy")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--turn-seconds", type=float, default=3.0)
    parser.add_argument("--wait-seconds", type=float, default=20.0)
    parser.add_argument("--scratch", help="folder for the trees; the system's temporary one if not given")
    parser.add_argument("--markdown", type=Path, help="write the tables to this file")
    parser.add_argument(
        "--parts", type=parts_of, default=PARTS, help=f"what to measure, of {','.join(PARTS)}"
    )
    given = parser.parse_args()
    parts = given.parts
    settings = {
        part: DataBenchSettings(
            images=given.images,
            image_size=given.image_size,
            batch_size=given.batch_size,
            rounds=given.rounds,
            turn_seconds=given.turn_seconds,
            color_jitter=jitter,
        )
        for part, jitter in (("jitter", 0.2), ("plain", 0.0))
    }
    with tempfile.TemporaryDirectory(dir=given.scratch, prefix="input-") as place:
        roots = {FILES: str(make_tree(given.data, Path(place, FILES), given.images))}
        roots |= pack_tree(Path(roots[FILES]), Path(place), tell)
        roots[SMALL_FILES] = unpacked(roots[PACKED_JPEG], Path(place, "small"))
        result = {
            "command": " ".join(["python", *sys.argv]),
            "environment": environment(),
            "images": given.images,
            "image_size": given.image_size,
            "batch_size": given.batch_size,
            "rounds": given.rounds,
            "turn_seconds": given.turn_seconds,
            "speeds": [
                speeds(roots, settings[part], given.dali_python)
                for part in ("jitter", "plain")
                if part in parts
            ],
            "scaling": scaling(roots, settings["jitter"], given.dali_python)
            if "scaling" in parts
            else {"speedups": {}},
            "waits": waits(roots[FILES], settings["jitter"], given.wait_seconds) if "waits" in parts else [],
        }
    print(json.dumps(result))
    if given.markdown is not None:
        given.markdown.write_text(tables(result))


if __name__ == "__main__":
    main()

"""Start-up time of ``shufflenet-fn --help``, and of ``import shufflenet_fn`` compared with ``import torch``.

    python -m benchmarks.startup

Medians of interleaved fresh processes, in seconds, as one JSON object.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "help": ["-m", "shufflenet_fn_cli.main", "--help"],
    "import torch": ["-c", "import torch"],
    "import torch, shufflenet_fn": ["-c", "import torch, shufflenet_fn"],
    "import torch, shufflenet_fn and its names": [
        "-c",
        "import torch, shufflenet_fn as s; [getattr(s, name) for name in s.__all__]",
    ],
}


def seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main(rounds: int = 9) -> None:
    taken = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, arguments in COMMANDS.items():
            taken[name].append(seconds(arguments))
    print(json.dumps({name: round(statistics.median(t), 3) for name, t in taken.items()}))


if __name__ == "__main__":
    main()

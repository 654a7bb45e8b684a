"""Candidates for the tests of turns and workers; spawned processes import this module."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from shufflenet_fn_backends.support.errors import UsageError


class Log(NamedTuple):
    """Where candidates write what they do."""

    path: Path

    def lines(self) -> list[str]:
        return self.path.read_text().splitlines() if self.path.exists() else []


def logging(name: str, case: str, log: Log) -> Callable[[], None]:
    def step() -> None:
        with log.path.open("a") as file:
            file.write(f"{name}{case}\n")

    return step


def telling_environment(name: str, case: str, log: Log) -> Callable[[], None]:
    def step() -> None:
        values = [os.environ.get(name) for name in case.split()]
        log.path.write_text(f"{values} {torch.get_num_threads()}")

    return step


def talking(name: str, case: str, log: Log) -> Callable[[], None]:
    print("noise of a build", flush=True)
    os.write(1, b"noise of an extension\n")
    return lambda: None


def failing(name: str, case: str, log: Log) -> Callable[[], None]:
    def step() -> None:
        if case == "die":
            os._exit(3)
        if case == "usage":
            raise UsageError("do this instead")
        raise ValueError("first line\nsecond line")

    if case == "build":
        raise KeyError(name)
    return step


def allocating(name: str, case: str, log: Log) -> Callable[[], None]:
    """64 MiB while a step runs, or 64 MiB more after every step."""
    kept: list[list[torch.Tensor]] = []

    def step() -> None:
        # In pieces: glibc may not take a freed block again that is just as large as the aligned one wanted.
        blocks = [torch.ones(2**20) for _ in range(16)]
        if case == "keep":
            kept.append(blocks)

    return step

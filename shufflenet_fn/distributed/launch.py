"""Starting one process per device through torch elastic, and bringing back one clear error."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from shufflenet_fn.distributed.world import World, world_from_environment
from shufflenet_fn_backends.errors import UserError
from shufflenet_fn_backends.known_errors import explain, telling_line

A = TypeVar("A")
R = TypeVar("R")

DEFAULT_PORT = 29688
"""Where machines meet if only an address is given: the port that the original has fixed."""

_PEERS_FIRST_S = 1.0


JOIN_TIMEOUT_S = 300
"""How long machines wait for each other at the start."""


class Nodes(NamedTuple):
    """``num_nodes`` machines, of which this is number ``rank``. ``endpoint`` is HOST:PORT of machine 0."""

    num_nodes: int = 1
    rank: int = 0
    endpoint: str | None = None


class RankFailed(UserError):
    """A rank ended with an error. Carries that rank's exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]  # a class default, overridden per instance


def launch(
    entry: Callable[[A, World], R], argument: A, *, processes: int, nodes: Nodes | None = None
) -> R:
    """Run ``entry(argument, world)`` in ``processes`` processes of this machine; the result of the first.

    ``entry`` and ``argument`` are pickled: a module-level function and plain values. When one rank
    fails, the others are stopped and the first failure is raised here.

    Raises:
        RankFailed: what the first failing rank said, with its exit code.
        KeyboardInterrupt: this process was told to stop; its argument is the signal's number.
    """
    # Imported here: it takes a second, and a run on one device never needs it.
    import torch.distributed as dist
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    nodes = nodes or Nodes()
    single = nodes.num_nodes == 1
    with tempfile.TemporaryDirectory(prefix="shufflenet-fn-") as errors, _quiet_elastic():
        config = LaunchConfig(
            min_nodes=nodes.num_nodes,
            max_nodes=nodes.num_nodes,
            nproc_per_node=processes,
            run_id="shufflenet-fn",
            rdzv_backend="c10d" if single else "static",
            rdzv_endpoint="localhost:0" if single else str(nodes.endpoint),
            rdzv_configs={} if single else {"rank": nodes.rank, "timeout": JOIN_TIMEOUT_S},
            max_restarts=0,
            monitor_interval=0.1,
            start_method="spawn",
            logs_specs=DefaultLogsSpecs(),
        )
        try:
            results: dict[int, R] = elastic_launch(config, _worker)(entry, argument, errors)
        except ChildFailedError as failure:
            raise _first_failure(Path(errors), failure.failures) from None
        except dist.DistError as error:
            raise UserError(
                f"the {nodes.num_nodes} machines did not come together at {nodes.endpoint} within "
                f"{JOIN_TIMEOUT_S} s ({str(error).splitlines()[0]}). Start the same command on all of them, "
                "with --node-rank 0 on the one that --rdzv-endpoint names."
            ) from error
        except SignalException as stopped:
            # Elastic has ended the workers by now.
            raise KeyboardInterrupt(int(stopped.sigval)) from None
    return results[min(results)]


def _worker(entry: Callable[[A, World], R], argument: A, errors: str) -> R:
    _die_with_parent()
    # Ctrl-C reaches every process of the terminal; what to say about it is the launcher's business.
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))
    world = world_from_environment()
    if world is None:
        raise RuntimeError("torch elastic did not set RANK and WORLD_SIZE")
    report: dict[str, Any] = {"rank": world.rank}
    try:
        return entry(argument, world)
    except UserError as error:
        report.update(time=time.time(), message=str(error), exit_code=error.exit_code)
        _write_report(Path(errors), report)
        raise SystemExit(error.exit_code) from None
    except Exception as error:
        report.update(time=time.time(), message=repr(error), traceback=traceback.format_exc())
        known = explain(repr(error))
        if known is not None:
            report["known"] = f"{telling_line(str(error) or repr(error))}: {known}"
        # A rank whose peer died fails too, in its collective. The launcher looks ten times a second, so
        # it finds the peer first if this one waits.
        time.sleep(_PEERS_FIRST_S)
        _write_report(Path(errors), report)
        raise


def _write_report(errors: Path, report: dict[str, Any]) -> None:
    # Renamed when it is whole: the others' failures end this process at any moment.
    partial = errors / f"{report['rank']}.partial"
    partial.write_text(json.dumps(report))
    partial.replace(errors / f"{report['rank']}.json")


def _first_failure(errors: Path, failures: dict[int, Any]) -> RankFailed:
    """What went wrong first: a user error, a death by signal, a bug with its traceback, in this order."""
    reports = [json.loads(file.read_text()) for file in errors.glob("*.json")]
    reports.sort(key=lambda report: float(report["time"]))
    for report in reports:
        if "exit_code" in report:
            return RankFailed(f"{report['message']} (rank {report['rank']})", report["exit_code"])
    rank, failure = min(failures.items(), key=lambda item: item[1].timestamp)
    code = failure.exitcode
    if code < 0:
        name = signal.Signals(-code).name
        reason = f"was killed by {name}" + (
            ", as the kernel does when memory runs out (see dmesg)" if name == "SIGKILL" else ""
        )
    elif reports:
        rank = reports[0]["rank"]
        if "known" in reports[0]:
            return RankFailed(
                f"rank {rank}: {reports[0]['known']} The other ranks were stopped.", 1
            )
        print(reports[0]["traceback"], file=sys.stderr, end="")
        reason = f"failed with {reports[0]['message']}; its traceback is above"
    else:
        reason = f"ended with exit code {code}"
    return RankFailed(f"rank {rank} {reason}. The other ranks were stopped.", 1)


def _die_with_parent() -> None:
    """Have the kernel end this process when the launcher goes, however that happens."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


@contextlib.contextmanager
def _quiet_elastic() -> Iterator[None]:
    """Without elastic's own log lines: what they tell is raised as one error instead."""
    # Each of its modules has set a level of its own, so the common parent's would not do.
    loggers = [
        logging.getLogger(name)
        for name in list(logging.root.manager.loggerDict)
        if name.startswith("torch.distributed.elastic") or name == "torch.multiprocessing.spawn"
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)

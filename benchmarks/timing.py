"""Fair timing: programs that take turns, ratios within the rounds, and targets.

Each program (contender) runs in its own process, so that they share no allocator, threads or caches. It waits between
its epochs, and only one of them runs at a time.
"""

import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from platform import processor
from statistics import median

import torch

WARM_UP = 1
"""The first epochs of each contender do not count: workers start, kernels are chosen, code is compiled."""

Report = Callable[[float], None]
"""Called after every epoch with its mean loss, or NaN without training; returns when the next epoch may start."""

Run = Callable[[Report], None]
"""Works epoch by epoch."""

# New processes, not copies of this one, that need not all import the same libraries again.
_CONTEXT = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Timing:
    """Seconds of each round, wall time and CPU time."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Aim:
    """A target: the time of `run` divided by the time of `base` must be at most, or at least, this number."""

    run: str
    base: str
    at_most: float | None = None
    at_least: float | None = None

    def __str__(self) -> str:
        return f"at most {self.at_most}" if self.at_most is not None else f"at least {self.at_least}"

    def met(self, ratio: float) -> bool:
        return (self.at_most is None or ratio <= self.at_most) and (self.at_least is None or ratio >= self.at_least)


@dataclass(frozen=True)
class Epoch:
    """The report of a contender: mean loss and seconds, including the CPU seconds of its workers."""

    loss: float
    wall: float
    cpu: float


class Turns:
    """A contender calls this after every epoch: it sends the seconds and waits for its next turn."""

    def __init__(self, connection: "Connection[Epoch, None]") -> None:
        self._connection = connection
        self._wait()

    def __call__(self, loss: float) -> None:
        synchronise()
        self._connection.send(Epoch(loss, time.perf_counter() - self._wall, cpu_seconds() - self._cpu))
        self._wait()

    def _wait(self) -> None:
        with suppress(EOFError):  # after the last epoch there is no request for another one
            self._connection.recv()
        self._wall, self._cpu = time.perf_counter(), cpu_seconds()


def _work(run: Run, connection: "Connection[Epoch, None]", start_method: str) -> None:
    multiprocessing.set_start_method(
        start_method, force=True
    )  # the start method of DataLoader workers, the same as elsewhere
    run(Turns(connection))


class Contender:
    """A run in its own process, which does one epoch on request."""

    def __init__(self, name: str, run: Run) -> None:
        self.name = name
        self._connection, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_work, args=(run, theirs, multiprocessing.get_start_method()))
        self._process.start()
        theirs.close()

    def epoch(self) -> Epoch:
        """The next epoch.

        Raises:
            ChildProcessError: the process has ended; its messages are on the terminal.
        """
        try:
            self._connection.send(None)
            return self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            raise ChildProcessError(f"{self.name}: ended with exit code {self._process.exitcode}") from None

    def close(self) -> None:
        """Waits for the end of the process, and stops it if it does not end."""
        self._connection.close()
        self._process.join(timeout=10)
        self._process.terminate()
        self._process.join()


def preload(module: str) -> None:
    """Lets contenders start with `module` already imported; call it before the first one starts."""
    _CONTEXT.set_forkserver_preload([module])


def take_turns(runs: Mapping[str, Run], rounds: int) -> dict[str, Timing]:
    """The timings of all runs, with `WARM_UP + rounds` epochs each, in an order that is reversed every other round."""
    found = {name: Timing() for name in runs}
    with ExitStack() as stack:
        contenders = [Contender(name, run) for name, run in runs.items()]
        for contender in contenders:
            stack.callback(contender.close)
        for index in range(-WARM_UP, rounds):
            for contender in contenders if index % 2 == 0 else contenders[::-1]:
                print(f"round {index + 1} of {rounds}: {contender.name}", file=sys.stderr)
                epoch = contender.epoch()
                if index >= 0:
                    found[contender.name].wall.append(epoch.wall)
                    found[contender.name].cpu.append(epoch.cpu)
    return found


def synchronise() -> None:
    """Waits for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def cpu_seconds() -> float:
    """CPU seconds of this process and of its present and former workers; NaN without /proc."""
    alive = sum(_cpu_seconds_of(child.pid) for child in multiprocessing.active_children())
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + alive + ended.ru_utime + ended.ru_stime


def _cpu_seconds_of(process: int | None) -> float:
    stat = Path(f"/proc/{process}/stat")
    if not stat.exists():
        return float("nan")
    user, system = stat.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def ratio(run: Timing, base: Timing) -> tuple[float, float]:
    """The time of `run` divided by that of `base`, for wall and CPU time: the median over the rounds."""
    return median(ratios(run.wall, base.wall)), median(ratios(run.cpu, base.cpu))


def ratios(seconds: list[float], base: list[float]) -> list[float]:
    """The ratio of the times within each round."""
    return [a / b for a, b in zip(seconds, base, strict=True)]


def aim_row(aim: Aim, timings: Mapping[str, Timing]) -> str:
    """A table row with the target, the measured ratios and whether they miss it."""
    found = ratio(timings[aim.run], timings[aim.base])
    wall, cpu = (f"{value:.2f}" + ("" if aim.met(value) else " (missed)") for value in found)
    return f"| {aim.run} / {aim.base} | {aim} | {wall} | {cpu} |"


def cpu_name() -> str:
    """The model name of the processor."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else processor()

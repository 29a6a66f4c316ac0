"""Fair timing: contenders that take turns, ratios within the rounds, and what was to be reached.

Each contender works in a process of its own, so that one's allocator, threads and caches are not another's, and waits
between two of its epochs; nothing else of the benchmark works meanwhile.
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
"""Epochs of each contender that are not counted: workers start, kernels are chosen, code is compiled."""

Report = Callable[[float], None]
"""Called after every epoch with its mean loss, NaN where nothing is trained; returns when the next one may start."""

Run = Callable[[Report], None]
"""Works epoch by epoch."""

# Fresh processes, none a copy of this one, that do not all have to import the same libraries again.
_CONTEXT = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Timing:
    """Seconds of each round, of the clock on the wall and of the processor."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Aim:
    """How many times as long `run` may take as `base`, at most; or must, at least."""

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
    """What a contender reports: its mean loss and the seconds, its workers' CPU seconds included."""

    loss: float
    wall: float
    cpu: float


class Turns:
    """What a contender calls after every epoch: sends the seconds, then waits until it is its turn again."""

    def __init__(self, connection: "Connection[Epoch, None]") -> None:
        self._connection = connection
        self._wait()

    def __call__(self, loss: float) -> None:
        synchronise()
        self._connection.send(Epoch(loss, time.perf_counter() - self._wall, cpu_seconds() - self._cpu))
        self._wait()

    def _wait(self) -> None:
        with suppress(EOFError):  # after the last epoch nobody asks for another
            self._connection.recv()
        self._wall, self._cpu = time.perf_counter(), cpu_seconds()


def _work(run: Run, connection: "Connection[Epoch, None]", start_method: str) -> None:
    multiprocessing.set_start_method(start_method, force=True)  # of DataLoader workers: as everywhere else
    run(Turns(connection))


class Contender:
    """A run in a process of its own, which does an epoch when asked for one."""

    def __init__(self, name: str, run: Run) -> None:
        self.name = name
        self._connection, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_work, args=(run, theirs, multiprocessing.get_start_method()))
        self._process.start()
        theirs.close()

    def epoch(self) -> Epoch:
        """The next epoch.

        Raises:
            ChildProcessError: the process has ended; what it said is on the terminal.
        """
        try:
            self._connection.send(None)
            return self._connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            raise ChildProcessError(f"{self.name}: ended with exit code {self._process.exitcode}") from None

    def close(self) -> None:
        """Waits for the process, which has no more to do, and ends it where it has."""
        self._connection.close()
        self._process.join(timeout=10)
        self._process.terminate()
        self._process.join()


def preload(module: str) -> None:
    """Lets contenders start with `module` imported; to be called before the first one."""
    _CONTEXT.set_forkserver_preload([module])


def take_turns(runs: Mapping[str, Run], rounds: int) -> dict[str, Timing]:
    """The timings of all runs, of `WARM_UP + rounds` epochs each, in an order that is reversed every other round."""
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
    """Waits for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def cpu_seconds() -> float:
    """CPU seconds of this process, of the workers that it has and of those that it had; NaN where /proc is missing."""
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
    """How many times as long, by the wall and by the CPU: the median over the rounds."""
    return median(ratios(run.wall, base.wall)), median(ratios(run.cpu, base.cpu))


def ratios(seconds: list[float], base: list[float]) -> list[float]:
    """How many times as long, within each round."""
    return [a / b for a, b in zip(seconds, base, strict=True)]


def aim_row(aim: Aim, timings: Mapping[str, Timing]) -> str:
    """What was to be reached and what was, missed or not."""
    found = ratio(timings[aim.run], timings[aim.base])
    wall, cpu = (f"{value:.2f}" + ("" if aim.met(value) else " (missed)") for value in found)
    return f"| {aim.run} / {aim.base} | {aim} | {wall} | {cpu} |"


def cpu_name() -> str:
    """What the processor calls itself."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else processor()

"""What the outbox costs: the time that a run spends on its journal, at the start and beside a training of one minute.

    python -m benchmarks.outbox

Writes the records of a typical run (eight epochs, 40 pictures, the network of the recipe `fast`) into an outbox on the
disk of the current folder. The cost is what the outbox adds: digests, and the waiting for the disk. Pictures, tables
and the model were made into files before there was an outbox, too. The targets are 1 % of a minute, and 50 ms.
"""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from experiments.models.fastnet import FastNet
from experiments.tracking import journal, outbox, writing
from experiments.tracking.lifetime import open_run
from experiments.tracking.records import KeyedPicture, Metrics, Model, Param, Picture, Record, Text

EPOCHS, PICTURES, MINUTE_S, ROUNDS = 8, 20, 60.0, 5
SHARE, START_S = 0.01, 0.05


def describing() -> list[Record]:
    """The settings."""
    return [*(Param(f"option{number}", number) for number in range(60)), Text("config.json", "x" * 5000)]


def epoch(number: int) -> list[Record]:
    """What an epoch logs."""
    return [Metrics({f"train/m{index}": index / (1 + number) for index in range(8)}, number)]


def results() -> Iterator[list[Record]]:
    """Pictures and the network."""
    noise = np.random.default_rng(0).integers(0, 256, (300, 600, 3), dtype=np.uint8)
    yield [Picture(f"galleries/{number}.png", noise) for number in range(PICTURES)]
    yield [KeyedPicture(f"gradcam/{number}", noise[:256, :256], EPOCHS) for number in range(PICTURES)]
    network = FastNet(classes=10, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)).eval()
    images = np.zeros((2, 3, 32, 32), np.float32)
    yield [Model(network, images, network(torch.from_numpy(images)).detach().numpy(), EPOCHS)]


@contextmanager
def timed(spent: list[float]) -> Iterator[None]:
    """Adds up the seconds in the functions that only the outbox needs."""

    def timing(call: Callable[..., Any]) -> Callable[..., Any]:
        def timed_call(*arguments: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*arguments)
            finally:
                spent.append(time.perf_counter() - start)

        return timed_call

    with (
        patch.object(writing, "sync", timing(journal.sync)),
        patch.object(journal.Journal, "append", timing(journal.Journal.append)),
    ):
        yield


def one_run() -> tuple[float, float]:
    """Seconds to open a run, and seconds that the outbox adds to it in all."""
    spent: list[float] = []
    with timed(spent):
        start = time.perf_counter()
        with open_run(kind="train", name="benchmark") as run:
            opened = time.perf_counter() - start
            run.log(describing())
            for number in range(1, EPOCHS + 1):
                run.log(epoch(number))
            for records in results():
                run.log(records)
    return opened, sum(spent)


def main() -> None:
    """Measures, and prints both figures with their targets."""
    with TemporaryDirectory(dir=Path.cwd()) as folder:
        os.environ[outbox.OFFLINE], os.environ[outbox.OUTBOX] = "1", folder
        opened, spent = (list(times) for times in zip(*(one_run() for _ in range(1 + ROUNDS)), strict=True))
    share = median(spent[1:]) / MINUTE_S
    print(f"open a run:          {1000 * median(opened[1:]):6.1f} ms (target: at most {1000 * START_S:.0f} ms)")
    print(f"journal of a run:    {1000 * median(spent[1:]):6.1f} ms, {share:.2%} of a minute (at most {SHARE:.0%})")


if __name__ == "__main__":
    main()

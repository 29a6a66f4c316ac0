"""Saves a training, so that it can continue after a stop with the same result, on a CPU bit for bit."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..errors import CannotStart
from ..system.files import Damaged, check_writable, sealed, unsealed

AUTO_EVERY_S = 60.0
"""The shortest time between automatic checkpoints, so that short trainings never wait for the disk."""


_KEYS = {"fingerprint", "settings", "history", "clock", "state"}


class CheckpointError(CannotStart):
    """A checkpoint is missing, damaged or of another training; the message is one line."""


@dataclass(frozen=True)
class Checkpoint:
    """A training after some of its epochs.

    Attributes:
        fingerprint: the fingerprint of the training.
        settings: every option with its value, spelled as on the command line.
        history: the metrics of each epoch so far, from epoch 1.
        clock: seconds of each phase so far, wall time and CPU time.
        state: of network, optimizer and random generators, from `EpochResult.state`.
    """

    fingerprint: str
    settings: Mapping[str, str]
    history: Mapping[int, Mapping[str, float]]
    clock: Mapping[str, Mapping[str, float]]
    state: Mapping[str, Any]

    @property
    def epochs(self) -> int:
        """Number of finished epochs."""
        return max(self.history)


@dataclass
class Keeper:
    """Writes one file after each epoch, but at most every `every_s` seconds; removes it at the end if `passing`."""

    path: Path
    every_s: float
    passing: bool
    _last: float = field(default_factory=time.monotonic)

    def keep(self, checkpoint: Checkpoint) -> None:
        """Replaces the whole file if enough time has passed.

        Raises:
            CheckpointError: the file cannot be written.
        """
        if time.monotonic() - self._last >= self.every_s:
            write(self.path, checkpoint)
            self._last = time.monotonic()

    def finish(self) -> None:
        """Call it at the end of the training; removes a `passing` checkpoint."""
        if self.passing:
            self.path.unlink(missing_ok=True)


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Writes the whole file or nothing.

    Raises:
        CheckpointError: it cannot be written.
    """
    with _naming(path), sealed(path) as file:
        torch.save({key: getattr(checkpoint, key) for key in _KEYS}, file)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch raises RuntimeError if the disk is full
        why = error.strerror if isinstance(error, OSError) else "disk full?"
        cure = "name another FILE, or checkpoint=none"
        raise CheckpointError(f"checkpoint={path}: cannot be written ({why}); {cure}") from error


def check_place(path: Path) -> None:
    """Checks that `write` can write the file, without changing it.

    Raises:
        CheckpointError: it cannot be written, is a folder, or contains something else that would be lost.
    """
    with _naming(path):
        if path.is_dir():
            raise CheckpointError(f"checkpoint={path}: is a folder; name a FILE in it, or checkpoint=none")
        exists = path.exists()
        check_writable(path)
    if exists:
        try:
            read(path)
        except CheckpointError as error:
            cure = "name another FILE, delete this one, or checkpoint=none"
            raise CheckpointError(f"checkpoint={path}: exists and is no whole checkpoint; {cure}") from error


def read(path: Path) -> Checkpoint:
    """The checkpoint in the file; tensors are on the CPU.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it contains no checkpoint of this suite.
    """
    try:
        with unsealed(path) as file:
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"resume={path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # torch passes on the many errors of pickle and zipfile
        why = f" ({error})" if isinstance(error, Damaged) else ""
        raise CheckpointError(
            f"resume={path}: is damaged or not a checkpoint{why}; use resume=none to start from the beginning"
        ) from error
    if not isinstance(content, dict) or set(content) != _KEYS:
        raise CheckpointError(
            f"resume={path}: is not a checkpoint of a training; use resume=none to start from the beginning"
        )
    return Checkpoint(**content)


def of_this_training(path: Path, fingerprint: str, settings: Mapping[str, str]) -> Checkpoint:
    """The checkpoint in the file, which must be of the training with this fingerprint.

    Raises:
        CheckpointError: as `read`; or it is of another training; the message names the options that differ.
    """
    checkpoint = read(path)
    if checkpoint.fingerprint != fingerprint:
        there = checkpoint.settings
        differing = [
            f"{name}={there.get(name)} there, {value} here"
            for name, value in settings.items()
            if there.get(name) != value and name not in ("checkpoint", "resume")
        ]
        why = "; ".join(differing) or "other data, another number format, other code or other libraries"
        raise CheckpointError(
            f"resume={path}: is a checkpoint of another training ({why}); give its options, or resume=none"
        )
    return checkpoint

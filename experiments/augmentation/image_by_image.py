"""Transforms that take one image at a time, computed by worker processes.

Every image of an epoch has its own random seed, so the images do not depend on the number of workers.
"""

import random
import signal
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..errors import Failed
from .streams import stream

OneImage = Callable[[Any, np.random.Generator], Any]
"""Gives an image of the same size and type, uint8 `(h, w, 3)`. It draws from the generator, or from those that
`seed_all` seeds."""


@dataclass(frozen=True)
class Foreign:
    """A transform of one image.

    Attributes:
        name: of its random stream.
        words: the transform in one line.
        sources: the text of the files that define it, by name.
    """

    name: str
    apply: OneImage
    words: str
    sources: Mapping[str, str]


class ImageFailed(Failed):
    """An image could not be transformed; the message is one line."""


class ImageByImage(Dataset[np.ndarray]):
    """Images that are transformed one by one.

    Args:
        transforms: by the names of their random streams, in their order.
        images: all training images.
    """

    def __init__(self, transforms: Mapping[str, OneImage], images: UInt8[np.ndarray, "n h w 3"], seed: int) -> None:
        self._transforms, self._images, self._seed = transforms, images, seed

    def __getitems__(self, places: Sequence[tuple[int, int]]) -> UInt8[np.ndarray, "b h w 3"] | ImageFailed:
        """The images of these epochs and places. An error is returned: a DataLoader would turn it into many lines."""
        try:
            with _undisturbed():
                return np.stack([self._transformed(*place) for place in places])
        except ImageFailed as error:
            return error

    def _transformed(self, epoch: int, index: int) -> UInt8[np.ndarray, "h w 3"]:
        image = self._images[index].copy()
        for name, transform in self._transforms.items():
            image = transform(image, stream(self._seed, epoch, name, index))
        return image

    def batches(
        self, epoch: int, order: Int64[np.ndarray, "n"], batch_size: int, workers: int
    ) -> Iterator[UInt8[Tensor, "b h w 3"]]:
        """All images in this order, transformed by `workers` processes, or in this process if it is 0.

        Raises:
            ImageFailed: an image could not be transformed, or a worker was lost.
        """
        places = [(epoch, int(index)) for index in order]
        batches = [places[start : start + batch_size] for start in range(0, len(places), batch_size)]
        loader = DataLoader(
            self,
            batch_sampler=batches,
            num_workers=min(workers, len(batches)),
            collate_fn=_collected,
            worker_init_fn=_deaf,
            generator=torch.Generator(),  # otherwise it draws from the generator of the training
        )
        try:
            for found in loader:
                if isinstance(found, ImageFailed):
                    raise found
                yield found
        except RuntimeError as error:  # how a DataLoader reports a worker that was killed
            why = " ".join(str(error).split())
            raise ImageFailed(f"augmentation: {why}; give fewer augment_workers if memory is short") from error


def seed_all(rng: np.random.Generator) -> None:
    """Seeds the generators that transforms share: Python's, numpy's and torch's for the CPU."""
    seed = int(rng.integers(2**32))
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Inside, shared generators may be seeded; afterwards they go on as if nothing had happened."""
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="invalid value encountered in cast")  # NaN becomes a pixel
            yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        torch.set_rng_state(before[2])


def _collected(found: Any) -> Tensor | ImageFailed:
    return found if isinstance(found, ImageFailed) else torch.from_numpy(found)


def _deaf(worker: int) -> None:
    """Lets the training's process handle Ctrl-C, and ends at a request without a word."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

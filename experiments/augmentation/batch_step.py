"""One transform of an epoch, with the random values of each image."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Step:
    """One transform of an epoch.

    Attributes:
        apply: takes images and the random values of each of them.
        chosen: the images that are transformed.
        drawn: arrays of random values, with one entry for every image, chosen or not.
    """

    apply: Callable[..., Tensor]
    chosen: Bool[np.ndarray, "n"]
    drawn: tuple[np.ndarray, ...] = ()

    def __call__(self, images: UInt8[Tensor, "b h w 3"], start: int) -> UInt8[Tensor, "b h w 3"]:
        """`images`, which begin at index `start` of the epoch, with the chosen ones transformed."""
        count = len(images)
        index = np.flatnonzero(self.chosen[start : start + count])
        if not len(index):
            return images
        drawn = [moved(array[start + index], images.device) for array in self.drawn]
        if len(index) == count:
            return self.apply(images, *drawn)
        changed = self.apply(images.index_select(0, moved(index, images.device)), *drawn)
        source = np.arange(count)
        source[index] = np.arange(count, count + len(index))
        # On a CPU this is many times as fast as copying the changed images to their places.
        return torch.cat([images, changed]).index_select(0, moved(source, images.device))


def moved(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device, non_blocking=True)

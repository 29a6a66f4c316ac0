"""One transform of an epoch, with what was drawn for each image."""

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
        apply: takes images and, for each of them, what was drawn.
        chosen: the images it happens to.
        drawn: arrays with one entry for every image, chosen or not.
    """

    apply: Callable[..., Tensor]
    chosen: Bool[np.ndarray, "n"]
    drawn: tuple[np.ndarray, ...] = ()

    def __call__(self, images: UInt8[Tensor, "b h w 3"], start: int) -> UInt8[Tensor, "b h w 3"]:
        """`images`, which are those from `start` on, with the chosen ones changed."""
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
        # Many times as fast on a CPU as copying the changed ones to their places.
        return torch.cat([images, changed]).index_select(0, moved(source, images.device))


def moved(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device, non_blocking=True)

"""One transform of an epoch, with the random values of each image."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int64, UInt8
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


def draw_boxes(
    n: int,
    side: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    largest: int,
    rng: np.random.Generator,
) -> tuple[Int64[np.ndarray, "n 4"], Bool[np.ndarray, "n"]]:
    """Boxes inside images, as torchvision's RandomResizedCrop and RandomErasing draw them, and whether each fits.

    The area is uniform in `scale`, as a share of the image, and the logarithm of width / height is uniform in
    `ratio`. Of ten tries the first counts that has both sides from 1 to `largest`; without one, the box is the image.

    Returns:
        First column, first row, column and row after the last, in pixels.
    """
    area = side**2 * rng.uniform(*scale, (n, 10))
    shape = np.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1]), (n, 10)))
    sides = np.rint(np.sqrt(np.stack([area * shape, area / shape], 2))).astype(np.int64)
    fits = (sides.min(2) >= 1) & (sides.max(2) <= largest)
    chosen = np.where(fits.any(1)[:, None], sides[np.arange(n), fits.argmax(1)], side)
    first = rng.integers(0, side - chosen, endpoint=True)
    return np.concatenate([first, first + chosen], 1), fits.any(1)


def moved(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device, non_blocking=True)

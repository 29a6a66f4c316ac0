"""Computes the transforms of `declared` for many images at a time, with separate random values for each image.

On small images albumentations spends over nine tenths of its time in Python, once per image and transform. Here numpy
draws the parameters of an epoch in arrays, and every transform is a few tensor operations on uint8 images
`(n, h, w, 3)`, on the device of the training.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

from ..settings.train import TrainSettings
from .batch_colour import colour_steps
from .batch_geometry import flip, geometry_steps
from .batch_holes import hole_steps
from .batch_step import Step, moved
from .declared import COLOUR, GEOMETRY, HOLES, Augmentation, mirrored, stream

# Pixels transformed at a time: on a CPU they fit into a core's cache; on a GPU they keep it busy with small batches.
_CPU_CHUNK, _GPU_CHUNK = 2**18, 2**22
_HELD: list[Any] = []
"""The last training images and their copy on the device; all trainings of a comparison share it."""


class BatchAugmentation(Augmentation):
    """As `Augmentation`, with the same distributions and order but other random values, many images at a time.

    The training images stay on the device after the first epoch; batches are on the device too, in `memory_format`. The
    images of an epoch do not depend on the batch size.
    """

    def __init__(
        self,
        settings: TrainSettings,
        side: int,
        mean: Float32[np.ndarray, "3"],
        device: str,
        memory_format: torch.memory_format,
    ) -> None:
        super().__init__(settings, side, mean)
        self._side = side
        self._mean = mean
        self._device = torch.device(device)
        self._memory_format = memory_format
        self._chunk = (_CPU_CHUNK if device == "cpu" else _GPU_CHUNK) // side**2

    def batches(
        self, images: UInt8[np.ndarray, "n h w 3"], labels: Int64[np.ndarray, "n"], epoch: int
    ) -> Iterator[tuple[Float[Tensor, "b 3 h w"], Int64[Tensor, "b"]]]:
        """Shuffled batches of one epoch, images in [0, 1]; leaves out a last batch of one image (batch statistics)."""
        pixels = self._on_device(images)
        order = self._order(len(images), epoch)
        steps = self._steps(len(images), epoch, order)
        chosen, classes = (moved(array, self._device) for array in (order, labels[order]))
        size = self._batch_size
        chunk = size * max(self._chunk // size, 1)
        for start in range(0, len(order), chunk):
            augmented = pixels.index_select(0, chosen[start : start + chunk])
            for step in steps:
                augmented = step(augmented, start)
            inputs, targets = self._as_input(augmented), classes[start : start + chunk]
            for first in range(0, len(targets), size):
                batch = slice(first, first + size)
                if len(targets[batch]) > 1:
                    yield inputs[batch], targets[batch]

    def examples(self, images: UInt8[np.ndarray, "n h w 3"]) -> UInt8[np.ndarray, "n h w 3"]:
        """`images` as a training would get them, in their original order, for a picture."""
        augmented = torch.tensor(images, device=self._device)
        for step in self._steps(len(images), 0, np.arange(len(images))):
            augmented = step(augmented, 0)
        return augmented.cpu().numpy()

    def _steps(self, n: int, epoch: int, order: Int64[np.ndarray, "n"]) -> list[Step]:
        settings, side, seed = self._settings, self._side, self._settings.seed
        first = [Step(flip, mirrored(settings, n, epoch)[order])] if self._alternates else []
        return [
            *first,
            *geometry_steps(settings, side, n, stream(seed, epoch, GEOMETRY)),
            *colour_steps(settings, n, stream(seed, epoch, COLOUR)),
            *hole_steps(settings, side, self._mean, n, stream(seed, epoch, HOLES)),
        ]

    def _on_device(self, images: UInt8[np.ndarray, "n h w 3"]) -> UInt8[Tensor, "n h w 3"]:
        if not _HELD or _HELD[0] is not images or _HELD[1].device.type != self._device.type:
            _HELD[:] = images, torch.from_numpy(np.ascontiguousarray(images)).to(self._device)
        return _HELD[1]

    def _as_input(self, images: UInt8[Tensor, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
        return images.permute(0, 3, 1, 2).float().div_(255).contiguous(memory_format=self._memory_format)

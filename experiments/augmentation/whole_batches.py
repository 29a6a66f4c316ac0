"""The augmentation: the transforms of `declared`, for many images at a time with separate random values for each.

On small images albumentations spends over nine tenths of its time in Python, once per image and transform. Here numpy
draws the parameters of an epoch in arrays, and every transform is a few tensor operations on uint8 images
`(n, h, w, 3)`, on the device of the training.
"""

import multiprocessing
from collections.abc import Iterator, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor

from ..settings.base import NONE
from ..settings.train import TrainSettings
from .batch_colour import colour_steps
from .batch_geometry import flip, geometry_steps
from .batch_holes import hole_steps
from .batch_step import Step, moved
from .declared import by_albumentations, colour, geometry, holes, mirrored
from .image_by_image import Foreign, ImageByImage, OneImage
from .mixing import mixed_examples
from .streams import stream

# Pixels transformed at a time: on a CPU they fit into a core's cache; on a GPU they keep it busy with small batches.
_CPU_CHUNK, _GPU_CHUNK = 2**18, 2**22
_MOST_HELD = 8 << 30  # bytes of images; more of them go to a GPU chunk by chunk
_HELD: list[Any] = []
"""The last training images and their copy on the device; all trainings of a comparison share it."""


class Augmentation:
    """The augmented training images of each epoch. They depend only on the seed and the epoch.

    Transforms of one's own and torchvision's policies come first: worker processes compute them image by image. One's
    own takes the place of geometry and colour. With `augment_by=albumentations` the workers compute everything, with
    the same distributions but other random values.

    Up to 8 GiB of training images stay on the device after the first epoch; batches are on the device too, in
    `memory_format`. The images of an epoch do not depend on the batch size.

    Attributes:
        sources: files of one's own that decide the augmentation, as text by name.
    """

    def __init__(
        self,
        settings: TrainSettings,
        side: int,
        mean: Float32[np.ndarray, "3"],
        device: str = "cpu",
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self._settings, self._side, self._mean = settings, side, mean
        self._batch_size = settings.step_images
        self._device, self._memory_format = torch.device(device), memory_format
        self._chunk = (_CPU_CHUNK if device == "cpu" else _GPU_CHUNK) // side**2
        self._owns = settings.augmentation != NONE
        self._alternates = not self._owns and bool(settings.hflip) and settings.hflip_mode == "alternating"
        pipelines = [] if self._owns else [geometry(settings, side), colour(settings)]
        self._declared = [step for pipeline in (*pipelines, holes(settings, mean)) for step in pipeline.transforms]
        self._foreign: Sequence[Foreign] = ()
        if settings.image_by_image:
            from .foreign import of_settings  # torchvision takes a second

            self._foreign = of_settings(settings, side)
        self.sources = MappingProxyType({name: text for one in self._foreign for name, text in one.sources.items()})
        self._one_by_one: dict[str, OneImage] = {one.name: one.apply for one in self._foreign}
        self._by_batch = settings.augment_path == "batch"
        if not self._by_batch:
            self._one_by_one |= {type(step).__name__: partial(by_albumentations, step) for step in self._declared}

    def __str__(self) -> str:
        alternating = [f"alternating HorizontalFlip(p={self._settings.hflip})"] if self._alternates else []
        mixing = [(name, getattr(self._settings, name)) for name in ("mixup", "cutmix")]
        mixes = [f"{name}(alpha={alpha})" for name, alpha in mixing if alpha]
        return " | ".join([*(one.words for one in self._foreign), *alternating, *map(str, self._declared), *mixes])

    def batches(
        self, images: UInt8[np.ndarray, "n h w 3"], labels: Int64[np.ndarray, "n"], epoch: int
    ) -> Iterator[tuple[Float[Tensor, "b 3 h w"], Int64[Tensor, "b"]]]:
        """Shuffled batches of one epoch, images in [0, 1]; leaves out a last batch of one image (batch statistics)."""
        order = stream(self._settings.seed, epoch, "order").permutation(len(images))
        steps = self._steps(len(images), epoch, order)
        classes, size, start = moved(labels[order], self._device), self._batch_size, 0
        for augmented in self._chunks(images, epoch, order):
            for step in steps:
                augmented = step(augmented, start)
            inputs, targets = self._as_input(augmented), classes[start : start + len(augmented)]
            start += len(augmented)
            for first in range(0, len(targets), size):
                batch = slice(first, first + size)
                if len(targets[batch]) > 1:
                    yield inputs[batch], targets[batch]

    def examples(self, images: UInt8[np.ndarray, "n h w 3"]) -> UInt8[np.ndarray, "n h w 3"]:
        """`images` as a training would get them, in their original order, for a picture."""
        order = np.arange(len(images))
        [augmented] = self._transformed(images, 0, order, len(images), workers=0)
        for step in self._steps(len(images), 0, order):
            augmented = step(augmented, 0)
        return mixed_examples(self._settings, augmented.cpu().numpy())

    def _chunks(
        self, images: UInt8[np.ndarray, "n h w 3"], epoch: int, order: Int64[np.ndarray, "n"]
    ) -> Iterator[UInt8[Tensor, "m h w 3"]]:
        """The images in this order, several batches at a time, or batch by batch if workers transform them first."""
        if self._one_by_one or not self._by_batch:
            yield from self._transformed(images, epoch, order, self._batch_size, self._workers)
            return
        pixels, chosen = self._on_device(images), moved(order, self._device)
        chunk = self._batch_size * max(self._chunk // self._batch_size, 1)
        for start in range(0, len(order), chunk):
            some = chosen[start : start + chunk]
            yield pixels.index_select(0, some.to(pixels.device)).to(self._device)

    def _transformed(
        self, images: UInt8[np.ndarray, "n h w 3"], epoch: int, order: Int64[np.ndarray, "n"], size: int, workers: int
    ) -> Iterator[UInt8[Tensor, "m h w 3"]]:
        """The images in this order, `size` at a time, after the transforms that take one image."""
        if self._alternates and not self._by_batch:
            flipped = mirrored(self._settings, len(images), epoch)
            images = np.where(flipped[:, None, None, None], images[:, :, ::-1], images)
        for batch in ImageByImage(self._one_by_one, images, self._settings.seed).batches(epoch, order, size, workers):
            yield batch.to(self._device, non_blocking=True)

    @property
    def _workers(self) -> int:
        """Without `fork`, processes would have to load everything again in each epoch."""
        given = self._settings.augment_workers
        wanted = torch.get_num_threads() if isinstance(given, str) else given
        return wanted if multiprocessing.get_start_method() == "fork" else 0

    def _steps(self, n: int, epoch: int, order: Int64[np.ndarray, "n"]) -> list[Step]:
        if not self._by_batch:
            return []
        settings, side, streams = self._settings, self._side, partial(stream, self._settings.seed, epoch)
        steps = [Step(flip, mirrored(settings, n, epoch)[order])] if self._alternates else []
        if not self._owns:
            steps += [*geometry_steps(settings, side, n, streams), *colour_steps(settings, n, streams)]
        return [*steps, *hole_steps(settings, side, self._mean, n, streams)]

    def _on_device(self, images: UInt8[np.ndarray, "n h w 3"]) -> UInt8[Tensor, "n h w 3"]:
        if not _HELD or _HELD[0] is not images or _HELD[1].device.type != self._device.type:
            pixels = torch.from_numpy(np.ascontiguousarray(images))
            _HELD[:] = images, pixels if pixels.nbytes > _MOST_HELD else pixels.to(self._device)
        return _HELD[1]

    def _as_input(self, images: UInt8[Tensor, "n h w 3"]) -> Float[Tensor, "n 3 h w"]:
        return images.permute(0, 3, 1, 2).float().div_(255).contiguous(memory_format=self._memory_format)

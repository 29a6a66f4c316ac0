"""The whole-batch twin of what `augment` declares: the same transforms, per-image draws, many images at a time.

Over nine tenths of albumentations' time on a small image is Python, once per image and transform. Here the parameters
of an epoch are drawn with numpy, in arrays, and every transform is a handful of tensor operations on uint8 images
`(n, h, w, 3)`, on the device that trains.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64, Integer, UInt8
from torch import Tensor
from torch.nn import functional as F

from experiments.augment import (
    COLOUR,
    GEOMETRY,
    HOLES,
    Augmentation,
    mean_pixel,
    mirrored,
    stream,
)
from experiments.config import TrainSettings

# Pixels changed at a time: on a CPU what fits into a core's cache, elsewhere what keeps a GPU busy with small batches.
_CPU_CHUNK, _GPU_CHUNK = 2**18, 2**22

# The transforms


def flip(images: UInt8[Tensor, "n h w 3"]) -> UInt8[Tensor, "n h w 3"]:
    """The mirror images, left and right swapped."""
    return images.flip(2)


def affine(images: UInt8[Tensor, "n h w 3"], matrices: Float[Tensor, "n 3 3"], border: str) -> UInt8[Tensor, "n h w 3"]:
    """Each image moved by its matrix, bilinear, rounded, as `cv2.warpAffine` does it.

    Args:
        matrices: from pixels (x, y, 1) of the image to pixels of the result, pixel centres being whole numbers.
        border: `black` or `reflect` (without repeating the edge), what lies beyond the image.
    """
    _, height, width, _ = images.shape
    back = torch.linalg.inv_ex(matrices.float()).inverse
    # grid_sample wants -1 at the first pixel's centre and 1 at the last one's.
    back = torch.stack([back[:, 0] * (2 / (width - 1)), back[:, 1] * (2 / (height - 1))], 1)
    x, y = torch.arange(width, device=images.device), torch.arange(height, device=images.device)
    across = back[:, None, :, 0] * x[:, None] + back[:, None, :, 2] - 1
    down = back[:, None, :, 1] * y[:, None]
    planes = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    beyond = {"black": "zeros", "reflect": "reflection"}[border]
    moved = F.grid_sample(planes, across[:, None] + down[:, :, None], padding_mode=beyond, align_corners=True)
    return moved.round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def crop(
    images: UInt8[Tensor, "n h w 3"], offsets: Integer[Tensor, "n 2"], padding: int, border: str
) -> UInt8[Tensor, "n h w 3"]:
    """A window of the images' size out of each image with `padding` pixels around it.

    Args:
        offsets: row and column where the window begins in the padded image, 0 to twice the padding.
        border: `black` or `reflect` (without repeating the edge), what the padding shows.
    """
    n, height, width, _ = images.shape
    padded = _padded(images, padding, border)
    tall, wide = padded.shape[1:3]
    device = images.device
    rows = torch.arange(n, device=device)[:, None] * tall + offsets[:, :1] + torch.arange(height, device=device)
    # Every run of `width` pixels in memory, by its first pixel.
    runs = padded.flatten().unfold(0, 3 * width, 3)
    return runs.index_select(0, (rows * wide + offsets[:, 1:]).flatten()).view(images.shape)


def shift_hsv(
    images: UInt8[Tensor, "n h w 3"],
    hue: Float[Tensor, "n"],
    saturation: Float[Tensor, "n"],
    value: Float[Tensor, "n"],
) -> UInt8[Tensor, "n h w 3"]:
    """Each image with hue (of 180, around the circle), saturation and value (of 255, clipped) shifted.

    Through OpenCV's rounded uint8 hue, saturation and value, as albumentations does it: shifts lose their fractions,
    grey stays grey, and an image whose shifts are all 0 stays as it is.
    """
    still = _bits((hue == 0) & (saturation == 0) & (value == 0))[:, None, None, None]
    hue, saturation, value = (shift.float()[:, None, None] for shift in (hue, saturation, value))
    h, s, v = _hsv(images)
    h = h + hue.floor()
    h = h - 180 * (h / 180).floor()
    s = (s + saturation.trunc()).clamp_(0, 255) * s.sign()
    v = (v + value.trunc()).clamp_(0, 255)
    return _choose(still, images, _rgb(h, s, v))


def erase(
    images: UInt8[Tensor, "n h w 3"],
    holes: Integer[Tensor, "n m 4"],
    fill: UInt8[Tensor, "#n #m #h #w 3"],
) -> UInt8[Tensor, "n h w 3"]:
    """The images with the holes filled, one after the other.

    Args:
        holes: first column, first row, column and row after the last, in pixels; an empty one where both are the same.
        fill: what is seen in each hole of each image; 1 in place of n, m, h or w: the same everywhere.
    """
    n, height, width, _ = images.shape
    # A row is a run of bytes here: three to a pixel would be too short for the CPU's vectors.
    rows = images.flatten(2)
    y = torch.arange(height, device=images.device)
    x = torch.arange(3 * width, device=images.device) // 3
    fills = fill.expand(n, holes.shape[1], -1, width, -1).flatten(3)
    for hole in range(holes.shape[1]):
        left, top, right, bottom = holes[:, hole, :, None].unbind(1)
        inside = _bits((y >= top) & (y < bottom))[:, :, None] & _bits((x >= left) & (x < right))[:, None]
        rows = _choose(inside, fills[:, hole], rows)
    return rows.view(images.shape)


def _bits(condition: Bool[Tensor, "..."]) -> UInt8[Tensor, "..."]:
    """All bits set where the condition holds, none elsewhere."""
    return condition.to(torch.uint8).neg()


def _choose(
    bits: UInt8[Tensor, "..."], chosen: UInt8[Tensor, "..."], other: UInt8[Tensor, "..."]
) -> UInt8[Tensor, "..."]:
    """`chosen` where the bits are set; several times as fast as `torch.where` on a CPU."""
    return other ^ ((other ^ chosen) & bits)


def _padded(images: UInt8[Tensor, "n h w 3"], padding: int, border: str) -> UInt8[Tensor, "n tall wide 3"]:
    if border == "black":
        return F.pad(images, (0, 0, padding, padding, padding, padding))
    for dim in (2, 1):
        seen = _reflected(images.shape[dim], padding, images.device)
        before, after = (images.index_select(dim, part) for part in (seen[:padding], seen[-padding:]))
        images = torch.cat([before, images, after], dim)
    return images


def _reflected(size: int, padding: int, device: torch.device) -> Int64[Tensor, "padded"]:
    """Which pixel is seen at -padding ... size + padding - 1 between mirrors that stand on the outermost pixels."""
    period = max(2 * (size - 1), 1)
    position = torch.arange(-padding, size + padding, device=device).remainder(period)
    return torch.minimum(position, period - position)


def _hsv(
    images: UInt8[Tensor, "n h w 3"],
) -> tuple[Float32[Tensor, "n h w"], Float32[Tensor, "n h w"], Float32[Tensor, "n h w"]]:
    """Hue before it is brought into 0 ... 179, saturation and value in 0 ... 255: whole numbers, OpenCV's exactly.

    OpenCV divides by multiplying with quotients that are rounded to 12 binary places (color_hsv.simd.hpp).
    """
    red, green, blue = images.permute(3, 0, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    value = torch.maximum(torch.maximum(red, green), blue)
    spread = value - torch.minimum(torch.minimum(red, green), blue)
    one = 4096
    saturation = spread * (255 * one / value.clamp(min=1)).round_()
    hue = torch.where(value == green, blue - red + 2 * spread, red - green + 4 * spread)
    hue = torch.where(value == red, green - blue, hue) * (30 * one / spread.clamp(min=1)).round_()
    return (hue / one + 0.5).floor_(), (saturation / one + 0.5).floor_(), value


def _rgb(
    hue: Float32[Tensor, "n h w"], saturation: Float32[Tensor, "n h w"], value: Float32[Tensor, "n h w"]
) -> UInt8[Tensor, "n h w 3"]:
    sixth = hue / 30
    lacking = (2 - (sixth - 3).abs_(), (sixth - 2).abs_() - 1, (sixth - 4).abs_() - 1)
    value, saturation = value * (1 / 255), saturation * (1 / 255)
    # Cut, not rounded, as by OpenCV's vector code; what is left over of a row it rounds.
    planes = [(value * (1 - saturation * share.clamp_(0, 1)) * 255).to(torch.uint8) for share in lacking]
    return torch.stack(planes, 3)


# The draws


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
        drawn = [_moved(array[start + index], images.device) for array in self.drawn]
        if len(index) == count:
            return self.apply(images, *drawn)
        changed = self.apply(images.index_select(0, _moved(index, images.device)), *drawn)
        source = np.arange(count)
        source[index] = np.arange(count, count + len(index))
        # Many times as fast on a CPU as copying the changed ones to their places.
        return torch.cat([images, changed]).index_select(0, _moved(source, images.device))


def _moved(array: np.ndarray, device: torch.device) -> Tensor:
    return torch.from_numpy(array).to(device, non_blocking=True)


def geometry_steps(settings: TrainSettings, side: int, n: int, rng: np.random.Generator) -> list[Step]:
    """What `augment.geometry` declares, drawn for `n` images; without flips where they alternate."""
    everyone = np.ones(n, np.bool_)
    steps = []
    if settings.hflip and settings.hflip_mode == "random":
        steps.append(Step(flip, rng.random(n) < settings.hflip))
    if settings.affine_p:
        move = partial(affine, border=settings.border)
        steps.append(Step(move, rng.random(n) < settings.affine_p, (draw_matrices(settings, side, n, rng),)))
    if padding := settings.crop_padding:
        window = partial(crop, padding=padding, border=settings.border)
        steps.append(Step(window, everyone, (rng.integers(0, 2 * padding + 1, (n, 2)),)))
    return steps


def colour_steps(settings: TrainSettings, n: int, rng: np.random.Generator) -> list[Step]:
    """What `augment.colour` declares, drawn for `n` images."""
    if not settings.hsv_p:
        return []
    chosen = rng.random(n) < settings.hsv_p
    limits = (settings.hue, settings.saturation, settings.value)
    return [Step(shift_hsv, chosen, tuple(rng.uniform(-limit, limit, n).astype(np.float32) for limit in limits))]


def hole_steps(
    settings: TrainSettings, side: int, mean: Float32[np.ndarray, "3"], n: int, rng: np.random.Generator
) -> list[Step]:
    """What `augment.holes` declares, drawn for `n` images."""
    if not settings.cutout or not settings.cutout_p:
        return []
    chosen = rng.random(n) < settings.cutout_p
    holes = draw_holes(settings, side, n, rng)
    if settings.cutout_fill == "noise":
        # As large as the images, so drawn with them, not for the whole epoch.
        return [Step(partial(_erase_with_noise, rng=rng), chosen, (holes,))]
    return [Step(erase, chosen, (holes, draw_fills(settings, mean, n, rng)))]


def draw_matrices(settings: TrainSettings, side: int, n: int, rng: np.random.Generator) -> Float32[np.ndarray, "n 3 3"]:
    """Scale and rotation about the centre of the image, then a shift by whole pixels towards 0, as A.Affine draws."""
    shift = np.trunc(rng.uniform(-settings.shift, settings.shift, (n, 2)) * side)
    scale = rng.uniform(1 - settings.scale, 1 + settings.scale, n)
    angle = np.deg2rad(rng.uniform(-settings.rotate, settings.rotate, n))
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    matrices = np.zeros((n, 3, 3))
    matrices[:, :2, :2] = np.stack([cos, sin, -sin, cos], 1).reshape(n, 2, 2)
    centre = np.full(2, (side - 1) / 2)
    matrices[:, :2, 2] = centre + shift - matrices[:, :2, :2] @ centre
    matrices[:, 2, 2] = 1
    return matrices.astype(np.float32)


def draw_holes(settings: TrainSettings, side: int, n: int, rng: np.random.Generator) -> Int64[np.ndarray, "n m 4"]:
    """Holes as `erase` takes them, placed as the settings say: see `augment.holes`."""
    heights, widths = settings.cutout_sizes
    shape = (n, settings.cutout_holes)
    published = settings.cutout_placement == "published"
    height = rng.integers(*heights, shape, endpoint=True)
    width = height if published and settings.cutout_square else rng.integers(*widths, shape, endpoint=True)
    if published:
        top, left = (rng.integers(0, side, shape) - extent // 2 for extent in (height, width))
    else:
        top, left = (rng.integers(0, side - extent, endpoint=True) for extent in (height, width))
    return np.stack([left, top, left + width, top + height], 2).clip(0, side)


def draw_fills(
    settings: TrainSettings, mean: Float32[np.ndarray, "3"], n: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "n m 1 1 3"]:
    """The colour of each hole, or one for all holes of an image, as `erase` takes it."""
    if settings.cutout_fill == "random":
        return rng.integers(0, 256, (n, settings.cutout_holes, 1, 1, 3), np.uint8)
    colour = mean_pixel(mean) if settings.cutout_fill == "mean" else np.zeros(3, np.uint8)
    return np.broadcast_to(colour, (n, 1, 1, 1, 3))


def _erase_with_noise(
    images: UInt8[Tensor, "n h w 3"], holes: Int64[Tensor, "n m 4"], rng: np.random.Generator
) -> UInt8[Tensor, "n h w 3"]:
    # A fourth channel, which nobody sees: numpy draws bytes by four and forgets the rest of a draw's last four.
    noise = np.ascontiguousarray(rng.integers(0, 256, (*images.shape[:3], 4), np.uint8)[..., :3])
    return erase(images, holes, _moved(noise, images.device)[:, None])


# A training's images

_HELD: list[Any] = []
"""The last training images and their copy on the device, which all trainings of a comparison share."""


class BatchAugmentation(Augmentation):
    """As `Augmentation`, with the same distributions and order but draws of its own, many images at a time.

    The training images stay on the device from the first epoch on; batches are there already and laid out as
    `memory_format` says. An epoch is the same whatever the size of the batches.
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
        """Shuffled batches of one epoch, images in [0, 1]; a last batch of one image is left out (batch statistics)."""
        pixels = self._on_device(images)
        order = self._order(len(images), epoch)
        steps = self._steps(len(images), epoch, order)
        chosen, classes = (_moved(array, self._device) for array in (order, labels[order]))
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
        """`images` as a training would see them, in their order, for a picture."""
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


def augmentation(
    settings: TrainSettings,
    side: int,
    mean: Float32[np.ndarray, "3"],
    device: str,
    memory_format: torch.memory_format,
) -> Augmentation:
    """What changes the training images, by whole batches or image by image as `augment` of the settings says."""
    if settings.augment_path == "batch":
        return BatchAugmentation(settings, side, mean, device, memory_format)
    return Augmentation(settings, side, mean)

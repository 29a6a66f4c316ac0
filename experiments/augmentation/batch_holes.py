"""Draws holes (Cutout, CoarseDropout) into many images at a time."""

from functools import partial

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, Integer, UInt8
from torch import Tensor

from ..settings.train import TrainSettings
from .batch_step import Step, draw_boxes, moved
from .declared import RATIO, SCALE, mean_pixel
from .streams import Streams


def erase(
    images: UInt8[Tensor, "n h w 3"],
    holes: Integer[Tensor, "n m 4"],
    fill: UInt8[Tensor, "#n #m #h #w 3"],
) -> UInt8[Tensor, "n h w 3"]:
    """The images with the holes filled, one after the other.

    Args:
        holes: first column, first row, column and row after the last, in pixels; a hole without size is empty.
        fill: the content of each hole of each image; 1 instead of n, m, h or w means: the same everywhere.
    """
    n, height, width, _ = images.shape
    # Rows are handled as sequences of bytes, because three bytes per pixel are too short for the CPU's vectors.
    rows = images.flatten(2)
    y = torch.arange(height, device=images.device)
    x = torch.arange(3 * width, device=images.device) // 3
    fills = fill.expand(n, holes.shape[1], -1, width, -1).flatten(3)
    for hole in range(holes.shape[1]):
        left, top, right, bottom = holes[:, hole, :, None].unbind(1)
        inside = bits((y >= top) & (y < bottom))[:, :, None] & bits((x >= left) & (x < right))[:, None]
        rows = choose(inside, fills[:, hole], rows)
    return rows.view(images.shape)


def bits(condition: Bool[Tensor, "..."]) -> UInt8[Tensor, "..."]:
    """All bits set where the condition is true, none elsewhere."""
    return condition.to(torch.uint8).neg()


def choose(
    bits: UInt8[Tensor, "..."], chosen: UInt8[Tensor, "..."], other: UInt8[Tensor, "..."]
) -> UInt8[Tensor, "..."]:
    """`chosen` where the bits are set, else `other`; several times as fast as `torch.where` on a CPU."""
    return other ^ ((other ^ chosen) & bits)


def hole_steps(
    settings: TrainSettings, side: int, mean: Float32[np.ndarray, "3"], n: int, streams: Streams
) -> list[Step]:
    """The transforms of `declared.holes`, with random values for `n` images."""
    steps = []
    if settings.cutout and settings.cutout_p:
        rng = streams("cutout")
        chosen = rng.random(n) < settings.cutout_p
        holes = draw_holes(settings, side, n, rng)
        if settings.cutout_fill == "noise":
            # This noise is as large as the images, so it is drawn batch by batch, not for the whole epoch.
            steps.append(Step(partial(_erase_with_noise, rng=rng), chosen, (holes,)))
        else:
            steps.append(Step(erase, chosen, (holes, draw_fills(settings, mean, n, rng))))
    if settings.random_erasing:
        rng = streams("erasing")
        chosen = rng.random(n) < settings.random_erasing
        boxes, fits = draw_boxes(n, side, SCALE, (1 / RATIO[1], 1 / RATIO[0]), side - 1, rng)
        pixel = np.broadcast_to(mean_pixel(mean), (n, 1, 1, 1, 3))
        steps.append(Step(erase, chosen & fits, (boxes[:, None], pixel)))
    return steps


def draw_holes(settings: TrainSettings, side: int, n: int, rng: np.random.Generator) -> Int64[np.ndarray, "n m 4"]:
    """Holes for `erase`, placed according to the settings: see `declared.holes`."""
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
    """The colour of each hole, or one colour for all holes of an image, for `erase`."""
    if settings.cutout_fill == "random":
        return rng.integers(0, 256, (n, settings.cutout_holes, 1, 1, 3), np.uint8)
    colour = mean_pixel(mean) if settings.cutout_fill == "mean" else np.zeros(3, np.uint8)
    return np.broadcast_to(colour, (n, 1, 1, 1, 3))


def _erase_with_noise(
    images: UInt8[Tensor, "n h w 3"], holes: Int64[Tensor, "n m 4"], rng: np.random.Generator
) -> UInt8[Tensor, "n h w 3"]:
    # A fourth channel that is not used: numpy draws four bytes at a time and drops the unused ones at the end of a
    # draw.
    noise = np.ascontiguousarray(rng.integers(0, 256, (*images.shape[:3], 4), np.uint8)[..., :3])
    return erase(images, holes, moved(noise, images.device)[:, None])

"""Flips, crops, shifts, scales and rotations for many images at a time."""

from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Integer, UInt8
from torch import Tensor
from torch.nn import functional as F

from ..settings.train import TrainSettings
from .batch_step import Step, draw_boxes
from .declared import CROP_RATIO
from .streams import Streams


def flip(images: UInt8[Tensor, "n h w 3"]) -> UInt8[Tensor, "n h w 3"]:
    """The mirror images, with left and right swapped."""
    return images.flip(2)


def affine(images: UInt8[Tensor, "n h w 3"], matrices: Float[Tensor, "n 3 3"], border: str) -> UInt8[Tensor, "n h w 3"]:
    """Each image moved by its matrix, bilinear, rounded, as `cv2.warpAffine` does it.

    Args:
        matrices: from pixels (x, y, 1) of the image to pixels of the result; pixel centres are whole numbers.
        border: the content outside the image, `black` or `reflect` (without repeating the edge).
    """
    _, height, width, _ = images.shape
    back = torch.linalg.inv_ex(matrices.float()).inverse
    # grid_sample expects -1 at the centre of the first pixel and 1 at that of the last one.
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
    """A window of the original size from each image, after padding it with `padding` pixels on all sides.

    Args:
        offsets: row and column where the window starts in the padded image, from 0 to twice the padding.
        border: the content of the padding, `black` or `reflect` (without repeating the edge).
    """
    n, height, width, _ = images.shape
    padded = _padded(images, padding, border)
    tall, wide = padded.shape[1:3]
    device = images.device
    rows = torch.arange(n, device=device)[:, None] * tall + offsets[:, :1] + torch.arange(height, device=device)
    # All sequences of `width` pixels in memory, indexed by their first pixel.
    runs = padded.flatten().unfold(0, 3 * width, 3)
    return runs.index_select(0, (rows * wide + offsets[:, 1:]).flatten()).view(images.shape)


def _padded(images: UInt8[Tensor, "n h w 3"], padding: int, border: str) -> UInt8[Tensor, "n tall wide 3"]:
    if border == "black":
        return F.pad(images, (0, 0, padding, padding, padding, padding))
    for dim in (2, 1):
        seen = _reflected(images.shape[dim], padding, images.device)
        before, after = (images.index_select(dim, part) for part in (seen[:padding], seen[-padding:]))
        images = torch.cat([before, images, after], dim)
    return images


def _reflected(size: int, padding: int, device: torch.device) -> Int64[Tensor, "padded"]:
    """The pixel shown at each position from -padding to size + padding - 1, with mirrors on the outermost pixels."""
    period = max(2 * (size - 1), 1)
    position = torch.arange(-padding, size + padding, device=device).remainder(period)
    return torch.minimum(position, period - position)


def resized_crop(images: UInt8[Tensor, "n h w 3"], boxes: Integer[Tensor, "n 4"]) -> UInt8[Tensor, "n h w 3"]:
    """A box of each image, enlarged to the size of the image, bilinear, rounded.

    Args:
        boxes: first column, first row, column and row after the last, in pixels.
    """
    places = []
    for first, last, size in ((0, 2, images.shape[2]), (1, 3, images.shape[1])):
        start, end = boxes[:, first, None].float(), boxes[:, last, None].float()
        centres = torch.arange(size, device=images.device) + 0.5
        place = (start + centres * (end - start) / size - 0.5).clamp(start, end - 1)
        places.append(place * (2 / (size - 1)) - 1)  # as grid_sample expects it
    across, down = places
    n, height, width, _ = images.shape
    grid = torch.stack([across[:, None].expand(n, height, width), down[:, :, None].expand(n, height, width)], 3)
    planes = images.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
    found = F.grid_sample(planes, grid, padding_mode="border", align_corners=True)
    return found.round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def geometry_steps(settings: TrainSettings, side: int, n: int, streams: Streams) -> list[Step]:
    """The transforms of `declared.geometry`, with random values for `n` images; without alternating flips."""
    everyone = np.ones(n, np.bool_)
    steps = []
    if settings.hflip and settings.hflip_mode == "random":
        steps.append(Step(flip, streams("flip").random(n) < settings.hflip))
    if settings.affine_p:
        move, rng = partial(affine, border=settings.border), streams("affine")
        steps.append(Step(move, rng.random(n) < settings.affine_p, (draw_matrices(settings, side, n, rng),)))
    if padding := settings.padding:
        window = partial(crop, padding=padding, border=settings.border)
        steps.append(Step(window, everyone, (streams("crop").integers(0, 2 * padding + 1, (n, 2)),)))
    if smallest := settings.random_resized_crop:
        boxes, _ = draw_boxes(n, side, (smallest, 1.0), CROP_RATIO, side, streams("resized crop"))
        steps.append(Step(resized_crop, everyone, (boxes,)))
    return steps


def draw_matrices(settings: TrainSettings, side: int, n: int, rng: np.random.Generator) -> Float32[np.ndarray, "n 3 3"]:
    """Scale and rotation about the image's centre, then a shift rounded towards 0 to whole pixels, as in A.Affine."""
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

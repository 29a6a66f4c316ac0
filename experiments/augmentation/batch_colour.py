"""Changes of hue, saturation and value for many images at a time."""

from functools import partial

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from ..settings.train import TrainSettings
from .batch_holes import bits, choose
from .batch_step import Step, moved
from .streams import Streams


def shift_hsv(
    images: UInt8[Tensor, "n h w 3"],
    hue: Float[Tensor, "n"],
    saturation: Float[Tensor, "n"],
    value: Float[Tensor, "n"],
) -> UInt8[Tensor, "n h w 3"]:
    """Each image with hue (of 180, around the circle), saturation and value (of 255, clipped) shifted.

    Uses OpenCV's rounded uint8 hue, saturation and value, as albumentations does: shifts lose their fractions, grey
    stays grey, and an image stays unchanged if all its shifts are 0.
    """
    still = bits((hue == 0) & (saturation == 0) & (value == 0))[:, None, None, None]
    hue, saturation, value = (shift.float()[:, None, None] for shift in (hue, saturation, value))
    h, s, v = _hsv(images)
    h = h + hue.floor()
    h = h - 180 * (h / 180).floor()
    s = (s + saturation.trunc()).clamp_(0, 255) * s.sign()
    v = (v + value.trunc()).clamp_(0, 255)
    return choose(still, images, _rgb(h, s, v))


def _hsv(
    images: UInt8[Tensor, "n h w 3"],
) -> tuple[Float32[Tensor, "n h w"], Float32[Tensor, "n h w"], Float32[Tensor, "n h w"]]:
    """Hue (not yet wrapped to 0 ... 179), saturation and value in 0 ... 255: whole numbers, exactly as in OpenCV.

    OpenCV does not divide but multiplies by quotients rounded to 12 binary places (color_hsv.simd.hpp).
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
    # Truncated, not rounded, as in OpenCV's vector code, which rounds only the remainder of a row.
    planes = [(value * (1 - saturation * share.clamp_(0, 1)) * 255).to(torch.uint8) for share in lacking]
    return torch.stack(planes, 3)


def grey(images: UInt8[Tensor, "n h w 3"]) -> UInt8[Tensor, "n h w 3"]:
    """The images without colour: in all channels the brightness (ITU-R BT.601), rounded."""
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device)
    return (images.float() @ weights).round_().to(torch.uint8)[..., None].expand(images.shape).contiguous()


def add_noise(images: UInt8[Tensor, "n h w 3"], sigma: float, rng: np.random.Generator) -> UInt8[Tensor, "n h w 3"]:
    """The images with independent normal noise in each value, rounded and clipped; `sigma` is a share of 255."""
    noise = moved(rng.standard_normal(images.shape, np.float32), images.device)
    return noise.mul_(255 * sigma).add_(images).round_().clamp_(0, 255).to(torch.uint8)


def colour_steps(settings: TrainSettings, n: int, streams: Streams) -> list[Step]:
    """The transforms of `declared.colour`, with random values for `n` images."""
    steps = []
    if settings.hsv_p:
        rng, limits = streams("hsv"), (settings.hue, settings.saturation, settings.value)
        chosen = rng.random(n) < settings.hsv_p
        shifts = tuple(rng.uniform(-limit, limit, n).astype(np.float32) for limit in limits)
        steps.append(Step(shift_hsv, chosen, shifts))
    if settings.grayscale:
        steps.append(Step(grey, streams("grayscale").random(n) < settings.grayscale))
    if sigma := settings.gaussian_noise:
        # This noise is as large as the images, so it is drawn batch by batch, not for the whole epoch.
        steps.append(Step(partial(add_noise, sigma=sigma, rng=streams("noise")), np.ones(n, np.bool_)))
    return steps

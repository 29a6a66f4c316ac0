"""The augmentation of a training image, declared with albumentations.

Each transform has its own random stream. So for one seed, two variants get the same order of images and the same
random values in every transform that both have.
"""

import random
from typing import Any

import albumentations as A
import cv2
import numpy as np
from jaxtyping import Bool, Float32, UInt8

from ..settings.train import TrainSettings
from .streams import stream
from .transforms import Cutout, RectangularCutout, strict

SCALE, RATIO = (0.02, 0.33), (0.3, 3.3)
"""Share of the image, and height divided by width, of what `random_erasing` erases (torchvision's values)."""

CROP_RATIO = (3 / 4, 4 / 3)
"""Width divided by height of what `random_resized_crop` keeps (Szegedy et al. 2015, arXiv 1409.4842)."""

BORDERS = {"black": cv2.BORDER_CONSTANT, "reflect": cv2.BORDER_REFLECT_101}
"""OpenCV's names for the content outside an image."""


def geometry(settings: TrainSettings, side: int) -> A.Compose:
    """Flip, shift with scale and rotation, and crop of the padded image, from the settings; keeps the size `side`.

    Alternating flips are not included, because albumentations does not know which image it gets. See `mirrored`.
    """
    border = BORDERS[settings.border]
    steps: list[A.BasicTransform] = []
    if settings.hflip and settings.hflip_mode == "random":
        steps += [strict(A.HorizontalFlip, p=settings.hflip)]
    if settings.affine_p:
        shift = (-settings.shift, settings.shift)
        affine = strict(
            A.Affine,
            translate_percent={"x": shift, "y": shift},
            scale=(1 - settings.scale, 1 + settings.scale),
            keep_ratio=True,
            rotate=(-settings.rotate, settings.rotate),
            border_mode=border,
            p=settings.affine_p,
        )
        steps += [affine]
    if settings.padding:
        steps += [
            strict(A.Pad, padding=settings.padding, border_mode=border),
            strict(A.RandomCrop, height=side, width=side),
        ]
    if settings.random_resized_crop:
        scale = (settings.random_resized_crop, 1.0)
        steps += [strict(A.RandomResizedCrop, size=(side, side), scale=scale, ratio=CROP_RATIO)]
    return A.Compose(steps)


def colour(settings: TrainSettings) -> A.Compose:
    """Changes of hue, saturation and value, grey images and noise, from the settings."""
    steps: list[A.BasicTransform] = []
    if settings.hsv_p:
        limits = {
            "hue_shift_limit": (-settings.hue, settings.hue),
            "sat_shift_limit": (-settings.saturation, settings.saturation),
            "val_shift_limit": (-settings.value, settings.value),
        }
        steps += [strict(A.HueSaturationValue, **limits, p=settings.hsv_p)]
    if settings.grayscale:
        steps += [strict(A.ToGray, p=settings.grayscale)]
    if sigma := settings.gaussian_noise:
        steps += [strict(A.GaussNoise, std_range=(sigma, sigma), p=1)]
    return A.Compose(steps)


def holes(settings: TrainSettings, mean: Float32[np.ndarray, "3"]) -> A.Compose:
    """Cutout or CoarseDropout, and RandomErasing, from the settings; `mean` is in [0, 1]."""
    pixel = tuple(float(value) for value in mean_pixel(mean))
    erased = [strict(A.Erasing, scale=SCALE, ratio=RATIO, fill=pixel, p=p)] if (p := settings.random_erasing) else []
    if not settings.cutout:
        return A.Compose(erased)
    fills = {
        "mean": pixel,
        "black": 0,
        "random": "random_uniform",
        "noise": "random",
    }
    published = Cutout if settings.cutout_square else RectangularCutout
    transform = {"published": published, "inside": A.CoarseDropout}[settings.cutout_placement]
    heights, widths = settings.cutout_sizes
    hole = strict(
        transform,
        num_holes_range=(settings.cutout_holes, settings.cutout_holes),
        hole_height_range=heights,
        hole_width_range=widths,
        fill=fills[settings.cutout_fill],
        p=settings.cutout_p,
    )
    return A.Compose([hole, *erased])


def mean_pixel(mean: Float32[np.ndarray, "3"]) -> UInt8[np.ndarray, "3"]:
    """The mean colour, given in [0, 1], as a uint8 pixel."""
    return np.rint(mean * 255).astype(np.uint8)


def mirrored(settings: TrainSettings, n: int, epoch: int) -> Bool[np.ndarray, "n"]:
    """Which of `n` images alternating flips mirror in this epoch: drawn once, then mirrored in every other epoch.

    Two epochs in a row show every image in both directions (Jordan 2024, arXiv 2404.00498, alternating flip).
    """
    drawn = stream(settings.seed, 0, "alternating flip").random(n) < settings.hflip
    return drawn ^ (epoch % 2 == 1)


def by_albumentations(
    transform: A.BasicTransform | A.Compose, image: UInt8[np.ndarray, "h w 3"], rng: np.random.Generator
) -> Any:
    """The transformed image, with random values from `rng`."""
    # Not `set_random_seed`, which gives every transform inside the same random numbers.
    transform.set_random_state(rng, random.Random(rng.bytes(8)))
    return transform(image=image)["image"]

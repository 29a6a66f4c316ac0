"""Chooses the implementation of the augmentation, by the option `augment_by`."""

import numpy as np
import torch
from jaxtyping import Float32

from ..settings.parts import AUGMENTERS, load_part
from ..settings.train import TrainSettings
from .declared import Augmentation


def augmentation(
    settings: TrainSettings,
    side: int,
    mean: Float32[np.ndarray, "3"],
    device: str,
    memory_format: torch.memory_format,
) -> Augmentation:
    """The augmentation of a training; `mean` of the training images is in [0, 1], their `side` is in pixels."""
    made: Augmentation = load_part(AUGMENTERS, settings.augment_path)(settings, side, mean, device, memory_format)
    return made


def one_by_one(
    settings: TrainSettings,
    side: int,
    mean: Float32[np.ndarray, "3"],
    device: str,
    memory_format: torch.memory_format,
) -> Augmentation:
    """Albumentations itself, image by image, always on the CPU."""
    return Augmentation(settings, side, mean)

"""What changes the training images, as the option `augment` says."""

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
    """Looked up in the table; `mean` is that of the training images, in [0, 1], `side` is theirs in pixels."""
    made: Augmentation = load_part(AUGMENTERS, settings.augment_path)(settings, side, mean, device, memory_format)
    return made


def one_by_one(
    settings: TrainSettings,
    side: int,
    mean: Float32[np.ndarray, "3"],
    device: str,
    memory_format: torch.memory_format,
) -> Augmentation:
    """Albumentations itself, image by image on the CPU, whatever the device of the training."""
    return Augmentation(settings, side, mean)

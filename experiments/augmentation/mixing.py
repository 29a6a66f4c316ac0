"""MixUp and CutMix: each image of a batch is mixed with the one before it, and its label becomes soft."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from torch import Tensor
from torch.nn import functional as F

from ..data.tensors import to_tensor
from ..settings.train import TrainSettings
from .streams import stream

Labels = Int64[Tensor, "b"] | Float32[Tensor, "b classes"]
"""The class of each image, or its share of each class."""


Batch = tuple[Float[Tensor, "b 3 h w"], Labels]


def mixed_batches(
    settings: TrainSettings, batches: Iterable[tuple[Tensor, Tensor]], classes: int, epoch: int
) -> Iterator[Batch]:
    """The batches of an epoch after `mixup` or `cutmix`; unchanged if both are off.

    With both, each batch gets one of them, as in torchvision's references. Its labels become shares of the classes.
    """
    for step, (images, labels) in enumerate(batches):
        yield mixed(settings, images, labels, classes, epoch, step)


def hard(labels: Labels) -> Int64[Tensor, "b"]:
    """The class of each image; of a mixed image the one with the largest share."""
    return labels if labels.ndim == 1 else labels.argmax(1)


def mixed(
    settings: TrainSettings,
    images: Float[Tensor, "b 3 h w"],
    labels: Int64[Tensor, "b"],
    classes: int,
    epoch: int,
    step: int,
) -> Batch:
    """The batch of one step, see `mixed_batches`."""
    kinds = [name for name in ("mixup", "cutmix") if getattr(settings, name)]
    if not kinds:
        return images, labels
    chosen = kinds[stream(settings.seed, epoch, "mixup or cutmix", step).integers(len(kinds))]
    rng, alpha = stream(settings.seed, epoch, chosen, step), getattr(settings, chosen)
    own, images = {"mixup": mix_up, "cutmix": cut_mix}[chosen](images, rng.beta(alpha, alpha), rng)
    soft = F.one_hot(labels, classes).float()
    return images, torch.lerp(_before(soft), soft, own)


def mix_up(
    images: Float[Tensor, "b 3 h w"], share: float, rng: np.random.Generator
) -> tuple[float, Float[Tensor, "b 3 h w"]]:
    """`share` of each image and the rest of the one before it (Zhang et al. 2018, arXiv 1710.09412)."""
    return share, torch.lerp(_before(images), images, share)


def cut_mix(
    images: Float[Tensor, "b 3 h w"], share: float, rng: np.random.Generator
) -> tuple[float, Float[Tensor, "b 3 h w"]]:
    """Each image with a box from the one before it; returns the share that is left (Yun et al. 2019, arXiv 1905.04899).

    The box covers 1 - `share` of the image, but its centre is anywhere and it is clipped at the border.
    """
    height, width = images.shape[2:]
    half = 0.5 * (1 - share) ** 0.5
    across, down = int(rng.integers(width)), int(rng.integers(height))
    left, right = max(across - int(half * width), 0), min(across + int(half * width), width)
    top, bottom = max(down - int(half * height), 0), min(down + int(half * height), height)
    changed = images.clone()
    changed[:, :, top:bottom, left:right] = _before(images[:, :, top:bottom, left:right])
    return 1 - (right - left) * (bottom - top) / (width * height), changed


def _before(batch: Tensor) -> Tensor:
    """Each entry replaced by the one before it; unlike `roll`, it keeps the memory format."""
    return torch.cat([batch[-1:], batch[:-1]])


def mixed_examples(settings: TrainSettings, images: UInt8[np.ndarray, "n h w 3"]) -> UInt8[np.ndarray, "n h w 3"]:
    """The images after `mixup` or `cutmix`, for a picture."""
    pixels, _ = mixed(settings, to_tensor(images), torch.zeros(len(images), dtype=torch.int64), 1, 0, 0)
    return pixels.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()

"""Layers that several networks use."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn


class Normalise(nn.Module):
    """Subtracts the mean and divides by the standard deviation of each colour channel, both on the scale [0, 1]."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1))

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h w"]:
        return (images - self.mean) / self.std


def conv_bn_relu(channels_in: int, channels: int, stride: int = 1) -> nn.Sequential:
    """A 3x3 convolution without bias, batch normalisation, ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
    )

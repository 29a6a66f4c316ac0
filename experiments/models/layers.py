"""Layers that several networks use."""

from collections.abc import Mapping, Sequence

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


def open_door(network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
    """Makes a foreign network one that takes images in [0, 1] and gives plain logits, under its own names of layers.

    With hooks, not with a module around it, which would change these names and those of the weights.
    """
    for name, numbers in (("camparison_mean", mean), ("camparison_std", std)):
        network.register_buffer(name, torch.tensor(numbers, dtype=torch.float32).view(1, 3, 1, 1), persistent=False)
    network.register_forward_pre_hook(_normalised)
    network.register_forward_hook(plain_logits)


def _normalised(network: nn.Module, args: tuple[Tensor]) -> Tensor:
    return (args[0] - network.get_buffer("camparison_mean")) / network.get_buffer("camparison_std")


def plain_logits(network: object, args: object, output: object) -> Tensor:
    """The logits in what a network gives: a tensor, `.logits`, the entry `logits`, or else the first of several.

    Raises:
        TypeError: there is no tensor there.
    """
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", output)
    several = list(output.values()) if isinstance(output, Mapping) else found
    if not isinstance(found, Tensor) and isinstance(several, list | tuple):
        found = several[0] if several else None
    if not isinstance(found, Tensor):
        raise TypeError(f"the network gives {type(output).__name__}, in which there are no logits")
    return found

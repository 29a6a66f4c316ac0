"""The networks. Each takes images in [0, 1], normalises them itself, and names its CAM layers from shallow to deep.

This module imports torch alone, because it travels with every logged model.
"""

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


class FastNet(nn.Module):
    """A small convolutional net: a stem, three stages of two convolutions, average pooling, one linear layer.

    A stage halves the side in its first convolution, so that most arithmetic happens on small maps (after K. Jordan's
    airbench nets, arXiv 2404.00498); the last stage keeps its size, so that its class activation map has 8x8 cells on
    a 32x32 image instead of 4x4.
    """

    cam_layers = ("stem", "layer1", "layer2", "layer3")

    def __init__(self, classes: int, mean: Sequence[float], std: Sequence[float], dropout: float = 0.0) -> None:
        super().__init__()
        self.normalise = Normalise(mean, std)
        self.stem = conv_bn_relu(3, 16)
        self.layer1 = nn.Sequential(conv_bn_relu(16, 64, stride=2), conv_bn_relu(64, 64))
        self.layer2 = nn.Sequential(conv_bn_relu(64, 128, stride=2), conv_bn_relu(128, 128))
        self.layer3 = nn.Sequential(conv_bn_relu(128, 128), conv_bn_relu(128, 128))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(128, classes)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes"]:
        x = self.layer3(self.layer2(self.layer1(self.stem(self.normalise(images)))))
        return self.linear(self.dropout(x.mean((2, 3))))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al. 2016, arXiv 1512.03385)."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential()
        if stride != 1 or channels_in != channels:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride=stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d i j"]:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18 for small images: a 3x3 stem with stride 1 and no max-pooling, as in kuangliu/pytorch-cifar.

    11,173,962 parameters with ten classes.
    """

    cam_layers = ("stem", "layer1", "layer2", "layer3", "layer4")

    def __init__(self, classes: int, mean: Sequence[float], std: Sequence[float], dropout: float = 0.0) -> None:
        super().__init__()
        self.normalise = Normalise(mean, std)
        self.stem = conv_bn_relu(3, 64)
        self.layer1 = nn.Sequential(BasicBlock(64, 64, 1), BasicBlock(64, 64, 1))
        self.layer2 = nn.Sequential(BasicBlock(64, 128, 2), BasicBlock(128, 128, 1))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, 2), BasicBlock(256, 256, 1))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, 2), BasicBlock(512, 512, 1))
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(512, classes)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes"]:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(self.normalise(images))))))
        return self.linear(self.dropout(x.mean((2, 3))))


Network = FastNet | ResNet18
MODELS: dict[str, type[Network]] = {"fastnet": FastNet, "resnet18": ResNet18}

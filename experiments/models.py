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


def whitening(images: Float[Tensor, "n 3 h w"], eps: float = 5e-4) -> Float[Tensor, "24 3 2 2"]:
    """Filters of a convolution that whitens 2x2 patches: the first 12 put out uncorrelated values of second moment 1.

    They are the eigenvectors of the patches' second moments, each divided by the square root of its eigenvalue + `eps`;
    the other 12 are their negatives, so that nothing is lost in an activation that keeps one sign (K. Jordan, *94% on
    CIFAR-10 in 3.29 Seconds*, arXiv 2404.00498, section 3.2). `images` are normalised; any number and size will do.
    """
    patches = nn.functional.unfold(images, 2)
    moments = (patches @ patches.mT).sum(0) / (patches.shape[0] * patches.shape[2])
    values, vectors = torch.linalg.eigh(moments.cpu().double())
    filters = (vectors / (values.clamp_min(0) + eps).sqrt()).T.reshape(12, 3, 2, 2)
    return torch.cat((filters, -filters)).to(images)


def dirac_conv(channels_in: int, channels: int) -> nn.Conv2d:
    """A 3x3 convolution without bias whose first filters pass their input on (arXiv 2404.00498, section 3.3)."""
    conv = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(conv.weight[:channels_in])
    return conv


def shifting_norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation with a trained shift and no trained scale; its averages follow the last few batches."""
    norm = nn.BatchNorm2d(channels, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


def conv_group(channels_in: int, channels: int, *pooling: nn.Module) -> nn.Sequential:
    """Two convolutions with normalisation and GELU, the first one pooled where `pooling` is given."""
    return nn.Sequential(
        *(dirac_conv(channels_in, channels), *pooling, shifting_norm(channels), nn.GELU()),
        *(dirac_conv(channels, channels), shifting_norm(channels), nn.GELU()),
    )


class FastNet(nn.Module):
    """A small convolutional net that learns in few epochs: a stem that whitens, three groups of two convolutions, the
    mean over the image, one linear layer (airbench94 of K. Jordan, arXiv 2404.00498, in other widths).

    The last group does not pool, unlike theirs, and pooling keeps the last row and column, so that the class activation
    map has 8x8 cells on a 32x32 image instead of 3x3, and its cells lie where they are drawn. Images have sides of 8
    pixels or more. The filters of the stem are frozen; `whiten` sets them.
    """

    cam_layers = ("stem", "layer1", "layer2", "layer3")
    widths = (32, 128, 128)

    def __init__(self, classes: int, mean: Sequence[float], std: Sequence[float], dropout: float = 0.0) -> None:
        super().__init__()
        a, b, c = self.widths
        self.normalise = Normalise(mean, std)
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 2), nn.GELU())
        self.stem.get_parameter("0.weight").requires_grad_(False)
        self.layer1 = conv_group(24, a, nn.MaxPool2d(2, ceil_mode=True))
        self.layer2 = conv_group(a, b, nn.MaxPool2d(2, ceil_mode=True))
        self.layer3 = conv_group(b, c)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(c, classes, bias=False)
        with torch.no_grad():
            self.linear.weight.div_(self.linear.weight.std())

    def whiten(self, images: Float[Tensor, "n 3 h w"]) -> None:
        """Sets the filters of the stem from training images in [0, 1], on the network's device."""
        with torch.no_grad():
            self.stem.get_parameter("0.weight").copy_(whitening(self.normalise(images)))

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes"]:
        x = self.layer3(self.layer2(self.layer1(self.stem(self.normalise(images)))))
        # Theirs takes the maximum, which hides all cells but one from a map's gradients; the mean is about half of it.
        return self.linear(self.dropout(2 * x.mean((2, 3)))) / self.linear.in_features


class FastNetWide(FastNet):
    """The same in the widths of airbench94."""

    widths = (64, 256, 256)


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

    def lay_out_for_small_maps(self) -> None:
        """Puts `layer4` into the contiguous format, whatever the others' is.

        On maps of 4x4 cells a CPU convolves its 512 channels faster so than in channels_last, oneDNN's bf16 in 0.75 of
        the time, float32 in 0.95; on 8x8 cells it is the other way round.
        """
        self.layer4.to(memory_format=torch.contiguous_format)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes"]:
        x = self.layer3(self.layer2(self.layer1(self.stem(self.normalise(images)))))
        kernel = self.layer4.get_parameter("0.conv1.weight")
        # A convolution computes in channels_last where either its kernel or its input is laid out so.
        x = self.layer4(x.contiguous() if kernel.is_contiguous() else x)
        return self.linear(self.dropout(x.mean((2, 3))))


Network = FastNet | ResNet18
MODELS: dict[str, type[Network]] = {"fastnet": FastNet, "fastnet_wide": FastNetWide, "resnet18": ResNet18}

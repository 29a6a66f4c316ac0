"""FastNet: a small convolutional network that learns CIFAR-10 in a few epochs."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .layers import Normalise

ROUNDED_AWAY = 2.0**-18
"""A variance relative to the largest: bfloat16 rounds a number by up to 2^-9 of it."""
STEM_TRAINED = 3 / 8  # share of the training; afterwards the stem is frozen

# Parameters that are not kernels have their own learning rates. airbench94_muon.py uses 0.67 (classifier) and 0.053
# (biases) for the summed loss, with 0.24 for Muon and batches of 2,000 (github.com/KellerJordan/cifar10-airbench). A
# mean loss needs them multiplied by the batch size. These numbers are the result divided by Muon's rate and by the
# square root of the batch size, and they give the same two rates for Muon's 0.12 with batches of 500, as in `fast`.
# They are so large because the network divides its logits by its width.
_CLASSIFIER, _BIAS = (rate * math.sqrt(2000) / 0.24 for rate in (0.67, 0.053))


def whitening(images: Float[Tensor, "n 3 h w"], eps: float = 5e-4) -> Float[Tensor, "24 3 2 2"]:
    """Filters of a convolution that whitens 2x2 patches: the first 12 give uncorrelated values with second moment 1.

    They are the eigenvectors of the second moments of the patches, each divided by the square root of its eigenvalue +
    `eps`. The other 12 are their negatives, so an activation that keeps one sign loses nothing (K. Jordan, *94% on
    CIFAR-10 in 3.29 Seconds*, arXiv 2404.00498, section 3.2). `images` are normalised; any number and size is allowed.

    Directions in which patches hardly vary are left out, and the others take their places in turn: three times each if
    all images are grey. Such filters would multiply the rounding of bfloat16, and batch normalisation would amplify it.
    """
    patches = nn.functional.unfold(images, 2)
    moments = (patches @ patches.mT).sum(0) / (patches.shape[0] * patches.shape[2])
    values, vectors = torch.linalg.eigh(moments.cpu().double())
    filters = (vectors / (values.clamp_min(0) + eps).sqrt()).T.reshape(12, 3, 2, 2)
    varying = (values >= ROUNDED_AWAY * values[-1]).nonzero().flatten()
    filters = filters[varying[torch.arange(12) % len(varying)]]
    return torch.cat((filters, -filters)).to(images)


def dirac_conv(channels_in: int, channels: int) -> nn.Conv2d:
    """A 3x3 convolution without bias whose first filters copy their input (arXiv 2404.00498, section 3.3)."""
    conv = nn.Conv2d(channels_in, channels, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(conv.weight[:channels_in])
    return conv


def shifting_norm(channels: int) -> nn.BatchNorm2d:
    """Batch normalisation with a trained shift and no trained scale; its averages cover only the last few batches."""
    norm = nn.BatchNorm2d(channels, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm


def conv_group(channels_in: int, channels: int, *pooling: nn.Module) -> nn.Sequential:
    """Two convolutions with normalisation and GELU; the first one is followed by `pooling`, if given."""
    return nn.Sequential(
        *(dirac_conv(channels_in, channels), *pooling, shifting_norm(channels), nn.GELU()),
        *(dirac_conv(channels, channels), shifting_norm(channels), nn.GELU()),
    )


class FastNet(nn.Module):
    """A small convolutional network that learns in few epochs: a whitening stem, three groups of two convolutions, the
    mean over the image, and one linear layer (airbench94 of K. Jordan, arXiv 2404.00498, with other widths).

    Unlike airbench94, the last group does not pool, and pooling keeps the last row and column. So the class activation
    map has 8x8 cells on a 32x32 image instead of 3x3, and the cells are at the positions where they are drawn. Images
    have sides of 8 pixels or more. The filters of the stem are frozen; `whiten` sets them.
    """

    cam_layers = ("stem", "layer1", "layer2", "layer3")
    rates_beside_muon = (_CLASSIFIER, _BIAS)
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

    def start_training(self, images: Float[Tensor, "n 3 h w"]) -> None:
        """Sets the filters of the stem."""
        self.whiten(images)

    def start_epoch(self, done: float) -> None:
        """Freezes the rest of the stem after a part of the training, which makes a step a tenth faster."""
        self.stem.get_parameter("0.bias").requires_grad_(done < STEM_TRAINED)

    def whiten(self, images: Float[Tensor, "n 3 h w"]) -> None:
        """Sets the filters of the stem from training images in [0, 1], on the network's device."""
        with torch.no_grad():
            self.stem.get_parameter("0.weight").copy_(whitening(self.normalise(images)))

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes"]:
        x = self.layer3(self.layer2(self.layer1(self.stem(self.normalise(images)))))
        # airbench94 takes the maximum, where only one cell has a gradient; the mean is about half of it.
        return self.linear(self.dropout(2 * x.mean((2, 3)))) / self.linear.in_features


class FastNetWide(FastNet):
    """The same network with the widths of airbench94."""

    widths = (64, 256, 256)

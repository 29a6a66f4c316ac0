"""From the raw map of a method to the map that is drawn and measured: resize, then normalise, without an epsilon."""

import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional as F


def resize(maps: Float[Tensor, "n *grid"], size: tuple[int, ...]) -> Float[Tensor, "n *size"]:
    """The maps at `size` = (height, width), bilinear with `align_corners=False` (as OpenCV's INTER_LINEAR).

    Maps of signals `(n, l)` and of volumes `(n, d, h, w)` are resized in the same way. No value leaves the range of its
    map, so a constant map stays constant to the last bit.
    """
    mode = ("linear", "bilinear", "trilinear")[len(size) - 1]
    large = F.interpolate(maps[:, None], size, mode=mode, align_corners=False)[:, 0]
    # The weights of the interpolation sum to 1 only up to rounding.
    axes = tuple(range(1, maps.ndim))
    return torch.clamp(large, maps.amin(axes, keepdim=True), maps.amax(axes, keepdim=True))


def normalise(maps: Float[Tensor, "*batch h w"]) -> Float[Tensor, "*batch h w"]:
    """Each non-negative map divided by its own maximum, in [0, 1]; an all-zero map stays zero.

    A map with NaN is NaN everywhere. The minimum is not subtracted, so 0 still means "no evidence", and shares of a
    map's mass keep their value.
    """
    top = maps.amax((-2, -1), keepdim=True)
    return torch.where(top == 0, 0.0, maps / top)


def relative_to_mean(maps: Float[Tensor, "*batch h w"]) -> Float[Tensor, "*batch h w"]:
    """Each non-negative map divided by its own mean: 1 = like a uniform map; from 0 to h*w; an all-zero map stays zero.

    All pictures use this scale: equal colours mean equal shares of the map, in every picture of every model.
    """
    # Scaled to [0, 1] first, where the mean of a live map cannot underflow.
    scaled = normalise(maps)
    mean = scaled.mean((-2, -1), keepdim=True)
    return torch.where(mean == 0, 0.0, scaled / mean)


def finish(
    raw: Float32[Tensor, "n *grid"], size: tuple[int, ...]
) -> tuple[Float32[Tensor, "n *size"], Float32[Tensor, " n"]]:
    """The signed maps of a method after ReLU, resize and normalisation, and the maximum of each before the division."""
    positive = resize(raw.relu(), size)
    flat = positive.flatten(1)
    return normalise(flat[:, None]).view_as(positive), flat.amax(1)

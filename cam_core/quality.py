"""What maps are worth: measures per image, and the reference maps without which a measure says little.

Maps are `(n, h, w)`, non-negative, on any scale; masks `(n, h, w)` are True on the object. Each measure returns `(n,)`
float32 and is NaN where it is undefined (a dead map, which is all zero, or an empty mask): average with `nanmean`,
and report `dead_rate` beside, for a dead map is missing evidence and not a bad map.
"""

import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor
from torch.nn import functional as F

from cam_core.maps import normalise, resize

RESOLVABLE = 1e-3
"""The least energy that a layer's best map must gain over a uniform one for the focus index to mean anything."""


def energy_inside(maps: Float[Tensor, "n h w"], masks: Bool[Tensor, "n h w"]) -> Float32[Tensor, " n"]:
    """The share of the map's mass inside the mask, E = sum(map in mask) / sum(map), in [0, 1], higher is better.

    Also called energy-based pointing game (Wang et al., Score-CAM, CVPRW 2020) and relevance mass accuracy (Arras et
    al., 2022). It grows with the object: a uniform map scores the mask's share of the area, hence `lift`.
    """
    scaled = normalise(maps)
    energy = (scaled * masks).sum((1, 2)) / scaled.sum((1, 2))
    return _where(_live(maps) & masks.any((1, 2)), energy)


def lift(maps: Float[Tensor, "n h w"], masks: Bool[Tensor, "n h w"]) -> Float32[Tensor, " n"]:
    """The energy inside over the mask's share a of the area, E / a, in [0, 1/a]; 1 = uniform map, higher is better."""
    return energy_inside(maps, masks) / _area(masks)


def focus_index(
    maps: Float[Tensor, "n h w"], masks: Bool[Tensor, "n h w"], grid: tuple[int, int]
) -> Float32[Tensor, " n"]:
    """The energy inside on a scale fair to coarse layers, F = (E - a) / (E* - a), higher is better.

    a is the mask's share of the area; E* is the energy inside of the mask itself, average-pooled to the layer's `grid`
    (rows, columns) and resized as maps are. 0 = as a uniform map; 1 = as the object itself seen at that resolution;
    below 0 = avoids the object; above 1 = keeps to a part of the object, so read it together with `object_recall`.
    NaN also where the grid cannot resolve the mask (E* - a below 0.001), as for a mask of the whole image.
    """
    seen = resize(F.adaptive_avg_pool2d(masks[:, None].float(), grid)[:, 0], (masks.shape[1], masks.shape[2]))
    gain = energy_inside(seen, masks) - _area(masks)
    return _where(gain > RESOLVABLE, (energy_inside(maps, masks) - _area(masks)) / gain)


def pointing_game(maps: Float[Tensor, "n h w"], masks: Bool[Tensor, "n h w"]) -> Float32[Tensor, " n"]:
    """1 where the map's maximum lies inside the mask, 0 where not, higher is better; no tolerance around the mask.

    Zhang et al., ECCV 2016. Of several equal maxima the share inside counts, so that the order of pixels does not.
    """
    tops = maps == maps.amax((1, 2), keepdim=True)
    return _where(_live(maps) & masks.any((1, 2)), (tops & masks).sum((1, 2)) / tops.sum((1, 2)))


def object_recall(maps: Float[Tensor, "n h w"], masks: Bool[Tensor, "n h w"]) -> Float32[Tensor, " n"]:
    """The share of the object where the map reaches half of its maximum, |B and M| / |M|, in [0, 1].

    "Covers the whole object". A map that is high everywhere scores 1: only together with `object_precision` does it
    say anything. The half is a convention, not tuned (Choe et al., CVPR 2020, on tuned thresholds).
    """
    hot = _hot(maps)
    return _where(_live(maps) & masks.any((1, 2)), (hot & masks).sum((1, 2)) / masks.sum((1, 2)))


def object_precision(maps: Float[Tensor, "n h w"], masks: Bool[Tensor, "n h w"]) -> Float32[Tensor, " n"]:
    """The share of the area at or above half of the maximum that is object, |B and M| / |B|, in [0, 1].

    A uniform map scores the mask's share of the area. To be read together with `object_recall`.
    """
    hot = _hot(maps)
    return _where(_live(maps) & masks.any((1, 2)), (hot & masks).sum((1, 2)) / hot.sum((1, 2)))


def spread(maps: Float[Tensor, "n h w"]) -> Float32[Tensor, " n"]:
    """The standard deviation of the map's mass around its centre, sqrt(var(y/h) + var(x/w)), in [0, 0.71].

    In fractions of the image side; a single pixel has 0, a uniform map 0.41. The size of the blob, not its quality:
    neither direction is better.
    """
    scaled = normalise(maps)
    share = scaled / scaled.sum((1, 2), keepdim=True)
    return _where(_live(maps), (_variance(share.sum(2)) + _variance(share.sum(1))).sqrt())


def coverage(maps: Float[Tensor, "n h w"]) -> Float32[Tensor, " n"]:
    """The share of the image where the map reaches half of its maximum, in (0, 1].

    The size of the blob, not its quality: neither direction is better.
    """
    return _where(_live(maps), _hot(maps).float().mean((1, 2)))


def dead_rate(maps: Float[Tensor, "n h w"]) -> Float32[Tensor, " n"]:
    """1 for a map that is zero everywhere, 0 for a live one, lower is better; never NaN. Its mean is the rate."""
    return (~_live(maps)).float()


def uniform_map(h: int, w: int) -> Float32[Tensor, "{h} {w}"]:
    """A map that favours nothing: ones everywhere."""
    return torch.ones(h, w)


def random_maps(
    n: int, grid: tuple[int, int], size: tuple[int, int], generator: torch.Generator
) -> Float32[Tensor, "{n} {size[0]} {size[1]}"]:
    """Maps as a layer of that `grid` would give them knowing nothing: uniform noise in [0, 1), resized to `size`."""
    return resize(torch.rand(n, *grid, generator=generator), size)


def centre_blob(h: int, w: int) -> Float32[Tensor, "{h} {w}"]:
    """A map that only knows where photographers put things: a Gaussian in the middle, its sd a quarter of each side."""
    y, x = (torch.arange(1 - side, side, 2) / (2 * side) for side in (h, w))  # of pixel centres, from the middle
    squared = y[:, None] ** 2 + x[None, :] ** 2
    return torch.exp(-squared / (2 * 0.25**2))


def _live(maps: Tensor) -> Tensor:
    return maps.amax((1, 2)) > 0


def _hot(maps: Tensor) -> Tensor:
    return normalise(maps) >= 0.5


def _area(masks: Tensor) -> Tensor:
    return masks.float().mean((1, 2))


def _where(defined: Tensor, values: Tensor) -> Tensor:
    return torch.where(defined, values, torch.nan).float()


def _centres(count: int, device: torch.device) -> Tensor:
    """The centres of `count` pixels along a side of length 1."""
    return (torch.arange(count, device=device) + 0.5) / count


def _variance(shares: Tensor) -> Tensor:
    """The variance along a side of length 1 of the mass that each of its pixels holds."""
    at = _centres(shares.shape[1], shares.device)
    centre = (shares * at).sum(1, keepdim=True)
    return (shares * (at - centre) ** 2).sum(1)

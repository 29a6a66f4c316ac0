"""How alike the maps of two models, methods or seeds are on the same images, per image.

Both are `(n, h, w)`, non-negative, each on any scale of its own. Each measure returns `(n,)` float32, symmetric in the
two, and NaN where either map is dead (zero everywhere): average with `nanmean`, and report how many are left. Agreement
is not quality: two models can agree on the wrong place. And it has a floor: two seeds of one recipe disagree too, and
only what lies below their agreement is a difference between recipes.

The share of a map inside a given region, such as where the other map is high, is `cam_core.quality.energy_inside` with
the region as the mask.
"""

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from cam_core.maps import normalise
from cam_core.quality import centre, check_maps, live, ranks, top


def rank_correlation(a: Float[Tensor, "n h w"], b: Float[Tensor, "n h w"]) -> Float32[Tensor, " n"]:
    """Spearman's correlation over the pixels, in [-1, 1], higher is more alike; unrelated maps have 0 on average.

    The correlation of the ranks, with the average rank for equal pixels. It weighs the order among the low pixels as
    much as among the high: `top_iou` looks at the high alone. NaN also where a map is constant.
    """
    check_maps(a, b)
    size = a.shape[1] * a.shape[2]
    return _cosine(ranks(a) / size, ranks(b) / size)


def top_iou(a: Float[Tensor, "n h w"], b: Float[Tensor, "n h w"], share: float = 0.2) -> Float32[Tensor, " n"]:
    """Intersection over union of the top `share` of the pixels of either map, in [0, 1], higher is more alike.

    Two maps of independent noise score about share / (2 - share). Equal pixels for which there is not room for all are
    in to the same degree d, so that nothing hangs on their order, and the measure is sum(min(d, d')) / sum(max(d, d')),
    which is the ordinary one where there are no such ties. A pixel with 0 is never in: no evidence is no agreement.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share must be above 0 and at most 1, a share of the pixels of a map, not {share}")
    check_maps(a, b)
    n, h, w = a.shape
    counts = torch.full((n,), max(1, round(share * h * w)), device=a.device)
    in_a, in_b = (top(maps, counts) * (maps > 0) for maps in (a, b))
    iou = torch.minimum(in_a, in_b).sum((1, 2)) / torch.maximum(in_a, in_b).sum((1, 2))
    return torch.where(live(a) & live(b), iou, torch.nan)


def cosine(a: Float[Tensor, "n h w"], b: Float[Tensor, "n h w"]) -> Float32[Tensor, " n"]:
    """The cosine of the angle between the maps as vectors, sum(a*b) / (|a| |b|), in [0, 1], higher is more alike.

    0 = nowhere both above 0; 1 = the same up to scale. Unrelated maps are far from 0, since no map is negative: two of
    uniform noise have 3/4, and more when resized from a coarse grid. `rank_correlation` has a plain zero.
    """
    check_maps(a, b)
    return _cosine(normalise(a), normalise(b))


def centre_shift(a: Float[Tensor, "n h w"], b: Float[Tensor, "n h w"]) -> Float32[Tensor, " n"]:
    """The distance between the centres of mass, sqrt(dy^2 + dx^2), in [0, 1.41), lower is more alike.

    In fractions of the image side, as `quality.spread`. Maps that differ in size or shape alone have 0, and so have all
    that are symmetrical about the middle: it says where maps lie and not whether they are the same.
    """
    check_maps(a, b)
    return (centre(a) - centre(b)).norm(dim=1)


def flip_consistency(maps: Float[Tensor, "n h w"], maps_of_mirrored: Float[Tensor, "n h w"]) -> Float32[Tensor, " n"]:
    """The `cosine` of the maps with those of the images mirrored left to right, mirrored back, in [0, 1].

    Higher is better: how much of the map is about the picture and not about the way round it was shown. A uniform map
    has 1: consistent is not the same as right.
    """
    check_maps(maps, maps_of_mirrored)
    return cosine(maps, maps_of_mirrored.flip(2))


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    products = (a * b).sum((1, 2))
    lengths = (a.square().sum((1, 2)) * b.square().sum((1, 2))).sqrt()
    return (products / lengths).clamp(-1, 1).float()

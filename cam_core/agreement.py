"""How similar the maps of two models, methods or seeds are on the same images, per image.

Both inputs are `(n, h, w)` and non-negative; their scales may differ. Each measure returns `(n,)` float32 and does not
depend on the order of the two. It is NaN if either map is dead (zero everywhere): average with `nanmean`, and report
how many maps are left. Agreement is not quality: two models can agree on the wrong place. Two seeds of one recipe
disagree too, so only an agreement lower than theirs is a difference between recipes.

The share of a map inside a given region, such as where the other map is high, is `cam_core.quality.energy_inside` with
the region as the mask.
"""

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from cam_core.maps import normalise
from cam_core.quality import centre, check_maps, live, ranks, top


def rank_correlation(a: Float[Tensor, "n h w"], b: Float[Tensor, "n h w"]) -> Float32[Tensor, " n"]:
    """Spearman's correlation over the pixels, in [-1, 1]; higher is more similar, unrelated maps have 0 on average.

    The correlation of the ranks; equal pixels get their average rank. The order of the low pixels counts as much as the
    order of the high ones, whereas `top_iou` uses the high ones only. NaN also if a map is constant.
    """
    check_maps(a, b)
    size = a.shape[1] * a.shape[2]
    found = _cosine(ranks(a) / size, ranks(b) / size)
    return torch.where(live(a) & live(b), found, torch.nan)


def top_iou(a: Float[Tensor, "n h w"], b: Float[Tensor, "n h w"], share: float = 0.2) -> Float32[Tensor, " n"]:
    """Intersection over union of the top `share` of the pixels of both maps, in [0, 1], higher is more similar.

    Two maps of independent noise score about share / (2 - share). If equal pixels compete for the last places, each is
    included to the same degree d, so their order does not matter. The measure is sum(min(d, d')) / sum(max(d, d')),
    which is the usual one without ties. A pixel with value 0 is never included: no evidence is no agreement.
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
    """The cosine of the angle between the maps as vectors, sum(a*b) / (|a| |b|), in [0, 1], higher is more similar.

    0 = no pixel where both are above 0; 1 = the same up to scale. Unrelated maps are far from 0, because no map is
    negative: two maps of uniform noise have 3/4, and more after a resize from a coarse grid. For unrelated maps
    `rank_correlation` is 0.
    """
    check_maps(a, b)
    return _cosine(normalise(a), normalise(b))


def centre_shift(a: Float[Tensor, "n h w"], b: Float[Tensor, "n h w"]) -> Float32[Tensor, " n"]:
    """The distance between the centres of mass, sqrt(dy^2 + dx^2), in [0, 1.41), lower is more similar.

    In fractions of the image side, as `quality.spread`. Maps that differ only in size or shape have 0, and so do all
    maps that are symmetrical about the middle: the measure compares places, not maps.
    """
    check_maps(a, b)
    return (centre(a) - centre(b)).norm(dim=1)


def flip_consistency(maps: Float[Tensor, "n h w"], maps_of_mirrored: Float[Tensor, "n h w"]) -> Float32[Tensor, " n"]:
    """The `cosine` between the maps and the maps of the mirrored images after mirroring them back, in [0, 1].

    Higher is better: the map then depends less on the direction in which the image was shown. A uniform map has 1, so a
    consistent map need not be right.
    """
    check_maps(maps, maps_of_mirrored)
    return cosine(maps, maps_of_mirrored.flip(2))


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    products = (a * b).sum((1, 2))
    lengths = (a.square().sum((1, 2)) * b.square().sum((1, 2))).sqrt()
    return (products / lengths).clamp(-1, 1).float()

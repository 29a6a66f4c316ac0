"""How good maps are: measures per image, and reference maps to compare them with.

Maps are `(n, h, w)`, non-negative, on any scale; masks `(n, h, w)` are True on the object. Each measure returns `(n,)`
float32. It is NaN if it is undefined (a dead map, which is all zero, or an empty mask): average with `nanmean`, and
report `dead_rate` too, because a dead map is missing evidence, not a bad map. Maps and masks of other shapes or types
raise ValueError. `with_references` computes a measure also for a random map and for a blob in the middle.

How reliable the measures are was tested on about thirty small networks, trained on drawn scenes whose backgrounds
revealed the class to various degrees. The test is the rank correlation, over the networks, between a measure of the
last layer and the accuracy lost on other backgrounds. It should be -1. It was -0.89 for `energy_inside` and `lift`,
-0.85 for `pixel_auc`, -0.84 for `rank_accuracy`, -0.79 for `pointing_game`, -0.71 for `object_iou` and -0.60 for
`object_recall`. For the measures without a mask it was positive: 0.76 for `coverage`, 0.92 for `border_share`, 0.93 for
`entropy` and 0.95 for `spread`. Networks that use the background have larger blobs, so a large blob does not mean that
the network "sees the whole object". For the energy in the first layers it was weak (-0.23 to -0.43): early maps are no
evidence about the object.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor
from torch.nn import functional as F

from cam_core.maps import normalise, resize

RESOLVABLE = 1e-3
"""The focus index is defined only if a layer's best map gains at least this much energy over a uniform map."""


def energy_inside(maps: Float[Tensor, "n h w"], masks: Bool[Tensor, "n h w"]) -> Float32[Tensor, " n"]:
    """The share of the map's mass inside the mask, E = sum(map in mask) / sum(map), in [0, 1], higher is better.

    Also called energy-based pointing game (Wang et al., Score-CAM, CVPRW 2020) and relevance mass accuracy (Arras et
    al., 2022). It grows with the object: a uniform map has the mask's share of the area; `lift` corrects this. A coarse
    layer has an upper limit (on a 4 x 4 grid about 0.57 for objects of a quarter of the area); `focus_index` corrects
    this. The way of resizing alone changes it by up to 0.03, so compare only maps that were resized in the same way.
    """
    check_masks(maps, masks)
    scaled = normalise(maps)
    energy = (scaled * masks).sum((1, 2)) / scaled.sum((1, 2))
    return _where(_defined(maps, masks), energy)


def lift(maps: Float[Tensor, "n h w"], masks: Bool[Tensor, "n h w"]) -> Float32[Tensor, " n"]:
    """The energy inside divided by the area share a of the mask, E / a, in [0, 1/a]; 1 = uniform map, high is good."""
    return energy_inside(maps, masks) / _area(masks)


def focus_index(
    maps: Float[Tensor, "n h w"], masks: Bool[Tensor, "n h w"], grid: tuple[int, ...]
) -> Float32[Tensor, " n"]:
    """The energy inside on a scale that is fair to coarse layers, F = (E - a) / (E* - a), higher is better.

    a is the mask's share of the area; E* is the energy inside of the mask itself, average-pooled to the layer's `grid`
    (rows, columns) and resized like a map. 0 = like a uniform map; 1 = like the object itself at that resolution; below
    0 = the map avoids the object; above 1 = the map keeps to a part of the object, so read it together with
    `object_recall`. NaN also if the grid cannot resolve the mask (E* - a below 0.001), as for a mask of the whole
    image.
    """
    check_masks(maps, masks)
    seen = resize(
        F.adaptive_avg_pool2d(masks[:, None].float(), (grid[0], grid[1]))[:, 0], (masks.shape[1], masks.shape[2])
    )
    gain = energy_inside(seen, masks) - _area(masks)
    return _where(gain > RESOLVABLE, (energy_inside(maps, masks) - _area(masks)) / gain)


def pointing_game(maps: Float[Tensor, "n h w"], masks: Bool[Tensor, "n h w"]) -> Float32[Tensor, " n"]:
    """1 if the map's maximum is inside the mask, else 0; higher is better; no tolerance around the mask.

    Zhang et al., ECCV 2016. With several equal maxima it is the share of them inside, so their order does not matter.
    """
    check_masks(maps, masks)
    tops = maps == maps.amax((1, 2), keepdim=True)
    return _where(_defined(maps, masks), (tops & masks).sum((1, 2)) / tops.sum((1, 2)))


def pixel_auc(maps: Float[Tensor, "n h w"], masks: Bool[Tensor, "n h w"]) -> Float32[Tensor, " n"]:
    """The area under the ROC curve of the map as a score for the mask, per image, in [0, 1], higher is better.

    The exact probability that a pixel of the object is higher than a pixel of the background; equal pixels count half
    (the Mann-Whitney statistic). A uniform map has 0.5. It needs no threshold. It depends only on the order of the
    pixels, whereas `energy_inside` depends on the mass. Choe et al. (CVPR 2020) pool precision and recall over all
    images instead (PxAP), which is another number. NaN also for a mask of the whole image.
    """
    check_masks(maps, masks)
    inside, outside = masks.sum((1, 2)), (~masks).sum((1, 2))
    above = (ranks(maps) * masks).sum((1, 2))
    return _where(live(maps), 0.5 + above / (2 * inside * outside))


def rank_accuracy(maps: Float[Tensor, "n h w"], masks: Bool[Tensor, "n h w"]) -> Float32[Tensor, " n"]:
    """The share of the |M| highest pixels that is object, |top and M| / |M|, in [0, 1], higher is better.

    Arras et al. (CLEVR-XAI, Information Fusion 2022). It is precision and recall at once, because it uses as many
    pixels as the object has. Equal pixels share the remaining places, like a random order on average. So a uniform map
    has the mask's share of the area, and the measure grows with the object.
    """
    check_masks(maps, masks)
    sizes = masks.sum((1, 2))
    return _where(_defined(maps, masks), (top(maps, sizes) * masks).sum((1, 2)) / sizes)


def object_iou(
    maps: Float[Tensor, "n h w"], masks: Bool[Tensor, "n h w"], threshold: float = 0.5
) -> Float32[Tensor, " n"]:
    """Intersection over union of the object and the area B where the map reaches `threshold` of its maximum.

    |B and M| / |B or M|, in [0, 1], higher is better; a uniform map has the mask's share of the area. With one
    threshold for all models, the width of the maps counts as much as their place, and a threshold that is tuned on the
    masks uses the answer (Choe et al., CVPR 2020). `pixel_auc` needs no threshold.
    """
    check_masks(maps, masks)
    hot = _hot(maps, threshold)
    return _where(_defined(maps, masks), (hot & masks).sum((1, 2)) / (hot | masks).sum((1, 2)))


def object_recall(
    maps: Float[Tensor, "n h w"], masks: Bool[Tensor, "n h w"], threshold: float = 0.5
) -> Float32[Tensor, " n"]:
    """The share of the object where the map reaches `threshold` of its maximum, |B and M| / |M|, in [0, 1].

    "Covers the whole object". A map that is high everywhere has 1, so this is meaningful only together with
    `object_precision`. The default of one half is a convention, not tuned (see Choe et al., CVPR 2020).
    """
    check_masks(maps, masks)
    hot = _hot(maps, threshold)
    return _where(_defined(maps, masks), (hot & masks).sum((1, 2)) / masks.sum((1, 2)))


def object_precision(
    maps: Float[Tensor, "n h w"], masks: Bool[Tensor, "n h w"], threshold: float = 0.5
) -> Float32[Tensor, " n"]:
    """The share of the area at or above `threshold` of the map's maximum that is object, |B and M| / |B|, in [0, 1].

    A uniform map has the mask's share of the area. Read it together with `object_recall`.
    """
    check_masks(maps, masks)
    hot = _hot(maps, threshold)
    return _where(_defined(maps, masks), (hot & masks).sum((1, 2)) / hot.sum((1, 2)))


def spread(maps: Float[Tensor, "n h w"]) -> Float32[Tensor, " n"]:
    """The standard deviation of the map's mass around its centre, sqrt(var(y/h) + var(x/w)), in [0, 0.71].

    In fractions of the image side; a single pixel has 0, a uniform map 0.41. It is the size of the blob, not a quality:
    neither direction is better.
    """
    share = _shares(maps)
    return _where(live(maps), (_variance(share.sum(2)) + _variance(share.sum(1))).sqrt())


def coverage(maps: Float[Tensor, "n h w"]) -> Float32[Tensor, " n"]:
    """The share of the image where the map reaches half of its maximum, in (0, 1].

    It is the size of the blob, not a quality: neither direction is better.
    """
    return _where(live(maps), _hot(maps, 0.5).float().mean((1, 2)))


def entropy(maps: Float[Tensor, "n h w"]) -> Float32[Tensor, " n"]:
    """The entropy of the map's mass s (with sum 1) divided by its largest value, -sum(s log s) / log(h*w), in [0, 1].

    1 = uniform map, 0 = a single pixel. It is the size of the blob, not a quality: neither direction is better. Bhatt
    et al. (2020) call it complexity, but Poppi et al. (ADCC, CVPRW 2021) use this name for the mean of the map.
    """
    return _where(live(maps), torch.special.entr(_shares(maps)).sum((1, 2)) / math.log(maps.shape[1] * maps.shape[2]))


def border_share(maps: Float[Tensor, "n h w"], width: int | None = None) -> Float32[Tensor, " n"]:
    """The share of the map's mass on the outer `width` pixels, in [0, 1]; by default an eighth of the shorter side.

    A uniform map has 1 - (h - 2*width) * (w - 2*width) / (h*w), by default 7/16 on a square whose side is a multiple of
    8. It is not a quality: it is high for a map on the background when objects are in the middle, but also for any
    broad map. Raises ValueError if the border has no width or leaves nothing inside.
    """
    h, w = maps.shape[1:]
    width = max(1, min(h, w) // 8) if width is None else width
    if not 1 <= width < min(h, w) / 2:
        raise ValueError(f"width must be at least 1 and below half of the shorter side of {h} x {w} maps, not {width}")
    rim = torch.ones_like(maps, dtype=torch.bool)
    rim[:, width:-width, width:-width] = False
    return energy_inside(maps, rim)


def centre(maps: Float[Tensor, "n h w"]) -> Float32[Tensor, "n 2"]:
    """The centre of each map's mass, (y, x) in fractions of the sides from the upper left, in (0, 1); NaN if dead."""
    share = _shares(maps)
    return torch.stack([_mean(share.sum(2)), _mean(share.sum(1))], dim=1).float()


def centre_distance(maps: Float[Tensor, "n h w"]) -> Float32[Tensor, " n"]:
    """The distance of the centre of mass from the image's centre, sqrt((y - 1/2)^2 + (x - 1/2)^2), in [0, 0.71).

    In fractions of the image side, as `spread`. It is not a quality. It is 0 for a uniform map and for a point in the
    middle, so it is meaningful only together with `spread`.
    """
    return (centre(maps) - 0.5).norm(dim=1)


def dead_rate(maps: Float[Tensor, "n h w"]) -> Float32[Tensor, " n"]:
    """1 for a map that is zero everywhere, 0 for a live one, lower is better; never NaN. Its mean is the rate."""
    return (~live(maps)).float()


def uniform_map(h: int, w: int) -> Float32[Tensor, "{h} {w}"]:
    """A map without preference: ones everywhere."""
    return torch.ones(h, w)


def random_maps(
    n: int, grid: tuple[int, ...], size: tuple[int, int], generator: torch.Generator
) -> Float32[Tensor, "{n} {size[0]} {size[1]}"]:
    """Random maps of a layer with that `grid`: uniform noise in [0, 1), resized to `size`.

    They are on the generator's device. A generator on the CPU gives the same maps for every device.
    """
    return resize(torch.rand(n, *grid, generator=generator, device=generator.device), size)


def centre_blob(h: int, w: int) -> Float32[Tensor, "{h} {w}"]:
    """A map that expects objects in the middle: a Gaussian with a standard deviation of a quarter of each side."""
    y, x = (torch.arange(1 - side, side, 2) / (2 * side) for side in (h, w))  # pixel centres, measured from the middle
    squared = y[:, None] ** 2 + x[None, :] ** 2
    return torch.exp(-squared / (2 * 0.25**2))


def with_references(
    measure: Callable[[Tensor], Tensor], maps: Float[Tensor, "n h w"], grid: tuple[int, ...], generator: torch.Generator
) -> dict[str, Float32[Tensor, " n"]]:
    """The `measure` of the maps ("map"), of one random map of that `grid` per image ("random") and of `centre_blob`.

    The last one has the key "centre". `measure` takes only maps: `lambda maps: pixel_auc(maps, masks)`. The references
    are NaN where the map's value is NaN, so the three means are over the same images. There is only one random map per
    image: compare means, not images.
    """
    check_maps(maps)
    n, h, w = maps.shape
    values = measure(maps)
    references = {
        "random": random_maps(n, grid, (h, w), generator).to(maps.device),
        "centre": centre_blob(h, w).to(maps.device).expand(n, -1, -1),
    }
    return {"map": values} | {name: _where(~values.isnan(), measure(others)) for name, others in references.items()}


def check_maps(*several: Tensor) -> None:
    """Checks maps; raises ValueError unless all are `(n, h, w)` with the same shape."""
    first = several[0]
    for maps in several:
        if maps.ndim != 3:
            hint = "; take one layer, maps[i]" if maps.ndim == 4 else ""
            raise ValueError(f"maps must be (n, h, w), got {tuple(maps.shape)}{hint}")
        if maps.shape != first.shape:
            raise ValueError(f"maps of shapes {tuple(first.shape)} and {tuple(maps.shape)} cannot be compared")


def check_masks(maps: Tensor, masks: Tensor) -> None:
    """Checks masks; raises ValueError unless they are bool and have the shape of the maps."""
    check_maps(maps)
    if masks.dtype != torch.bool:
        raise ValueError(f"masks must be bool, True on the object, got {masks.dtype}; masks > 0 makes them so")
    if masks.shape != maps.shape:
        raise ValueError(f"masks must be {tuple(maps.shape)} like the maps, got {tuple(masks.shape)}")


def live(maps: Float[Tensor, "n h w"]) -> Bool[Tensor, " n"]:
    """Which maps are not zero everywhere."""
    check_maps(maps)
    return maps.amax((1, 2)) > 0


def ranks(maps: Float[Tensor, "n h w"]) -> Int[Tensor, "n h w"]:
    """The centred ranks of the pixels of each map: how many pixels are lower than this one minus how many are higher.

    Twice the usual rank minus its mean; equal pixels get their average rank. From 1 - h*w to h*w - 1, with sum 0.
    """
    pixels = maps.flatten(1).contiguous()
    ordered = pixels.sort(dim=1).values
    lower, not_higher = (torch.searchsorted(ordered, pixels, side=side) for side in ("left", "right"))
    return (lower + not_higher - pixels.shape[1]).view(maps.shape)


def top(maps: Float[Tensor, "n h w"], counts: Int[Tensor, " n"]) -> Float32[Tensor, "n h w"]:
    """The degree, in [0, 1], to which each pixel is among the highest of its map; those of map i sum to `counts[i]`.

    Without ties it is 1 or 0. Pixels that are equal to the lowest selected value share the remaining places evenly, so
    the order of pixels in memory does not matter.
    """
    pixels, counts = maps.flatten(1), counts[:, None]
    lowest = pixels.sort(dim=1, descending=True).values.gather(1, (counts - 1).clamp(min=0))
    above, equal = pixels > lowest, pixels == lowest
    room = (counts - above.sum(1, keepdim=True)) / equal.sum(1, keepdim=True)
    return (above + equal * room).view(maps.shape)


def _defined(maps: Tensor, masks: Tensor) -> Tensor:
    return live(maps) & masks.any((1, 2))


def _hot(maps: Tensor, threshold: float) -> Tensor:
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0 and at most 1, a share of each map's maximum, not {threshold}")
    return normalise(maps) >= threshold


def _shares(maps: Tensor) -> Tensor:
    """The maps scaled to sum 1; NaN for dead maps."""
    check_maps(maps)
    scaled = normalise(maps)
    return scaled / scaled.sum((1, 2), keepdim=True)


def _area(masks: Tensor) -> Tensor:
    return masks.float().mean((1, 2))


def _where(defined: Tensor, values: Tensor) -> Tensor:
    return torch.where(defined, values, torch.nan).float()


def _centres(count: int, device: torch.device) -> Tensor:
    """The centres of `count` pixels along a side of length 1."""
    return (torch.arange(count, device=device) + 0.5) / count


def _mean(shares: Tensor) -> Tensor:
    """The mean position of the mass along a side of length 1; `shares` is the mass of each pixel."""
    return (shares * _centres(shares.shape[1], shares.device)).sum(1)


def _variance(shares: Tensor) -> Tensor:
    """The variance of the mass along a side of length 1; `shares` is the mass of each pixel."""
    away = _centres(shares.shape[1], shares.device) - _mean(shares)[:, None]
    return (shares * away**2).sum(1)

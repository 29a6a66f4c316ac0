"""Does a map show what the model used? Removes or keeps pixels in the order of the map, and runs the model again.

Every function runs the model in eval mode, without gradients, `chunk` images at a time, and leaves it unchanged.
Results are float32, on the device of the images. A dead map (all zero) is missing evidence and gives NaN: average with
`nanmean`.

All these measures show the model images of a kind that it has never seen. Its output depends on how removed pixels are
filled (`Remove`) and on its training: a model trained with holes (Cutout) is used to holes. So these numbers can rank
the maps of one model. Between models the problem remains, also for `deletion_margin`, where it is smaller.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Float32, Int
from torch import Tensor, nn
from torch.nn import functional as F

from cam_core.maps import normalise
from cam_core.models import device_of
from cam_core.outputs import logits_in
from cam_core.quality import live, random_maps
from cam_core.state import undisturbed
from cam_core.targets import scores

NEIGHBOURS = ((1 / 12, 1 / 6, 1 / 12), (1 / 6, 0.0, 1 / 6), (1 / 12, 1 / 6, 1 / 12))
"""The weight of each neighbour of a removed pixel in ROAD's imputation."""

COARSEST = 32
"""The shorter side up to which imputation starts from the mean colour of the image."""

RESIDUAL = 1e-4
"""Imputation stops at this residual of the equations, relative to the image.

The largest error is then one to three 8-bit steps in images of 32 pixels, and up to ten in large holes at 128 pixels.
"""

Remove = Callable[[Float[Tensor, "n c h w"], Bool[Tensor, "n h w"]], Float[Tensor, "n c h w"]]
"""A way to remove pixels: gives new images with the pixels under the mask replaced and the others unchanged."""


@dataclass(frozen=True)
class Curve:
    """The probability of the class in each image while pixels are removed (or inserted).

    `fractions` of the pixels, from 0 to 1, have been removed (inserted) at each point; a dead map's row is NaN.
    """

    fractions: Float32[Tensor, " points"]
    probabilities: Float32[Tensor, "n points"]

    @property
    def auc(self) -> Float32[Tensor, " n"]:
        """The area under each image's curve by the trapezoid rule, in [0, 1]: the mean probability over the curve."""
        return torch.trapezoid(self.probabilities, self.fractions, dim=1)


def mean_fill(images: Float[Tensor, "n c h w"], removed: Bool[Tensor, "n h w"]) -> Float[Tensor, "n c h w"]:
    """The images with each removed pixel in the mean colour of its own image.

    Flat holes have a shape, and the shape can reveal the class: for drawn objects the silhouette alone was enough. In
    addition, a model trained with flat holes is used to them.
    """
    return torch.where(removed[:, None], images.mean((2, 3), keepdim=True), images)


def colour_fill(colour: Float[Tensor, " c"]) -> Remove:
    """Replaces removed pixels by this colour, on the scale of the model's input; RISE uses zeros for deletion.

    After the usual normalisation, zeros are the mean colour of the data set. Misleads in the same way as `mean_fill`.
    """

    def fill(images: Tensor, removed: Tensor) -> Tensor:
        return torch.where(removed[:, None], colour.to(images)[:, None, None], images)

    return fill


def blur_fill(
    images: Float[Tensor, "n c h w"], removed: Bool[Tensor, "n h w"], *, sigma: float = 5.0
) -> Float[Tensor, "n c h w"]:
    """The images with each removed pixel taken from the blurred image, from which RISE's insertion starts.

    A Gaussian with standard deviation `sigma` pixels, cut off at `sigma`: 11 x 11 pixels for RISE's 5 (Petsiuk et al.,
    BMVC 2018). Edges are repeated outside. The blurred image contains blurred evidence, which makes it weak for
    deletion.
    """
    radius = math.ceil(sigma)
    offsets = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = (-(offsets**2) / (2 * sigma**2)).exp()
    kernel = kernel / kernel.sum()
    padded = F.pad(images, (radius, radius, radius, radius), mode="replicate").flatten(0, 1)[:, None]
    blurred = F.conv2d(F.conv2d(padded, kernel[None, None, None, :]), kernel[None, None, :, None])
    return torch.where(removed[:, None], blurred.view_as(images), images)


def inpaint(images: Float[Tensor, "n c h w"], removed: Bool[Tensor, "n h w"]) -> Float[Tensor, "n c h w"]:
    """The images with each removed pixel as the weighted mean of its eight neighbours, which may be removed too.

    ROAD's linear imputation (Rong et al., ICML 2022): a hole is filled smoothly from its rim, so its shape reveals
    little. Neighbours at an edge have weight 1/6, at a corner 1/12; those outside the image do not count. The equations
    are solved for all images at once by conjugate gradients, with one depthwise convolution per iteration. Images above
    `COARSEST` pixels start from the solution at half their size (nested iteration, a part of multigrid). An image that
    is removed as a whole becomes its own mean colour. Scattered pixels are restored nearly perfectly, so
    `deletion_margin` compares with patches.
    """
    hole = removed[:, None].to(images)
    weights = _of_neighbours(torch.ones_like(images[:1, :1]))

    def imbalance(values: Tensor) -> Tensor:
        return (weights * values - _of_neighbours(values)) * hole

    filled = _first_guess(images, removed)
    rest = -imbalance(filled)
    direction, size = rest, _energy(rest)
    enough = RESIDUAL**2 * _energy(images)
    for _ in range(4 * max(images.shape[2:])):
        active = size > enough  # each image and channel is independent of the others in the batch
        if not active.any():
            break
        change = imbalance(direction)
        step = torch.where(active, size / (direction * change).sum((2, 3), keepdim=True), 0.0)
        filled, rest = filled + step * direction, rest - step * change
        before, size = size, _energy(rest)
        direction = rest + torch.where(active, size / before, 0.0) * direction
    return filled


def _first_guess(images: Tensor, removed: Tensor) -> Tensor:
    """The solution for half the size, enlarged; for small images the mean colour."""
    means = mean_fill(images, removed)
    if min(images.shape[2:]) <= COARSEST:
        return means
    kept = (~removed)[:, None].to(images)
    half = partial(F.avg_pool2d, kernel_size=2, ceil_mode=True, count_include_pad=False)
    share = half(kept)
    coarse = torch.where(share > 0, half(images * kept) / share.clamp(min=0.25), half(means))
    smooth = F.interpolate(inpaint(coarse, share[:, 0] == 0), images.shape[2:], mode="bilinear")
    return torch.where(removed[:, None], smooth, images)


def noisy_inpaint(
    images: Float[Tensor, "n c h w"],
    removed: Bool[Tensor, "n h w"],
    *,
    generator: torch.Generator,
    noise: float = 0.01,
) -> Float[Tensor, "n c h w"]:
    """As `inpaint`, plus Gaussian noise with standard deviation `noise`, on the scale of the model's input.

    This is ROAD as published, because smooth patches can be recognised. Give the generator with `functools.partial`.
    """
    normal = torch.randn(images.shape, generator=generator, device=generator.device).to(images)
    return inpaint(images, removed) + noise * normal * removed[:, None]


def deletion(
    model: nn.Module,
    images: Float[Tensor, "n c h w"],
    maps: Float[Tensor, "n h w"],
    classes: Int[Tensor, " n"],
    *,
    steps: int = 10,
    remove: Remove = inpaint,
    seed: int = 0,
    chunk: int = 64,
) -> Curve:
    """The curve of each class's probability while pixels are removed, the map's highest first; a low area is good.

    Petsiuk et al., RISE, BMVC 2018, who fill with zero; here the default is `inpaint`. `maps` are non-negative and have
    the size of the images. Equal values, which are frequent after the ReLU, are in a random order drawn from `seed`.
    Takes `steps` + 1 forward passes per image, including the unchanged image.

    Raises ValueError for shapes that do not fit together, non-finite maps, a class that the model does not have, steps
    that are not between 1 and the number of pixels, and a chunk below 1.
    """
    return _curve(model, images, maps, classes, torch.lt, steps, remove, seed, chunk)


def insertion(
    model: nn.Module,
    images: Float[Tensor, "n c h w"],
    maps: Float[Tensor, "n h w"],
    classes: Int[Tensor, " n"],
    *,
    steps: int = 10,
    remove: Remove = blur_fill,
    seed: int = 0,
    chunk: int = 64,
) -> Curve:
    """The curve of each class's probability while pixels are put back, the map's highest first; a high area is good.

    Petsiuk et al., RISE, BMVC 2018: starts with all pixels removed, which by default gives the blurred image, as in the
    paper. Everything else is as in `deletion`.
    """
    return _curve(model, images, maps, classes, torch.ge, steps, remove, seed, chunk)


def deletion_margin(
    model: nn.Module,
    images: Float[Tensor, "n c h w"],
    maps: Float[Tensor, "n h w"],
    classes: Int[Tensor, " n"],
    grid: tuple[int, ...],
    *,
    steps: int = 10,
    remove: Remove = inpaint,
    seed: int = 0,
    chunk: int = 64,
) -> Float32[Tensor, " n"]:
    """The deletion area of a random map minus that of the map, in [-1, 1]; 0 = as a random map, higher is better.

    How fast a probability falls depends on the model as much as on the map: a model trained with Cutout has seen holes,
    so its probability falls slowly for a random order too. A random map of the same model has the same effect, and the
    difference removes it. So this margin, but not the area, may be shown for two models together, with a fill that
    neither was trained with. It still does not rank models: the margin is large if the evidence is concentrated, on the
    object or on a shortcut.

    The random map comes from `random_maps` with the maps' own `grid` (rows, columns), so it removes patches as the map
    does. Random single pixels would be restored by `inpaint`, and then any patches would seem faithful. Takes
    2 (`steps` + 1) forward passes per image. It is noisy for one image: average over many.
    """
    _check(images, maps, classes, chunk)
    n, h, w = maps.shape
    chance = random_maps(n, grid, (h, w), torch.Generator().manual_seed(seed))
    own, random = (
        deletion(model, images, some, classes, steps=steps, remove=remove, seed=seed, chunk=chunk).auc
        for some in (maps, chance)
    )
    return random - own


def masked_confidence(
    model: nn.Module,
    images: Float[Tensor, "n c h w"],
    maps: Float[Tensor, "n h w"],
    classes: Int[Tensor, " n"],
    *,
    chunk: int = 64,
) -> tuple[Float32[Tensor, " n"], Float32[Tensor, " n"]]:
    """The probability of the class in each image, and in the image times its map; input of the three measures below.

    The map is divided by its maximum. Where it is 0 the product is 0, which after the usual normalisation is the mean
    colour of the data set (Chattopadhay et al., WACV 2018). The second probability is NaN for a dead map. Takes two
    forward passes per image; raises as `deletion`.
    """
    _check(images, maps, classes, chunk)
    device = device_of(model, images)
    with undisturbed(model, device), torch.no_grad():
        found = [
            (_confidence(model, some, labels), _confidence(model, some * mask[:, None].to(some), labels))
            for some, mask, labels in _chunks(device, chunk, images, normalise(maps), classes)
        ]
    full, masked = (torch.cat(parts).to(images.device) for parts in zip(*found, strict=True))
    return full, _of_live(maps, masked)


def average_drop(full: Float[Tensor, " n"], masked: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The share of each image's confidence that is lost by masking, max(0, p - p_masked) / p, in [0, 1], low is good.

    Chattopadhay et al., WACV 2018, who give the mean in per cent. The arguments are the results of `masked_confidence`;
    0 if p is 0. A map of ones loses nothing, so a map that is high everywhere gets the best value: never rank models
    by this measure, and never rank maps by it alone.
    """
    return torch.where(full > 0, (full - masked).relu() / full, masked * 0)


def increase_in_confidence(full: Float[Tensor, " n"], masked: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """1 for each image for which masking increases the confidence, p < p_masked, else 0; higher is better.

    Chattopadhay et al., WACV 2018, as a percentage of images. The size of the increase does not count, so a map close
    to one everywhere that removes very little can get the best value: never rank models by it. `average_gain` was
    proposed to replace it.
    """
    return torch.where(masked.isnan(), torch.nan, (full < masked).to(full))


def average_gain(full: Float[Tensor, " n"], masked: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """The share of the missing confidence that masking adds, max(0, p_masked - p) / (1 - p), in [0, 1]; high is good.

    Zhang et al., Opti-CAM, arXiv:2301.07002: the counterpart of `average_drop`; read both together. 0 for a map of
    ones, and if p is 1, where no gain is possible. A map that was optimised for this measure can get a high value
    without showing any evidence: never rank models by it.
    """
    return torch.where(full < 1, (masked - full).relu() / (1 - full), masked * 0)


def _curve(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    classes: Tensor,
    is_removed: Callable[[Tensor, int], Tensor],
    steps: int,
    remove: Remove,
    seed: int,
    chunk: int,
) -> Curve:
    """The curve; `is_removed(ranks, count)` tells which pixels are missing after the first `count` pixels."""
    _check(images, maps, classes, chunk)
    pixels = maps[0].numel()
    if not 1 <= steps <= pixels:
        raise ValueError(f"steps must be between 1 and the {pixels} pixels of an image, got {steps}")
    counts = [(2 * k * pixels + steps) // (2 * steps) for k in range(steps + 1)]
    device = device_of(model, images)
    with undisturbed(model, device), torch.no_grad():
        parts = [
            torch.stack(
                [_confidence(model, _without(some, is_removed(ranks, count), remove), labels) for count in counts], 1
            )
            for some, ranks, labels in _chunks(device, chunk, images, _ranks(maps, seed), classes)
        ]
    probabilities = torch.cat(parts).to(images.device)
    return Curve(torch.tensor(counts, device=images.device) / pixels, _of_live(maps, probabilities))


def _ranks(maps: Tensor, seed: int) -> Int[Tensor, "n h w"]:
    """The position of each pixel in the order of its map, 0 for the highest; equal values are in random order."""
    flat = maps.flatten(1)
    shuffled = torch.rand(flat.shape, generator=torch.Generator().manual_seed(seed)).argsort(1).to(maps.device)
    order = shuffled.gather(1, flat.gather(1, shuffled).argsort(dim=1, descending=True, stable=True))
    return order.argsort(1).view(maps.shape)


def _without(images: Tensor, removed: Tensor, remove: Remove) -> Tensor:
    """The images after removal, computed at least in float32, also under autocast."""
    with torch.autocast(images.device.type, enabled=False):
        return remove(images.to(torch.promote_types(images.dtype, torch.float32)), removed).to(images.dtype)


def _confidence(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """The probability of the class of each image."""
    # A copy, because some models change their input in place.
    logits = logits_in(model(images.clone()), None)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        got = tuple(logits.shape) if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise ValueError(f"the model must return logits ({len(images)}, classes), got {got}")
    return scores(classes, logits.float().softmax(1))


def _chunks(device: torch.device, size: int, *tensors: Tensor) -> Iterator[list[Tensor]]:
    """The tensors in parallel, `size` images at a time, on the device."""
    for some in zip(*(torch.split(tensor, size) for tensor in tensors), strict=True):
        yield [part.to(device) for part in some]


def _of_live(maps: Tensor, values: Tensor) -> Tensor:
    """The values of each image, NaN where its map is dead."""
    alive = live(maps).to(values.device)
    return torch.where(alive.view(-1, *[1] * (values.ndim - 1)), values, torch.nan)


def _of_neighbours(values: Tensor) -> Tensor:
    """The weighted sum of each pixel's neighbours; the sum of weights is 1 away from the border."""
    channels = values.shape[1]
    kernel = values.new_tensor(NEIGHBOURS).expand(channels, 1, 3, 3)
    return F.conv2d(values, kernel, padding=1, groups=channels)


def _energy(values: Tensor) -> Tensor:
    return (values**2).sum((2, 3), keepdim=True)


def _check(images: Tensor, maps: Tensor, classes: object, chunk: int) -> None:
    if images.ndim != 4 or not images.is_floating_point() or len(images) == 0:
        raise ValueError(f"images must be floats (n, channels, h, w), n > 0, got {images.dtype} {tuple(images.shape)}")
    if not images.isfinite().all():
        raise ValueError("images contain NaN or infinity; leave out those images")
    n, h, w = len(images), images.shape[2], images.shape[3]
    if maps.shape != (n, h, w):
        raise ValueError(f"maps must be ({n}, {h}, {w}) like the images, got {tuple(maps.shape)}; use resize")
    if not maps.isfinite().all() or maps.min() < 0:
        raise ValueError("maps contain NaN, infinity or negative values; give maps as `cams` makes them")
    if not isinstance(classes, Tensor):
        raise TypeError(f"classes must be a tensor of one class per image, got {type(classes).__name__}")
    if classes.shape != (n,) or classes.is_floating_point():
        raise ValueError(
            f"classes must be {n} whole numbers, one per image, got {classes.dtype} {tuple(classes.shape)}"
        )
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1 image, got {chunk}")

"""Draws a map, or the difference of two maps, over its image with a fixed scale of colours.

Maps are drawn as multiples of their own mean (`cam_core.maps.relative_to_mean`): 0 = nothing, 1 = like a uniform map,
up to `SCALE_MAX` and more. Equal colours mean equal numbers in every picture; the scale never depends on the picture.
"""

import math
from collections.abc import Mapping
from functools import cache

import numpy as np
from jaxtyping import Float32, UInt8
from torch import Tensor

SCALE_MAX = 4.0
"""The map value, in multiples of the map's mean, at and above which the top colour is used."""

DIFFERENCE_MAX = 2.0
"""The difference of two maps, in multiples of their means, at and above which the end colour is used."""

OPACITY = 0.7
"""The opacity of the colour at the top of the scale; below, it is in proportion to the value."""

COLOUR_MAPS = ("inferno", "magma", "viridis", "cividis", "jet")
"""The colour scales by name. All except jet are perceptually uniform: equal steps of the map look equally large."""

# Both have the same lightness, so neither sign looks stronger, and colour-blind readers can tell them apart.
LESS, MORE = (10, 130, 235), (217, 92, 0)
GREY = 128  # the background under the colours of a bar
BAR, TICKS_AT, CAPTION = 128, 25, 13


def overlay(
    image: np.ndarray | Tensor,
    map_: np.ndarray | Tensor,
    *,
    scale_max: float = SCALE_MAX,
    colours: str = "inferno",
) -> UInt8[np.ndarray, "h w 3"]:
    """The RGB image with the map's colours over it, with an opacity in proportion to the map's value.

    `image` is what `photo` takes: uint8 or floats in [0, 1], `(h, w, 3)`, `(3, h, w)` or grey; `map_` is `(h, w)`.

    `map_` is relative to its mean, as `relative_to_mean` makes it; a map in [0, 1] would hardly be visible. Where the
    map is 0, the image is unchanged. Towards 1 the image's own colours fade to grey, so above 1 every hue comes from
    the map. At `scale_max` and above the top colour is used, at `OPACITY`. A pixel depends on its own value only.
    `colours` is one of `COLOUR_MAPS`.

    Raises ValueError if image and map differ in size, the map is not finite, the scale is not positive or the colours
    are unknown.
    """
    image, map_ = photo(image), _values(map_)
    _check_size(image, map_)
    share = _share(map_, 0.0, scale_max)
    return _blended(image, map_, share, _coloured(share, colours))


def difference_overlay(
    image: np.ndarray | Tensor, difference: np.ndarray | Tensor, *, scale_max: float = DIFFERENCE_MAX
) -> UInt8[np.ndarray, "h w 3"]:
    """The RGB image with the difference of two maps over it: orange where it is positive, blue where it is negative.

    `difference` is one map minus another, both relative to their mean. Where it is 0, the image is unchanged. Towards 1
    and -1 the image's own colours fade to grey, and beyond `scale_max` and -`scale_max` the opacity is `OPACITY`. The
    opposite difference has the other colour with the same opacity and lightness. A pixel depends on its own value only.
    Give a grey image if its own orange and blue could be mistaken for small differences. Raises ValueError as `overlay`
    does.
    """
    image, difference = photo(image), _values(difference)
    _check_size(image, difference)
    share = _share(difference, -scale_max, scale_max)
    return _blended(image, np.abs(difference), np.abs(share), np.where(share[..., None] < 0, LESS, MORE))


def heat(
    map_: Float32[np.ndarray, "h w"], *, scale_max: float = SCALE_MAX, colours: str = "inferno"
) -> UInt8[np.ndarray, "h w 3"]:
    """The map alone in RGB, each value in its colour; `map_` is relative to its mean."""
    return _coloured(_share(map_, 0.0, scale_max), colours)


def colour_bar(
    height: int = 200, *, scale_max: float = SCALE_MAX, colours: str = "inferno"
) -> UInt8[np.ndarray, "h w 3"]:
    """The scale of `overlay` over grey, `height` pixels tall, with a heading and a tick at each whole number.

    Raises ValueError if the height is too small for the ticks, and as `overlay` does.
    """
    grey, ramp = _ramp(height, 0.0, scale_max)
    ticks = _ticks(scale_max) | {0.0: "0 = image"}
    return _bar("map ÷ its mean", overlay(grey, ramp, scale_max=scale_max, colours=colours), ticks)


def heat_bar(
    height: int = 200, *, scale_max: float = SCALE_MAX, colours: str = "inferno"
) -> UInt8[np.ndarray, "h w 3"]:
    """The scale of `heat`, like `colour_bar` for `overlay`."""
    _, ramp = _ramp(height, 0.0, scale_max)
    return _bar("map ÷ its mean", heat(ramp, scale_max=scale_max, colours=colours), _ticks(scale_max))


def difference_bar(height: int = 200, *, scale_max: float = DIFFERENCE_MAX) -> UInt8[np.ndarray, "h w 3"]:
    """The scale of `difference_overlay` over grey, like `colour_bar` for `overlay`."""
    grey, ramp = _ramp(height, -scale_max, scale_max)
    ticks = {0.0: "0 = image", scale_max: f"+{scale_max:.3g} or more", -scale_max: f"−{scale_max:.3g} or less"}
    for tick in range(1, int(scale_max)):
        ticks |= {float(tick): f"+{tick}", -float(tick): f"−{tick}"}
    return _bar("difference", difference_overlay(grey, ramp, scale_max=scale_max), ticks)


def enlarge(image: UInt8[np.ndarray, "h w 3"], factor: int) -> UInt8[np.ndarray, "h*{factor} w*{factor} 3"]:
    """The image `factor` times as large, each pixel a square, without any new colour."""
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def _share(values: Float32[np.ndarray, "h w"], low: float, high: float) -> Float32[np.ndarray, "h w"]:
    """The values as a share of the scale's upper end `high`, clipped to the scale."""
    _check_scale(high)
    if not np.isfinite(values).all():
        raise ValueError("map_ contains NaN or infinity; a dead map must be all zero")
    return np.clip(values, np.float32(low), np.float32(high)) / np.float32(high)


def photo(image: np.ndarray | Tensor) -> UInt8[np.ndarray, "h w 3"]:
    """A picture as people have it as RGB pixels: uint8, or floats in [0, 1]; height and width first or channels first.

    Grey pictures `(h, w)`, `(h, w, 1)` and `(1, h, w)` become RGB, and the fourth channel of RGBA is left out. Raises
    TypeError for something else than an array or a tensor, ValueError for other shapes, and for floats outside [0, 1].
    """
    if not isinstance(image, np.ndarray | Tensor):
        raise TypeError(f"image must be a numpy array or a tensor, got {type(image).__name__}")
    pixels: np.ndarray = image.detach().cpu().numpy() if isinstance(image, Tensor) else image
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim == 3 and pixels.shape[-1] not in (1, 3, 4) and pixels.shape[0] in (1, 3, 4):
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3, 4):
        raise ValueError(f"image must be RGB or grey pixels (h, w, 3), (3, h, w) or (h, w), got {tuple(image.shape)}")
    pixels = np.ascontiguousarray(np.broadcast_to(pixels[..., :3], (*pixels.shape[:2], 3)))
    return pixels if pixels.dtype == np.uint8 else _eight_bits(pixels)


def _eight_bits(pixels: np.ndarray) -> UInt8[np.ndarray, "h w 3"]:
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(f"image must be uint8 or floats in [0, 1], got {pixels.dtype}")
    if not (pixels.min(initial=0) >= 0 and pixels.max(initial=0) <= 1):
        raise ValueError(
            f"image must have floats in [0, 1], got {pixels.min():.3g} to {pixels.max():.3g}; give the picture from "
            "before the normalisation, or divide by 255"
        )
    return np.rint(pixels.astype(np.float64) * 255).astype(np.uint8)


def _values(map_: np.ndarray | Tensor) -> Float32[np.ndarray, "h w"]:
    values = map_.detach().cpu().numpy() if isinstance(map_, Tensor) else np.asarray(map_)
    return values.astype(np.float32, copy=False)


def _check_size(image: np.ndarray, map_: np.ndarray) -> None:
    if image.shape[:2] != map_.shape:
        raise ValueError(f"image is {image.shape[:2]} and map_ {map_.shape}; resize the map to the image first")


def check_photo(name: str, photo: object, dimensions: int) -> None:
    """Checks an RGB picture; raises TypeError or ValueError unless it is uint8 with `dimensions` dimensions."""
    if not isinstance(photo, np.ndarray):
        raise TypeError(f"{name} must be a numpy array of uint8, got {type(photo).__name__}")
    if photo.dtype != np.uint8 or photo.ndim != dimensions or photo.shape[-1] != 3:
        shape = "(n, h, w, 3)" if dimensions == 4 else "(h, w, 3)"
        raise ValueError(f"{name} must be RGB pixels, uint8 {shape}, got {photo.dtype} {photo.shape}")


def _check_scale(scale_max: float) -> None:
    if not 0 < scale_max < math.inf:
        raise ValueError(f"scale_max must be above 0 and finite, got {scale_max}")


def _blended(
    image: UInt8[np.ndarray, "h w 3"],
    strength: Float32[np.ndarray, "h w"],
    share: Float32[np.ndarray, "h w"],
    colours: np.ndarray,
) -> UInt8[np.ndarray, "h w 3"]:
    """The image, faded to grey where `strength` is close to 1, under the colours with opacity `share`, in [0, 1]."""
    import cv2

    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    faded = image + np.clip(strength, 0, 1)[..., None] * (grey.astype(np.float32) - image)
    opacity = OPACITY * share[..., None]
    blended: np.ndarray = np.rint((1 - opacity) * faded + opacity * colours).astype(np.uint8)
    return blended


@cache
def _table(name: str) -> UInt8[np.ndarray, "256 3"]:
    """The colour table with this name, from the value 0 to the top of the scale."""
    if name not in COLOUR_MAPS:
        raise ValueError(f"colours {name!r} are unknown; use one of {', '.join(COLOUR_MAPS)}")
    import cv2  # here, because it takes longer to import than the rest of cam_core

    scale = getattr(cv2, f"COLORMAP_{name.upper()}")
    table: np.ndarray = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], scale)[:, 0, ::-1]
    return table.copy()


def _coloured(share: Float32[np.ndarray, "h w"], name: str) -> UInt8[np.ndarray, "h w 3"]:
    colours: np.ndarray = _table(name)[np.rint(share * 255).astype(np.uint8)]
    return colours


def _ticks(scale_max: float) -> dict[float, str]:
    """The labels at the whole numbers of a scale and at its end."""
    ticks = {float(tick): str(tick) for tick in range(max(1, int(scale_max)))}
    if 1.0 in ticks:
        ticks[1.0] = "1 = even"
    return ticks | {scale_max: f"{scale_max:.3g} or more"}


def _ramp(height: int, low: float, high: float) -> tuple[UInt8[np.ndarray, "n 1 3"], Float32[np.ndarray, "n 1"]]:
    """The coloured part of a bar of that height: its grey background and the values from top to bottom."""
    _check_scale(high)
    from cam_core.text import line_height

    line = line_height(CAPTION)
    needed = math.ceil(line * (max(1, high - low) + 2))
    if height < needed:
        raise ValueError(f"height must be at least {needed} pixels, got {height}")
    length = height - 2 * line
    return np.full((length, 1, 3), GREY, np.uint8), np.linspace(high, low, length, dtype=np.float32)[:, None]


def _bar(heading: str, ramp: UInt8[np.ndarray, "n 1 3"], ticks: Mapping[float, str]) -> UInt8[np.ndarray, "h w 3"]:
    """The ramp under a heading, with ticks at these values, the highest at the top of the ramp."""
    from cam_core.text import INK, line_height, written  # here, because only pages need fonts

    line, high, low = line_height(CAPTION), max(ticks), min(ticks)
    page = np.full((len(ramp) + 2 * line, BAR, 3), 255, np.uint8)
    page[:line] = written(heading, BAR, CAPTION, align=0.0)
    top = line + line // 2
    page[top : top + len(ramp), : TICKS_AT - 7] = ramp
    for value, text in ticks.items():
        y = top + round((len(ramp) - 1) * (high - value) / (high - low))
        page[y, TICKS_AT - 7 : TICKS_AT - 3] = INK
        page[y - line // 2 :, TICKS_AT:][:line] = written(text, BAR - TICKS_AT, CAPTION, align=0.0)
    return page

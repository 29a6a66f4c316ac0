"""Pages of maps with one row per image: the layers of a network, several methods, or several models side by side.

Every map is divided by its own mean and drawn on the scale of `overlay`. It is never scaled by its own maximum, so
equal colours mean equal shares of a map in every column and on every page. Maps may be on any device.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import cv2
import numpy as np
from jaxtyping import Float32, UInt8

from cam_core.engine import Cams
from cam_core.maps import relative_to_mean
from cam_core.overlay import check_photo, colour_bar, difference_bar, difference_overlay, overlay
from cam_core.page import ROW_GAP, Tile, grid

NO_EVIDENCE = "no positive evidence"
"""The text below a dead map: nothing at this layer raised the score."""

NO_DIFFERENCE = "undefined: a map is dead"
"""The text in a column of differences if one of the maps shows no positive evidence."""

EXPLAINED = "Colour: the map divided by its mean, 1 = no preference."
TILE, LARGEST_TILE = 128, 256  # the longer side of an image on the page in pixels, at least and at most
BAR = 160

Images = UInt8[np.ndarray, "n h w 3"]
Maps = Float32[np.ndarray, "n h w"]
Page = UInt8[np.ndarray, "page_h page_w 3"]
Bar = Callable[..., UInt8[np.ndarray, "bar_h bar_w 3"]]


def layer_strips(
    images: Images, found: Cams, *, labels: Sequence[str] = (), title: str = "", colours: str = "inferno"
) -> Page:
    """A page with a row per image: the image, then its map at every layer.

    `images` are RGB with the size of the maps; `labels` are written to the left of the rows. A dead map is marked.
    Raises ValueError if images, maps and labels do not fit together, or `colours` is not a key of `COLOUR_MAPS`.
    """
    maps = {layer: _drawn(images, found, layer) for layer in found.layers}
    return _page(images, maps, {}, labels, title, f"Method: {found.method}.", colours)


def method_strips(
    images: Images,
    by_method: Mapping[str, Cams],
    layer: str,
    *,
    labels: Sequence[str] = (),
    title: str = "",
    colours: str = "inferno",
) -> Page:
    """A page with a row per image: the image, then the map of every method at that layer.

    `by_method` is the result of `cams_of_methods`; its keys are the column headings. Otherwise as `layer_strips`.
    """
    maps = {name: _drawn(images, found, layer) for name, found in by_method.items()}
    return _page(images, maps, {}, labels, title, f"Layer: {layer}.", colours)


def side_by_side(
    images: Images,
    by_model: Mapping[str, Cams],
    layer: str,
    *,
    labels: Sequence[str] = (),
    title: str = "",
    colours: str = "inferno",
) -> Page:
    """A page with a row per image: the image, then the map of every model at that layer, all with the same method.

    The keys of `by_model` are the column headings. Two models get one more column, the second map minus the first, with
    its own scale. Otherwise as `layer_strips`.
    """
    methods = sorted({found.method for found in by_model.values()})
    if len(methods) > 1:
        raise ValueError(f"by_model mixes the methods {', '.join(methods)}; compare models with one method")
    maps = {name: _drawn(images, found, layer) for name, found in by_model.items()}
    footer = f"Method: {', '.join(methods)}. Layer: {layer}."
    return _page(images, maps, difference_column(images, maps), labels, title, footer, colours)


def _page(
    images: Images,
    maps: Mapping[str, Maps],
    differences: Mapping[str, Sequence[Tile]],
    labels: Sequence[str],
    title: str,
    footer: str,
    colours: str,
) -> Page:
    if not maps:
        raise ValueError("there is no map to draw; give at least one layer, method or model")
    pictures = [Tile(image) for image in images]
    columns = {name: map_tiles(images, some, colours) for name, some in maps.items()}
    footer = f"{footer} {EXPLAINED}"
    return sheet(pictures, columns, differences, labels=labels, title=title, footer=footer, colours=colours)


def sheet(
    images: Sequence[Tile],
    columns: Mapping[str, Sequence[Tile]],
    differences: Mapping[str, Sequence[Tile]] | None = None,
    *,
    labels: Sequence[str] = (),
    title: str = "",
    footer: str = "",
    colours: str = "inferno",
    bar: Bar = colour_bar,
) -> Page:
    """A page of tiles, one row per image: the image, its tile in each column, and in each column of differences.

    The other functions here use it to make their pages. Use it for tiles with your own captions (see `map_tiles` and
    `difference_column`). `colours` are the colours of the tiles in `columns`, and `bar` draws their scale: `heat_bar`
    for maps without images.
    """
    if labels and len(labels) != len(images):
        raise ValueError(f"labels has {len(labels)} texts for {len(images)} images")
    every = {**columns, **(differences or {})}
    return grid(
        list(zip(images, *every.values(), strict=True)),
        row_labels=labels,
        column_labels=["image", *every],
        title=title,
        footer=footer,
        bar=scales(bar(BAR, colours=colours), with_differences=bool(differences)),
        tile_size=_tile_size(images),
    )


def scales(bar: UInt8[np.ndarray, "bar_h bar_w 3"], *, with_differences: bool) -> UInt8[np.ndarray, "all_h all_w 3"]:
    """The scale of the maps, and below it that of their differences."""
    bars = [bar, difference_bar(BAR)] if with_differences else [bar]
    return np.concatenate([np.pad(one, ((0, ROW_GAP), (0, 0), (0, 0)), constant_values=255) for one in bars])


def _tile_size(tiles: Sequence[Tile]) -> int:
    """The longer side of the largest image on the page, if possible a whole multiple, so that pixels stay squares."""
    longest = max((max(tile.image.shape[:2]) for tile in tiles), default=TILE)
    return min(LARGEST_TILE, longest * math.ceil(TILE / longest))


def map_tiles(images: Images, maps: Maps, colours: str = "inferno") -> list[Tile]:
    """Each map over its image; `maps` are relative to their mean. A dead map is marked."""
    return [
        Tile(overlay(image, map_, colours=colours), "" if map_.any() else NO_EVIDENCE)
        for image, map_ in zip(images, maps, strict=True)
    ]


def difference_column(images: Images, maps: Mapping[str, Maps]) -> dict[str, list[Tile]]:
    """One column: the second map minus the first over each grey image, by its heading; empty unless there are two maps.

    `maps` are relative to their mean. If one of the two is dead, the tile shows no difference.
    """
    if len(maps) != 2:
        return {}
    (name, first), (other_name, second) = maps.items()
    both = np.any(first, (1, 2)) & np.any(second, (1, 2))
    differences = np.where(both[:, None, None], second - first, np.float32(0))
    tiles = [
        Tile(difference_overlay(_grey(image), difference), "" if live else NO_DIFFERENCE)
        for image, difference, live in zip(images, differences, both, strict=True)
    ]
    return {f"{other_name} − {name}": tiles}


def _grey(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    """The image without colours, so that every colour over it shows a difference."""
    return cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB).astype(np.uint8)


def _drawn(images: Images, found: Cams, layer: str) -> Maps:
    """The maps at that layer, each relative to its mean."""
    check_photo("images", images, 4)
    if layer not in found.layers:
        raise ValueError(f"layer {layer!r} has no maps; choose one of {', '.join(found.layers)}")
    size, wanted = tuple(found.maps.shape[1:]), images.shape[:3]
    if size != wanted:
        raise ValueError(
            f"images is {wanted} and the maps are {size} (n, height, width); give the images that were explained"
        )
    return relative_to_mean(found.maps[found.layers.index(layer)]).cpu().numpy()

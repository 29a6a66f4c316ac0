"""The pictures: each function takes arrays and returns one picture, uint8 `(height, width, 3)`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8

from cam_core import Tile, colour_bar, energy_inside, grid, heat, heat_bar, overlay
from cam_core.sheets import EXPLAINED as COLOURS_EXPLAINED
from cam_core.sheets import NO_EVIDENCE, TILE, difference_column, map_tiles, sheet

from ..training.predictions import Predictions
from .style import Images, Pixels

Tiles = Callable[[Images, Float32[np.ndarray, "n h w"]], list[Tile]]
CELL = 160  # side of the image in a cell of MLflow's grid, which shows about 200 pixels, so the text stays legible
EXPLAINED = (
    f"Left: the true class, which is explained. Below a picture: the prediction of the network. {COLOURS_EXPLAINED}"
)


PREDICTED_EXPLAINED = (
    "Left: the true class. Below a picture: the prediction of the network, which is the class that is explained here. "
    f"{COLOURS_EXPLAINED}"
)


@dataclass(frozen=True)
class Verdict:
    """The prediction of a network for an image, as a caption, and whether it is right."""

    caption: str
    verdict: Literal["right", "wrong"]

    def tile(self, image: UInt8[np.ndarray, "h w 3"], note: str = "") -> Tile:
        """The image with the prediction below it, and the note below the prediction."""
        return Tile(image, f"{self.caption}\n{note}".strip(), self.verdict)


def verdicts(predictions: Predictions, indices: Int64[np.ndarray, "m"], classes: Sequence[str]) -> list[Verdict]:
    """The predicted class of each image and its probability."""
    probabilities, predicted, right = predictions.probabilities, predictions.classes, predictions.right
    return [
        Verdict(f"{classes[predicted[i]]} {probabilities[i, predicted[i]]:.0%}", "right" if right[i] else "wrong")
        for i in indices
    ]


def notes(maps: Float32[np.ndarray, "n h w"], masks: Bool[np.ndarray, "n h w"] | None = None) -> list[str]:
    """A note for each map: its share on the object if there are masks, or that it is dead."""
    alive = [bool(map_.any()) for map_ in maps]
    if masks is None:
        return ["" if live else NO_EVIDENCE for live in alive]
    shares = energy_inside(torch.from_numpy(maps), torch.from_numpy(masks)).tolist()
    return [f"{share:.0%} on object" if live else NO_EVIDENCE for live, share in zip(alive, shares, strict=True)]


def augmented(images: Images) -> Pixels:
    """Training images as the network sees them."""
    tiles = [Tile(image) for image in images]
    return grid([tiles[i : i + 4] for i in range(0, len(tiles), 4)], title="Augmented training images", tile_size=TILE)


def masked(images: Images, masks: Bool[np.ndarray, "n h w"]) -> Pixels:
    """Images in which everything but the object is dark."""
    tiles = [Tile(np.where(mask[..., None], image, image // 4)) for image, mask in zip(images, masks, strict=True)]
    title = "What is taken as object: the rest is dark"
    return grid([tiles[i : i + 4] for i in range(0, len(tiles), 4)], title=title, tile_size=TILE)


def gallery(
    images: Images, chosen: Int64[np.ndarray, "m"], predictions: Predictions, classes: Sequence[str], title: str
) -> Pixels:
    """The chosen images with true class, predicted class and probability, five in a row."""
    tiles = [
        said.tile(images[i], f"true: {classes[predictions.labels[i]]}")
        for i, said in zip(chosen, verdicts(predictions, chosen, classes), strict=True)
    ]
    return grid([tiles[i : i + 5] for i in range(0, len(tiles), 5)], title=title, tile_size=TILE)


def heat_tiles(images: Images, maps: Float32[np.ndarray, "n h w"]) -> list[Tile]:
    """Each map without its image; a dead map is marked."""
    return [Tile(heat(map_), "" if map_.any() else NO_EVIDENCE) for map_ in maps]


def layer_sheet(
    images: Images,
    maps: Float32[np.ndarray, "layers n h w"],
    layers: Sequence[str],
    labels: Int64[np.ndarray, "n"],
    said: Sequence[Verdict],
    classes: Sequence[str],
    title: str,
    footer: str = EXPLAINED,
    tiles: Tiles = map_tiles,
) -> Pixels:
    """Rows are images; columns are the original and the map of every layer. `maps` are relative to their mean.

    `tiles` draws the maps of a layer: `map_tiles` over their images, `heat_tiles` without images.
    """
    columns = {name: tiles(images, own) for name, own in zip(layers, maps, strict=True)}
    originals = [verdict.tile(image) for verdict, image in zip(said, images, strict=True)]
    bar = heat_bar if tiles is heat_tiles else colour_bar
    return sheet(originals, columns, labels=[classes[label] for label in labels], title=title, footer=footer, bar=bar)


def side_by_side(
    images: Images,
    variants: Mapping[str, Float32[np.ndarray, "n h w"]],
    said: Mapping[str, Sequence[Verdict]],
    masks: Bool[np.ndarray, "n h w"] | None,
    row_labels: Sequence[str],
    title: str,
) -> Pixels:
    """Rows are images; columns are the original, the map of each variant and, for two variants, their difference.

    `variants` are relative to their mean.
    """
    columns = {
        name: [
            verdict.tile(overlay(image, map_), note)
            for image, map_, verdict, note in zip(images, maps, said[name], notes(maps, masks), strict=True)
        ]
        for name, maps in variants.items()
    }
    originals, differences = [Tile(image) for image in images], difference_column(images, variants)
    return sheet(originals, columns, differences, labels=row_labels, title=title, footer=EXPLAINED)


def cell(
    image: UInt8[np.ndarray, "h w 3"],
    map_: Float32[np.ndarray, "h w"],
    said: Verdict,
    mask: Bool[np.ndarray, "h w"] | None,
) -> Pixels:
    """A cell of MLflow's image grid: the map over the image, the prediction below; `map_` is relative to its mean."""
    (note,) = notes(map_[None], None if mask is None else mask[None])
    return grid([[said.tile(overlay(image, map_), note)]], tile_size=CELL)

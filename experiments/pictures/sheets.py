"""The pictures of a run: each function takes arrays and returns one picture, uint8 `(height, width, 3)`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cam_core import Tile, colour_bar, energy_inside, grid, heat, heat_bar, overlay
from cam_core.sheets import BAR, LARGEST_TILE, NO_EVIDENCE, TILE, difference_column, map_tiles, scales, sheet
from cam_core.sheets import EXPLAINED as COLOURS_EXPLAINED
from cam_core.text import LEFT_TO_RIGHT

from ..training.predictions import Predictions
from .style import COLOURS, LARGE, Images, Pixels, drawn, wrapped

Tiles = Callable[[Images, Float32[np.ndarray, "n h w"]], list[Tile]]
CELL = 160  # side of the image in a cell of MLflow's grid, which shows about 200 pixels, so the text stays legible
WIDTH, LINE = 11.0, 0.2  # inches: the picture, and from one line of its title to the next
NAME = 1.8  # inches for the name of a class
MOST_WRITTEN = 30  # of more classes a confusion matrix would have no room for names and counts
EXPLAINED = (
    f"Left: the true class, which is explained. Below a picture: the prediction of the network. {COLOURS_EXPLAINED}"
)

BELOW = f"Above: the true class, which is explained. Below a map: the prediction of the network. {COLOURS_EXPLAINED}"
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
        Verdict(
            f"{_in_line(classes[predicted[i]])} {probabilities[i, predicted[i]]:.0%}", "right" if right[i] else "wrong"
        )
        for i in indices
    ]


def _in_line(name: str) -> str:
    """The name, such that numbers after it stay on its right in any alphabet."""
    return name if name.isascii() else name + LEFT_TO_RIGHT


def notes(maps: Float32[np.ndarray, "n h w"], masks: Bool[np.ndarray, "n h w"] | None = None) -> list[str]:
    """A note for each map: its share on the object if there are masks, or that it is dead."""
    alive = [bool(map_.any()) for map_ in maps]
    if masks is None:
        return ["" if live else NO_EVIDENCE for live in alive]
    shares = energy_inside(torch.from_numpy(maps), torch.from_numpy(masks)).tolist()
    return [f"{share:.0%} on object" if live else NO_EVIDENCE for live, share in zip(alive, shares, strict=True)]


def said_tiles(
    images: Images,
    maps: Float32[np.ndarray, "n h w"],
    said: Sequence[Verdict],
    masks: Bool[np.ndarray, "n h w"] | None,
) -> list[Tile]:
    """Each map over its image, with the prediction and the note of the map below it."""
    return [
        verdict.tile(overlay(image, map_), note)
        for image, map_, verdict, note in zip(images, maps, said, notes(maps, masks), strict=True)
    ]


def augmented(images: Images) -> Pixels:
    """Training images as the network sees them."""
    return _four_in_a_row(images, "Augmented training images")


def masked(images: Images, masks: Bool[np.ndarray, "n h w"]) -> Pixels:
    """Images in which everything but the object is dark."""
    return _four_in_a_row(np.where(masks[..., None], images, images // 4), "What is taken as object: the rest is dark")


def _four_in_a_row(images: Images, title: str) -> Pixels:
    tiles = [Tile(image) for image in images]
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
    labels: Sequence[str],
    title: str,
) -> Pixels:
    """Columns are images; rows are the original, the map of each variant and, for two variants, their difference.

    So ten images fit on a screen. `variants` are relative to their mean.
    """
    maps_of = {name: said_tiles(images, maps, said[name], masks) for name, maps in variants.items()}
    differences = difference_column(images, variants)
    rows = {"image": [Tile(image) for image in images], **maps_of, **differences}
    return grid(
        list(rows.values()),
        row_labels=list(rows),
        column_labels=labels,
        title=title,
        footer=BELOW,
        bar=scales(colour_bar(BAR), with_differences=bool(differences)),
        tile_size=TILE,
    )


def cell(
    image: UInt8[np.ndarray, "h w 3"],
    map_: Float32[np.ndarray, "h w"],
    said: Verdict,
    mask: Bool[np.ndarray, "h w"] | None,
) -> Pixels:
    """A cell of MLflow's image grid: the map over the image, the prediction below; `map_` is relative to its mean."""
    tiles = said_tiles(image[None], map_[None], [said], None if mask is None else mask[None])
    return grid([tiles], tile_size=min(max(CELL, *image.shape[:2]), LARGEST_TILE))  # shrunk, it would be enlarged again


def original(image: UInt8[np.ndarray, "h w 3"], name: str) -> Pixels:
    """The cell of the image without a map, its true class below."""
    return grid([[Tile(image, f"{name}\nthe image")]], tile_size=CELL)


def curves(history: pd.DataFrame, title: str) -> Pixels:
    """Loss and accuracy per epoch; `history` is indexed by epoch, its columns are metric names such as `val/loss`."""
    styles = {"train": ":", "val": "-", "test": "--"}
    heading = wrapped(title, WIDTH - 1, LARGE)
    figure = Figure(figsize=(WIDTH, 4.0 + LINE * heading.count("\n")), layout="constrained")
    for axes, measure in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for (split, style), colour in zip(styles.items(), COLOURS, strict=False):
            if f"{split}/{measure}" in history:
                values = history[f"{split}/{measure}"].dropna()
                marker = "o" if len(values) == 1 else None
                axes.plot(values.index, values, style, color=colour, marker=marker, label=split)
        axes.set(xlabel="epoch", ylabel=measure)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if axes.get_xlim()[1] - axes.get_xlim()[0] < 1:  # one epoch
            axes.set_xlim(0.5, 1.5)
        axes.grid(alpha=0.3)
    figure.suptitle(heading)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    return drawn(figure)


def confusion(matrix: Int64[np.ndarray, "k k"], classes: Sequence[str]) -> Pixels:
    """Counts per true (row) and predicted (column) class, coloured by the share of the row.

    Of more than `MOST_WRITTEN` classes those with the most frequent confusions.
    """
    shown = most_confused(matrix, MOST_WRITTEN)
    share = (matrix / np.maximum(matrix.sum(1, keepdims=True), 1))[np.ix_(shown, shown)]
    side = 3.2 + 0.55 * len(shown)
    figure = Figure(figsize=(side, side * 0.9), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="cividis", vmin=0, vmax=1)
    names = [_class_name(classes[number]) for number in shown]
    axes.set_xticks(range(len(shown)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(shown)), names)
    some = (
        f"\nthe {len(shown)} of {len(classes):,} classes that are confused most often"
        if len(shown) < len(classes)
        else ""
    )
    axes.set(xlabel="predicted class", ylabel="true class", title=f"Test images: predicted against true class{some}")
    for (row, column), count in np.ndenumerate(matrix[np.ix_(shown, shown)]):
        if count:
            shade = "black" if share[row, column] > 0.5 else "white"
            axes.text(column, row, str(count), ha="center", va="center", color=shade, fontsize=9)
    figure.colorbar(image, label="share of the true class", shrink=0.8)
    return drawn(figure)


def most_confused(matrix: Int64[np.ndarray, "k k"], most: int) -> Int64[np.ndarray, "m"]:
    """At most that many classes, in their order: those of the most frequent confusion, then those of the next."""
    errors = matrix - np.diag(np.diag(matrix))
    cells = np.argsort(-errors, axis=None, kind="stable")[: most**2]
    return np.sort(list(dict.fromkeys(np.stack(np.unravel_index(cells, matrix.shape), 1).ravel().tolist()))[:most])


def _class_name(name: str) -> str:
    """The name in at most two lines; the middle of a longer one is left out."""
    lines = wrapped(name, NAME).splitlines()
    return "\n".join(lines if len(lines) < 3 else [lines[0], f"…{lines[-1]}"])

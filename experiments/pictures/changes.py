"""Pages about the differences of variants: images that one of them loses or wins, and the means of their maps.

Maps are drawn as multiples of their mean, as in all pictures. These pages need no model: single maps come at the
resolution of the layer, as finished runs logged them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt8

from cam_core import Tile, difference_overlay, overlay, relative_to_mean, resize
from cam_core.overlay import GREY
from cam_core.sheets import EXPLAINED, NO_EVIDENCE, difference_column, sheet

from ..explaining.probes import in_turn
from ..training.predictions import Predictions
from .sheets import notes, said_tiles, verdicts
from .style import Images, Pixels

CHUNK = 256  # maps at a time at the size of the images
SHOWN = 3  # images of each group: few enough to be read
MOST_CLASSES = 20
CHOSEN = (
    "Chosen by outcome: an illustration, not a proof. Each group shows the first image of each class in turn, "
    "independent of its maps."
)

EXPLAINED_CLASS = "the true class, which is explained."
SPREAD = "Spread: the standard deviation of the map over seeds, on the same scale: 0 = all seeds agree."


@dataclass(frozen=True)
class NetworkOutputs:
    """The predictions of one network for some images, `(n, classes)`, and its maps at the resolution of the layer.

    The maps explain the true class and are zero or above, on any scale; a dead map is zero everywhere.
    """

    predictions: Predictions
    maps: Float[np.ndarray, "n gh gw"]


def groups(baseline: Bool[np.ndarray, "n"], variant: Bool[np.ndarray, "n"]) -> dict[str, Bool[np.ndarray, "n"]]:
    """Which images are fixed, broken, both wrong and both right, from the correct classifications of each network."""
    return {
        "fixed": ~baseline & variant,
        "broken": baseline & ~variant,
        "both wrong": ~baseline & ~variant,
        "both right": baseline & variant,
    }


def changed(
    images: Images,
    networks: Mapping[str, NetworkOutputs],
    masks: Bool[np.ndarray, "n h w"] | None,
    classes: Sequence[str],
    title: str,
) -> Pixels:
    """Images that the second of two networks fixes or breaks, and that both get wrong or right, a few of each group.

    Rows are images. Columns are the original, the map of each network with its prediction, and the second map minus the
    first. Each group shows the first image of each class, then the second, so no picture is chosen for its look. The
    first row of a group shows how many images it has. `images` are the input of the networks, in the same order.
    """
    (first, before), (second, after) = networks.items()
    labels = before.predictions.labels
    found = groups(before.predictions.right, after.predictions.right)
    chosen = {group: in_turn(labels, members, SHOWN) for group, members in found.items()}
    indices = np.concatenate(list(chosen.values()))
    maps = {name: at_size(network.maps[indices], images.shape[1:3]) for name, network in networks.items()}
    seen = None if masks is None else masks[indices]
    columns = {
        name: said_tiles(images[indices], maps[name], verdicts(network.predictions, indices, classes), seen)
        for name, network in networks.items()
    }
    empty = [group for group, members in found.items() if not members.any()]
    none_of = f" No image is {' or '.join(empty)}." if empty else ""
    return sheet(
        [Tile(image) for image in images[indices]],
        columns,
        difference_column(images[indices], maps),
        labels=list(_group_labels(chosen, found, labels, classes)),
        title=title,
        footer=f"Fixed: wrong with {first}, right with {second}; broken: the other way round.{none_of} "
        f"{CHOSEN} Left: {EXPLAINED_CLASS} Below a map: the prediction of the network. {EXPLAINED}",
    )


def _group_labels(
    chosen: Mapping[str, Int64[np.ndarray, "_"]],
    found: Mapping[str, Bool[np.ndarray, "n"]],
    labels: Int64[np.ndarray, "n"],
    classes: Sequence[str],
) -> Iterator[str]:
    """The group and the class of each row; the first row of a group also shows its number of images."""
    for group, indices in chosen.items():
        count = f"{group}\n{found[group].sum():,} of {len(labels):,}"
        for turn, index in enumerate(indices):
            yield f"{group if turn else count}\n{classes[labels[index]]}"


def over_seeds(
    images: Images,
    maps: Mapping[str, Float32[np.ndarray, "seeds n h w"]],
    masks: Bool[np.ndarray, "n h w"] | None,
    row_labels: Sequence[str],
    title: str,
) -> Pixels:
    """Rows are images. Columns are the original and, for each variant, the mean of its seeds' maps and their spread.

    The spread is the standard deviation over seeds, with two seeds or more. For two variants there is also the
    difference of the means. `maps` have the size of the images, each relative to its mean; a dead map counts as
    missing.
    """
    means, spreads = {}, {}
    columns: dict[str, list[Tile]] = {}
    for name, own in maps.items():
        means[name], spreads[name] = mean_and_spread(own)
        live = np.any(own, (2, 3)).sum(0).tolist()
        captions = [_mean_note(note, n, len(own)) for note, n in zip(notes(means[name], masks), live, strict=True)]
        columns[name if len(own) == 1 else f"{name}\nmean"] = _tiles(images, means[name], captions)
        if len(own) > 1:
            columns[f"{name}\nspread"] = _tiles(images, spreads[name], list(map(_spread_note, spreads[name], live)))
    several = any(len(own) > 1 for own in maps.values())
    footer = f"Left: {EXPLAINED_CLASS} {EXPLAINED}{f' {SPREAD}' if several else ''}"
    originals, differences = [Tile(image) for image in images], difference_column(images, means)
    title = f"{title}, {_seeds(maps)}"
    return sheet(originals, columns, differences, labels=row_labels, title=title, footer=footer)


def _seeds(maps: Mapping[str, Sequence[np.ndarray]] | Mapping[str, Float32[np.ndarray, "seeds n h w"]]) -> str:
    counts = list(dict.fromkeys(len(own) for own in maps.values()))
    return "one seed" if counts == [1] else f"{' / '.join(map(str, counts))} seeds"


def mean_and_spread(
    maps: Float32[np.ndarray, "seeds n h w"],
) -> tuple[Float32[np.ndarray, "n h w"], Float32[np.ndarray, "n h w"]]:
    """The mean and the standard deviation (n - 1) over seeds, without dead maps; zero if there are too few maps.

    The maps are relative to their mean.
    """
    live = maps.any((2, 3), keepdims=True)
    count = live.sum(0)
    mean = maps.sum(0) / np.maximum(count, 1)
    squares = np.where(live, (maps - mean) ** 2, 0).sum(0)
    spread = np.where(count > 1, np.sqrt(squares / np.maximum(count - 1, 1)), 0)
    return mean.astype(np.float32), spread.astype(np.float32)


def _mean_note(note: str, live: int, seeds: int) -> str:
    return note if live in (0, seeds) else f"{note}\n{seeds - live} of {seeds} seeds: {NO_EVIDENCE}".strip()


def _spread_note(spread: Float32[np.ndarray, "h w"], live: int) -> str:
    return f"{spread.mean():.2f} on average" if live > 1 else "no spread with fewer than two maps"


def _tiles(images: Images, maps: Float32[np.ndarray, "n h w"], captions: Sequence[str]) -> list[Tile]:
    return [Tile(overlay(image, map_), text) for image, map_, text in zip(images, maps, captions, strict=True)]


def mean_maps(
    images: Images,
    labels: Int64[np.ndarray, "n"],
    maps: Mapping[str, Sequence[Float[np.ndarray, "n gh gw"]]],
    classes: Sequence[str],
    title: str,
) -> Pixels:
    """Rows are all images and the images of each class: mean image, mean map of each variant, difference to the first.

    It shows what the maps of a class have in common, such as a preference for the middle. `maps` contains for each
    variant one array per seed, at the resolution of the layer and on any scale; dead maps count as missing. The mean is
    first over images, then over seeds.
    """
    some = [number for number in range(len(classes)) if (labels == number).any()]
    kept = [np.ones(len(labels), bool), *(labels == number for number in some[:MOST_CLASSES])]
    size = images.shape[1], images.shape[2]
    means = {
        name: np.stack([mean_map([own[members] for own in seeds], size) for members in kept])
        for name, seeds in maps.items()
    }
    (first, baseline), *others = means.items()
    cut = f" The first {MOST_CLASSES} of {len(some)} classes." if len(some) > MOST_CLASSES else ""
    return sheet(
        [Tile(np.rint(images[members].mean(0)).astype(np.uint8), f"mean of {members.sum():,}") for members in kept],
        {name: [_mean_tile(map_) for map_ in own] for name, own in means.items()},
        {f"{name} − {first}": list(map(_difference_tile, own, baseline)) for name, own in others},
        labels=["all", *(classes[number] for number in some[:MOST_CLASSES])],
        title=f"{title}, {_seeds(maps)}",
        footer=f"Left: {EXPLAINED_CLASS} Below a map: its lowest and its highest value. {EXPLAINED}{cut}",
    )


def mean_map(
    maps: Sequence[Float[np.ndarray, "_ gh gw"]], size: tuple[int, int]
) -> Float32[np.ndarray, "{size[0]} {size[1]}"]:
    """The mean over images, then over seeds, of maps relative to their mean at that size, without dead maps.

    Zero everywhere if all maps are dead.
    """
    live = [own[np.any(own, (1, 2))] for own in maps]
    means = [_mean_of(own, size) for own in live if len(own)]
    return np.stack(means).mean(0).astype(np.float32) if means else np.zeros(size, np.float32)


def _mean_of(maps: Float[np.ndarray, "n gh gw"], size: tuple[int, int]) -> Float64[np.ndarray, "h w"]:
    total = np.zeros(size)
    for start in range(0, len(maps), CHUNK):  # bounds the memory
        total += at_size(maps[start : start + CHUNK], size).sum(0)
    return total / len(maps)


def at_size(maps: Float[np.ndarray, "n gh gw"], size: tuple[int, int]) -> Float32[np.ndarray, "n {size[0]} {size[1]}"]:
    """Maps at the resolution of a layer, resized and then divided by their mean, as in the other pictures."""
    return relative_to_mean(resize(torch.from_numpy(maps.astype(np.float32)), size)).numpy()


def _mean_tile(map_: Float32[np.ndarray, "h w"]) -> Tile:
    caption = f"{map_.min():.2f} to {map_.max():.2f}" if map_.any() else NO_EVIDENCE
    return Tile(overlay(_grey(map_), map_), caption)


def _difference_tile(map_: Float32[np.ndarray, "h w"], baseline: Float32[np.ndarray, "h w"]) -> Tile:
    """The map minus the baseline's map; empty if one of the two is dead."""
    if not map_.any() or not baseline.any():
        return Tile(_grey(map_), NO_EVIDENCE)
    difference = map_ - baseline
    caption = f"{difference.min():+z.2f} to {difference.max():+z.2f}"
    return Tile(difference_overlay(_grey(map_), difference), caption)


def _grey(map_: Float32[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """The grey background that is also under the colours of the bars, so that the colours are the same."""
    return np.full((*map_.shape, 3), GREY, np.uint8)

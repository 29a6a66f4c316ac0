"""Measures the class activation maps of a sample of test images at every layer, and the effect of the background."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Float16, Int64
from torch import Tensor, nn

from cam_core import cams, quality, relative_to_mean, resize
from cam_core.agreement import flip_consistency
from cam_core.faithfulness import deletion_margin

from ..data.dataset import Split
from ..data.tensors import to_tensor
from ..training.predictions import Predictions
from .map_measures import metric_of
from .probes import spread

SAMPLE = 2000
"""At most so many test images are measured, evenly spread over the split."""

EXPENSIVE = 250
"""So many of them, also evenly spread, are measured with changed images, which needs further forward passes."""

STEPS = 5
"""Steps of deletion; with more of them the mean over images changed by less than a fifth of its standard error."""

BACKGROUNDS = ("own", "other", "background_only", "object_only")
"""Splits of the scenes that show the objects of the test images on backgrounds of all kinds."""

CHUNK = 250  # images of 32 x 32 pixels that are explained and measured at a time

_ON_OBJECT: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = MappingProxyType(
    {
        "energy": quality.energy_inside,
        "lift": quality.lift,
        "pointing": quality.pointing_game,
        "auc": quality.pixel_auc,
        "iou": quality.object_iou,
        "recall": quality.object_recall,
        "precision": quality.object_precision,
    }
)
"""Measures of map and mask, by the names of `map_measures`; the focus index also needs the layer's resolution."""


_OF_SHAPE: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "spread": quality.spread,
        "coverage": quality.coverage,
        "entropy": quality.entropy,
        "border": quality.border_share,
        "dead": quality.dead_rate,
    }
)
"""Measures of the map alone."""


@dataclass(frozen=True)
class Looks:
    """Where a network looks on the images `indices` of a split; its maps explain the true class.

    `table` has a row per layer and image: `index`, `layer`, `right` (classified correctly) and the `map_measures` that
    the data set allows, NaN where one is undefined. `maps` are the last layer's, at its own resolution and relative to
    their mean; a dead map is zero.
    """

    table: pd.DataFrame
    indices: Int64[np.ndarray, "images"]
    maps: Float16[np.ndarray, "images rows columns"]


def measure(
    model: nn.Module, layers: Sequence[str], split: Split, predictions: Predictions, method: str, device: str
) -> Looks:
    """The measures and maps of at most `SAMPLE` images; `predictions` are those of the whole split."""
    indices = spread(len(split), SAMPLE)
    tables: dict[str, list[pd.DataFrame]] = {layer: [] for layer in layers}
    last = []
    size = at_a_time(split.images)
    for chosen in np.array_split(indices, range(size, len(indices), size)):
        images, labels = _batch(split, chosen, device)
        masks = None if split.masks is None else torch.from_numpy(split.masks[chosen]).to(device)
        found = cams(model, images, layers, labels, method=method, chunk=size)
        for layer, grid, maps in zip(found.layers, found.grids, found.maps, strict=True):
            values = _of_shape(maps) if masks is None else _on_object(maps, masks, grid) | _of_shape(maps)
            tables[layer].append(_frame(values).assign(index=chosen, layer=layer, right=predictions.right[chosen]))
        last.append(relative_to_mean(at_grid(found.maps[-1], found.grids[-1])).half().cpu())
    table = pd.concat([part for parts in tables.values() for part in parts], ignore_index=True)
    return Looks(table, indices, torch.cat(last).numpy())


def at_a_time(images: np.ndarray) -> int:
    """How many of these images `(n, h, w, ...)` are explained together: of large images fewer, for the same memory.

    Their size alone decides, never the machine, because the number can change the rounding of a result.
    """
    return min(CHUNK, max(1, CHUNK * 32**2 // (images.shape[1] * images.shape[2])))


def at_grid(maps: Float[Tensor, "n h w"], grid: tuple[int, ...]) -> Float[Tensor, "n rows columns"]:
    """The maps at their layer's own resolution, `grid` = (rows, columns): those that, resized, give them.

    Exact up to rounding, because making maps larger is linear and loses nothing.
    """
    down, across = (_undo_resize(cells, side).to(maps) for cells, side in zip(grid, maps.shape[1:], strict=True))
    return (down @ maps @ across.T).relu()  # rounding can leave less than nothing


def _undo_resize(cells: int, side: int) -> Float[Tensor, "{cells} {side}"]:
    """The matrix that restores the values that were resized from `cells` to `side`."""
    return torch.linalg.pinv(resize(torch.eye(cells)[None], (side, cells))[0])


def summary(table: pd.DataFrame) -> dict[str, float]:
    """The mean of each measure per layer, named `cam/<layer>/<measure>`; undefined values are left out of the mean."""
    means = table.drop(columns=["index", "right"]).groupby("layer", sort=False).mean()
    return {
        metric_of(str(layer), str(measure)): float(value)
        for layer, row in means.iterrows()
        for measure, value in row.items()
        if pd.notna(value)
    }


def references(masks: Bool[np.ndarray, "n h w"], grid: tuple[int, ...]) -> pd.DataFrame:
    """The scores of blind maps, which do not depend on the image, with these masks; mean over images.

    Rows: `uniform`, `random` (a map of noise of that `grid`, rows and columns, for each image; always the same ones)
    and `centre` (a blob in the middle of each). Columns: the measures on the object. Images with an empty mask are left
    out.
    """
    generator = torch.Generator().manual_seed(0)
    parts = [_of_blind_maps(some, grid, generator) for some in torch.split(torch.from_numpy(masks), at_a_time(masks))]
    return pd.concat(parts).groupby("map", sort=False).mean().astype(float)


def _of_blind_maps(masks: Bool[Tensor, "n h w"], grid: tuple[int, ...], generator: torch.Generator) -> pd.DataFrame:
    n, h, w = masks.shape
    blind = {
        "uniform": quality.uniform_map(h, w).expand(n, -1, -1),
        "random": quality.random_maps(n, grid, (h, w), generator),
        "centre": quality.centre_blob(h, w).expand(n, -1, -1),
    }
    return pd.concat(_frame(_on_object(maps, masks, grid)).assign(map=name) for name, maps in blind.items())


def faithfulness(model: nn.Module, layer: str, split: Split, method: str, device: str) -> pd.DataFrame:
    """One row per image, of `EXPENSIVE` of the sample: `index`, `deletion_margin`, `flip_consistency` at `layer`.

    Maps explain the true class; removed pixels are inpainted. NaN where a map is dead.
    """
    sample = spread(len(split), SAMPLE)
    indices, size, tables = sample[spread(len(sample), EXPENSIVE)], at_a_time(split.images), []
    for start in range(0, len(indices), size):
        chosen = indices[start : start + size]
        images, labels = _batch(split, chosen, device)
        together = min(size, 64)
        own, of_mirrored = (
            cams(model, some, [layer], labels, method=method, chunk=together) for some in (images, images.flip(3))
        )
        maps, grid = own.maps[0], own.grids[0]
        removed = deletion_margin(model, images, maps, labels, grid, steps=STEPS, seed=start, chunk=together)
        values = {"deletion_margin": removed, "flip_consistency": flip_consistency(maps, of_mirrored.maps[0])}
        tables.append(_frame(values).assign(index=chosen))
    return pd.concat(tables, ignore_index=True)


def faithfulness_summary(table: pd.DataFrame, layer: str) -> dict[str, float]:
    """The means by metric, `faith/deletion_margin` and `cam/<layer>/flip_consistency`, without dead maps."""
    means = {
        "faith/deletion_margin": float(table["deletion_margin"].mean()),
        metric_of(layer, "flip_consistency"): float(table["flip_consistency"].mean()),
    }
    return {name: mean for name, mean in means.items() if not math.isnan(mean)}


def _batch(split: Split, chosen: Int64[np.ndarray, "n"], device: str) -> tuple[Tensor, Tensor]:
    """Images and true labels on the device."""
    images = to_tensor(split.images[chosen]).to(device, memory_format=torch.channels_last)
    return images, torch.from_numpy(split.labels[chosen]).to(device)


def _on_object(maps: Tensor, masks: Tensor, grid: tuple[int, ...]) -> dict[str, Tensor]:
    focus = quality.focus_index(maps, masks, grid)
    return {"focus": focus} | {name: measured(maps, masks) for name, measured in _ON_OBJECT.items()}


def _of_shape(maps: Tensor) -> dict[str, Tensor]:
    return {name: measured(maps) for name, measured in _OF_SHAPE.items()}


def _frame(values: Mapping[str, Tensor]) -> pd.DataFrame:
    return pd.DataFrame({name: value.cpu().numpy() for name, value in values.items()})


def background_shift(found: Mapping[str, Predictions]) -> dict[str, float]:
    """The effect of the background, by metric; the splits `own` and `other` show the same objects in the same order.

    The accuracy of each split, the gap between own and other backgrounds, and the share of predictions that differ.
    """
    accuracy = {f"shift/{name}_accuracy": predictions.accuracy for name, predictions in found.items()}
    own, other = found["own"], found["other"]
    return accuracy | {
        "shift/background_gap": own.accuracy - other.accuracy,
        "shift/background_flips": float((own.classes != other.classes).mean()),
    }

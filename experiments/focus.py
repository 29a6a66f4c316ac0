"""Where a network looks, in numbers: class activation maps of a sample of test images, measured per layer."""

import pandas as pd
import torch
from torch import nn

from cam_core import cams, quality
from experiments.augment import to_tensor
from experiments.data import Split
from experiments.evaluation import Predictions
from experiments.probes import spread

SAMPLE = 500  # test images that are measured, evenly spread over the split


def measure(
    model: nn.Module, layers: tuple[str, ...], split: Split, predictions: Predictions, method: str, device: str
) -> pd.DataFrame:
    """One row per image and layer: `index`, `layer`, `right`, and the measures of `cam_core.quality`.

    The class explained is the true one. Measures that need object masks are there where the data set has them.
    """
    indices = spread(len(split), SAMPLE)
    images, labels = to_tensor(split.images[indices]).to(device), torch.from_numpy(split.labels[indices])
    found = cams(model, images, layers, labels.to(device), method=method)
    masks = None if split.masks is None else torch.from_numpy(split.masks[indices]).to(device)
    tables = []
    for layer, grid, maps in zip(found.layers, found.grids, found.maps, strict=True):
        values = {"spread": quality.spread(maps), "coverage": quality.coverage(maps), "dead": quality.dead_rate(maps)}
        if masks is not None:
            values |= {
                "energy": quality.energy_inside(maps, masks),
                "lift": quality.lift(maps, masks),
                "focus": quality.focus_index(maps, masks, grid),
                "recall": quality.object_recall(maps, masks),
                "precision": quality.object_precision(maps, masks),
            }
        table = pd.DataFrame({name: value.cpu().numpy() for name, value in values.items()})
        tables.append(table.assign(index=indices, layer=layer, right=predictions.right[indices]))
    return pd.concat(tables, ignore_index=True)


def summary(table: pd.DataFrame) -> dict[str, float]:
    """The mean of each measure per layer, named `cam/<layer>/<measure>`; undefined values are left out of the mean."""
    means = table.drop(columns=["index", "right"]).groupby("layer", sort=False).mean()
    return {
        f"cam/{layer}/{measure}": float(value)
        for layer, row in means.iterrows()
        for measure, value in row.items()
        if pd.notna(value)
    }

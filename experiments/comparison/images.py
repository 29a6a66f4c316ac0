"""Values of single images: means per seed, and differences between variants."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from ..evidence.differences import FEWEST, Difference, paired_difference
from ..evidence.network_tests import two_way_bootstrap
from ..runs import contents
from ..tracking.reading import FinishedRun
from .measures import LAST, last_layer

Sides = tuple[Float64[np.ndarray, " seeds"], Float64[np.ndarray, " seeds"]]
"""One number per seed: of a variant, and of the baseline."""


BOTH_RIGHT = "both right"
"""The images that two paired networks both classify correctly."""


Looks = Mapping[str, dict[str, Float64[np.ndarray, "seeds images"]]]
"""Of one variant, by layer and measure (and `right`): the values of seeds and measured images, NaN = undefined."""


def looks_of(runs: Sequence[FinishedRun]) -> Looks:
    """The values of the runs, one run per seed; only of what all runs have, and of the last layer."""
    tables = [_with_last(run) for run in runs]
    shared = [layer for layer in tables[0] if all(layer in table for table in tables)]
    return {
        layer: {
            str(name): np.stack([table[layer][name].to_numpy(float) for table in tables])
            for name in tables[0][layer]
            if name not in ("index", "layer") and all(name in table[layer] for table in tables)
        }
        for layer in shared
    }


def _with_last(run: FinishedRun) -> dict[str, pd.DataFrame]:
    layers = {str(layer): table for layer, table in contents.map_measures(run).groupby("layer", sort=False)}
    return layers | {LAST: layers[last_layer(run)]}


def iter_where(layers: Looks) -> Iterator[dict[str, object]]:
    """A row per layer, measure and subset of the images (all, right, wrong): mean over images, then over seeds."""
    for layer, table in layers.items():
        for name, values in table.items():
            if name == "right":
                continue
            for subset, kept in _by_outcome(table["right"]).items():
                yield {"layer": layer, "subset": subset, "measure": name} | seed_summary(values, kept)


def _by_outcome(right: np.ndarray) -> dict[str, np.ndarray]:
    return {"all": right >= 0, "right": right > 0, "wrong": right == 0}


def iter_differences(after: Looks, before: Looks, *, one_grid: bool) -> Iterator[dict[str, object]]:
    """A row per layer that both have, measure, and subset of the images (all, both right): the paired difference.

    At the last layer, where its resolution is not the same in both, only of the focus index.
    """
    for layer in (layer for layer in after if layer in before):
        one, other = after[layer], before[layer]
        names = [name for name in one if name != "right" and name in other]
        if layer == LAST and not one_grid:
            names = [name for name in names if name == "focus"]
        for name in names:
            for subset, kept in image_subsets(one["right"], other["right"]).items():
                row = difference_of_images(one[name], other[name], kept, resampled=layer == LAST)
                if row is not None:
                    yield {"layer": layer, "subset": subset, "measure": name} | row


def image_subsets(one: np.ndarray, other: np.ndarray) -> dict[str, np.ndarray]:
    return {"all": np.ones(one.shape, bool), BOTH_RIGHT: (one > 0) & (other > 0)}


def _means(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """For each seed the mean over the kept images with a value; NaN if there is none."""
    present = kept & ~np.isnan(values)
    count = present.sum(1)
    return np.divide(np.where(present, values, 0).sum(1), count, out=np.full(len(values), np.nan), where=count > 0)


def paired_means(after: np.ndarray, before: np.ndarray, kept: np.ndarray) -> Sides | None:
    """Both means over the kept images with a value in both; None if a seed has no such image."""
    kept = _in_both(after, before, kept)
    sides = _means(after, kept), _means(before, kept)
    return sides if np.isfinite(sides).all() else None


def _in_both(after: np.ndarray, before: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The kept images that have a value in both."""
    return kept & ~np.isnan(after) & ~np.isnan(before)


def seed_summary(values: np.ndarray, kept: np.ndarray) -> dict[str, object]:
    means = pd.Series(_means(values, kept))
    return {"mean": means.mean(), "std": means.std(), "count": int(means.count())}


def difference_of_images(
    after: np.ndarray, before: np.ndarray, kept: np.ndarray, *, resampled: bool
) -> dict[str, object] | None:
    """The paired difference over the kept images with a value in both; None if a seed has no such image."""
    sides = paired_means(after, before, kept)
    if sides is None:
        return None
    kept = _in_both(after, before, kept)
    row = difference_row(paired_difference(*sides)) | {"images": int(kept.sum(1).mean())}
    if not resampled or len(after) < FEWEST:
        return row | {"boot_low": math.nan, "boot_high": math.nan}
    one, other = (np.where(kept, values, np.nan) for values in (after, before))
    checked = two_way_bootstrap(one, other, np.random.default_rng(0), draws=500)
    return row | {"boot_low": checked.low, "boot_high": checked.high}


def difference_row(difference: Difference) -> dict[str, object]:
    """A difference as columns of a table."""
    return asdict(difference) | {"seeds": len(difference.per_seed), "larger_in": difference.larger}


def sampled_maps(run: FinishedRun) -> Float32[Tensor, "images h w"]:
    """The last layer's maps of the sampled test images at the layer's own resolution."""
    return torch.from_numpy(contents.maps(run).sample_maps)

"""Values of single images: means per seed, differences between variants, and how similar maps are."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import combinations, combinations_with_replacement

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, Float64
from torch import Tensor

from cam_core.agreement import rank_correlation, top_iou

from ..evidence.differences import FEWEST, Difference, mean_of_present, paired_difference
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
    return {
        layer: {
            str(name): np.stack([table[layer][name].to_numpy(float) for table in tables])
            for name in own
            if name not in ("index", "layer") and all(name in table[layer] for table in tables)
        }
        for layer, own in tables[0].items()
        if all(layer in table for table in tables)
    }


def _with_last(run: FinishedRun) -> dict[str, pd.DataFrame]:
    layers = {str(layer): table for layer, table in contents.map_measures(run).groupby("layer", sort=False)}
    return layers | {LAST: layers[last_layer(run)]}


def iter_where(layers: Looks) -> Iterator[dict[str, object]]:
    """A row per layer, measure and subset of the images (all, right, wrong): mean over images, then over seeds."""
    for layer, table in layers.items():
        right = table["right"]
        subsets = {"all": right >= 0, "right": right > 0, "wrong": right == 0}
        for name, values in table.items():
            for subset, kept in subsets.items() if name != "right" else ():
                means = pd.Series(_means(values, kept))
                row: dict[str, object] = {"layer": layer, "subset": subset, "measure": name}
                yield row | {"mean": means.mean(), "std": means.std(), "count": int(means.count())}


def iter_differences(after: Looks, before: Looks, *, one_grid: bool) -> Iterator[dict[str, object]]:
    """A row per layer that both have, measure, and subset of the images (all, both right): the paired difference.

    At the last layer, where its resolution is not the same in both, only of the focus index.
    """
    for layer in (layer for layer in after if layer in before):
        one, other = after[layer], before[layer]
        subsets = {"all": np.ones(one["right"].shape, bool), BOTH_RIGHT: (one["right"] > 0) & (other["right"] > 0)}
        for name in (name for name in one if name != "right" and name in other):
            if name != "focus" and layer == LAST and not one_grid:
                continue
            for subset, kept in subsets.items():
                row = _difference(one[name], other[name], kept, resampled=layer == LAST)
                if row is not None:
                    yield {"layer": layer, "subset": subset, "measure": name} | row


def _means(values: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """For each seed the mean over the kept images with a value; NaN if there is none."""
    return mean_of_present(np.where(kept, values, np.nan), axis=1)


def paired_means(after: np.ndarray, before: np.ndarray, kept: np.ndarray) -> Sides | None:
    """Both means over the kept images with a value in both; None if a seed has no such image."""
    kept = kept & ~np.isnan(after) & ~np.isnan(before)
    sides = _means(after, kept), _means(before, kept)
    return sides if np.isfinite(sides).all() else None


def _difference(
    after: np.ndarray, before: np.ndarray, kept: np.ndarray, *, resampled: bool
) -> dict[str, object] | None:
    """The paired difference over the kept images with a value in both; None if a seed has no such image."""
    sides = paired_means(after, before, kept)
    if sides is None:
        return None
    low = high = math.nan
    kept = kept & ~np.isnan(after) & ~np.isnan(before)
    if resampled and len(after) >= FEWEST:
        one, other = (np.where(kept, values, np.nan) for values in (after, before))
        checked = two_way_bootstrap(one, other, np.random.default_rng(0), draws=500)
        low, high = checked.low, checked.high
    images = {"images": int(kept.sum(1).mean()), "boot_low": low, "boot_high": high}
    return difference_row(paired_difference(*sides)) | images


def difference_row(difference: Difference) -> dict[str, object]:
    """A difference as columns of a table."""
    return asdict(difference) | {"seeds": len(difference.per_seed), "larger_in": difference.larger}


def sampled_maps(run: FinishedRun) -> Float32[Tensor, "images h w"]:
    """The last layer's maps of the sampled test images at the layer's own resolution."""
    return torch.from_numpy(contents.maps(run).sample_maps)


def agreement(maps: Mapping[str, Sequence[Tensor]]) -> pd.DataFrame:
    """How similar the maps of two networks are, mean over images and pairs of networks.

    `maps` has one tensor `(images, h, w)` per seed of each variant. There is a row for every two variants, and one for
    each variant with itself. The latter is the noise floor: variants that are as similar as two seeds of one variant
    show no difference. Columns: `rank_correlation`, `top_iou` (overlap of the highest fifth), `pairs` (of networks).
    Maps of different resolutions are left out.
    """
    rows = []
    for one, other in combinations_with_replacement(maps, 2):
        pairs = list(combinations(maps[one], 2)) if one == other else _of_two(maps[one], maps[other])
        if pairs and all(a.shape == b.shape for a, b in pairs):
            rows.append({"variant": one, "against": other, "pairs": len(pairs)} | _alike(pairs))
    return pd.DataFrame(rows)


def _of_two(one: Sequence[Tensor], other: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Pairs without networks of the same seed, which share their initial weights and the order of the images.

    For that reason alone they would agree more than two seeds of one variant. With one seed there are no other pairs.
    """
    apart = [(a, b) for i, a in enumerate(one) for j, b in enumerate(other) if i != j]
    return apart or list(zip(one, other, strict=True))


def _alike(pairs: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
    measures = {"rank_correlation": rank_correlation, "top_iou": top_iou}
    return {
        name: float(torch.stack([measure(one, other).nanmean() for one, other in pairs]).nanmean())
        for name, measure in measures.items()
    }

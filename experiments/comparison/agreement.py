"""How similar the maps of two networks are on the same images."""

from collections.abc import Mapping, Sequence
from itertools import combinations, combinations_with_replacement

import pandas as pd
import torch
from torch import Tensor

from cam_core.agreement import rank_correlation, top_iou


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

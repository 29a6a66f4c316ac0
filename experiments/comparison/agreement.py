"""How alike the maps of two networks are on the same images."""

from collections.abc import Mapping, Sequence
from itertools import combinations, combinations_with_replacement

import pandas as pd
import torch
from torch import Tensor

from cam_core.agreement import rank_correlation, top_iou


def agreement(maps: Mapping[str, Sequence[Tensor]]) -> pd.DataFrame:
    """How alike the maps of two networks are, mean over images and pairs of networks.

    `maps` has of each variant one `(images, h, w)` for each seed. A row per two variants, and per variant with itself,
    which is the noise floor: a difference between variants that is no larger than between seeds is none. Always of two
    seeds, where there are two. `rank_correlation`, and `top_iou` of the highest fifth; `pairs` of networks. Maps of
    different resolutions are left out.
    """
    rows = []
    for one, other in combinations_with_replacement(maps, 2):
        pairs = list(combinations(maps[one], 2)) if one == other else _of_two(maps[one], maps[other])
        if pairs and all(a.shape == b.shape for a, b in pairs):
            rows.append({"variant": one, "against": other, "pairs": len(pairs)} | _alike(pairs))
    return pd.DataFrame(rows)


def _of_two(one: Sequence[Tensor], other: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Never two networks of one seed, which share their start and the order of the images.

    Two variants would agree more than two seeds of one for that alone. Of one seed there is nothing else.
    """
    apart = [(a, b) for i, a in enumerate(one) for j, b in enumerate(other) if i != j]
    return apart or list(zip(one, other, strict=True))


def _alike(pairs: Sequence[tuple[Tensor, Tensor]]) -> dict[str, float]:
    measures = {"rank_correlation": rank_correlation, "top_iou": top_iou}
    return {
        name: float(torch.stack([measure(one, other).nanmean() for one, other in pairs]).nanmean())
        for name, measure in measures.items()
    }

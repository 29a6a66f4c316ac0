"""One map of several layers: the fine place of an early layer with the meaning of a late one."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from torch import Tensor

from cam_core.engine import Cams
from cam_core.maps import normalise

FUSIONS: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"product": lambda maps: maps.prod(0), "mean": lambda maps: maps.mean(0)}
)
"""The ways to make one map of those of several layers, `(layers, n, *size) -> (n, *size)`."""


def fused(found: Cams, by: str = "product") -> Cams:
    """One map of the maps of all layers in `found`, divided by its maximum again.

    `product` is high only where all layers are, and dead where one of them is (RefineCAM, arXiv:2605.14641); use it
    with `layercam`. `mean` is what grad-cam does with several layers. The maps are in [0, 1], so the strengths of the
    layers do not count. `strength` is the maximum before the division, in [0, 1]; the grid is the finest. Raises
    ValueError for an unknown way.
    """
    if by not in FUSIONS:
        raise ValueError(f"by={by!r} is unknown; use one of {', '.join(FUSIONS)}")
    maps = FUSIONS[by](found.maps)
    flat = maps.flatten(1)
    return replace(
        found,
        maps=normalise(flat[:, None]).view_as(maps)[None],
        strength=flat.amax(1)[None],
        layers=(f"{by} of {', '.join(found.layers)}",),
        grids=(max(found.grids),),
    )

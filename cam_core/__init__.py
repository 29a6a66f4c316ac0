"""Class activation maps: several layers and methods from one forward and one backward pass.

`cams` and `cams_of_methods` give maps, `cam_core.quality` measures them, `overlay` and `grid` draw them.
"""

from cam_core.capture import Evidence, capture
from cam_core.engine import Cams, cams, cams_of_methods
from cam_core.maps import normalise, relative_to_mean, resize
from cam_core.methods import METHODS
from cam_core.overlay import SCALE_MAX, Tile, colour_bar, enlarge, grid, heat, overlay
from cam_core.quality import (
    centre_blob,
    coverage,
    dead_rate,
    energy_inside,
    focus_index,
    lift,
    object_precision,
    object_recall,
    pointing_game,
    random_maps,
    spread,
    uniform_map,
)

__all__ = [
    "METHODS",
    "SCALE_MAX",
    "Cams",
    "Evidence",
    "Tile",
    "cams",
    "cams_of_methods",
    "capture",
    "centre_blob",
    "colour_bar",
    "coverage",
    "dead_rate",
    "energy_inside",
    "enlarge",
    "focus_index",
    "grid",
    "heat",
    "lift",
    "normalise",
    "object_precision",
    "object_recall",
    "overlay",
    "pointing_game",
    "random_maps",
    "relative_to_mean",
    "resize",
    "spread",
    "uniform_map",
]

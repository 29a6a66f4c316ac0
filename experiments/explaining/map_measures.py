"""Every measure of maps: its name, how tables write it, what it means, and which way a study may go.

`measuring` computes them by these names, as `cam_core.quality` defines them. Reports, charts and `tune` take everything
else from here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True)
class MapMeasure:
    """A number of each map, logged as `cam/<layer>/<name>`.

    Attributes:
        name: also that of its column in a run's table of measures.
        heading, format, meaning: how tables write the number, and what it is.
        direction: the better one, for the objectives of a study; `neither` for a size, which is no objective.
        on_object: whether it compares the map with the object's mask, which not all data sets have.
    """

    name: str
    heading: str
    format: str
    meaning: str
    direction: Literal["higher", "lower", "neither"]
    on_object: bool = True


_ROWS = (
    MapMeasure(
        "focus",
        "focus index",
        "{:z.3f}",
        "where the map lies: 0 = as a uniform map, 1 = as the object itself at that resolution",
        "higher",
    ),
    MapMeasure("energy", "map on object", "{:z.1%}", "share of the map inside the object's mask", "higher"),
    MapMeasure(
        "lift",
        "lift",
        "{:z.2f}",
        "share of the map inside the object's mask, over the object's share of the image; 1 = as a uniform map",
        "higher",
    ),
    MapMeasure(
        "pointing",
        "peak on object",
        "{:z.1%}",
        "share of the images where the map's maximum is on the object",
        "higher",
    ),
    MapMeasure(
        "auc",
        "pixel AUC",
        "{:z.3f}",
        "chance that the map is higher on a pixel of the object than on another pixel",
        "higher",
    ),
    MapMeasure(
        "iou",
        "IoU",
        "{:z.1%}",
        "overlap of the object and the area where the map reaches half of its maximum",
        "higher",
    ),
    MapMeasure(
        "recall",
        "object covered",
        "{:z.1%}",
        "share of the object where the map reaches half of its maximum; is meaningful only together with the precision",
        "higher",
    ),
    MapMeasure(
        "precision",
        "precision of map",
        "{:z.1%}",
        "share of the area at or above half of the map's maximum that is object",
        "higher",
    ),
    MapMeasure(
        "coverage",
        "map area",
        "{:z.1%}",
        "share of the image where the map reaches half of its maximum; a size, not a quality",
        "neither",
        on_object=False,
    ),
    MapMeasure(
        "spread",
        "spread",
        "{:z.3f}",
        "standard deviation of the map around its centre, in image sides; a size, not a quality",
        "neither",
        on_object=False,
    ),
    MapMeasure(
        "entropy",
        "entropy",
        "{:z.3f}",
        "1 = uniform map, 0 = one pixel; a size, not a quality",
        "neither",
        on_object=False,
    ),
    MapMeasure(
        "border",
        "at the border",
        "{:z.1%}",
        "share of the map on the outer eighth of the image",
        "lower",
        on_object=False,
    ),
    MapMeasure(
        "dead",
        "dead maps",
        "{:z.1%}",
        "share of the images where nothing at the layer raised the score, so that there is no map",
        "lower",
        on_object=False,
    ),
)


MAP_MEASURES: Mapping[str, MapMeasure] = MappingProxyType({row.name: row for row in _ROWS})
"""By name, in the order of tables."""


def metric_of(layer: str, measure: str) -> str:
    """The name under which a measure is logged. MLflow's names have no `#`, which picks a call of a layer."""
    return f"cam/{layer.replace('#', ':')}/{measure}"

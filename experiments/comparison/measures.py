"""The measures that a comparison shows, in one table."""

import math
from dataclasses import dataclass

import pandas as pd

from ..evidence.differences import Better, Quantity
from ..explaining.map_measures import MAP_MEASURES, MapMeasure, metric_of
from ..runs.contents import config
from ..tracking.reading import FinishedRun

LAST = "last"
"""Stands for the deepest layer of each run, whatever its name is."""


@dataclass(frozen=True)
class Measure:
    """A number of each run: its metric (`last` stands for the last layer), its heading, format and meaning."""

    metric: str
    heading: str
    format: str
    meaning: str
    better: Better = "higher"

    def key(self, run: FinishedRun) -> str:
        """The name of the run's metric."""
        at_last = f"/{LAST}/" in self.metric
        return metric_of(last_layer(run), self.metric.rpartition("/")[2]) if at_last else self.metric

    def of(self, run: FinishedRun) -> float:
        """The run's value, NaN if it has none."""
        return run.metrics.get(self.key(run), math.nan)

    @property
    def quantity(self) -> Quantity:
        """Name, direction and unit, for statements about differences."""
        return Quantity(self.heading, self.better, "%" in self.format)

    def logged_as(self, variant: str) -> tuple[str, str]:
        """The metrics of a comparison's own run: the mean of the variant, and its difference to the first variant."""
        return f"{self.metric}/{variant}", f"difference/{self.metric}/{variant}"

    def written(self, found: pd.Series, seeds: int, none: str = "none") -> str:
        """`mean` ± `std` over the `count` runs with a value, and the count if it is below `seeds`."""
        if not found["count"]:
            return none
        deviation = "" if math.isnan(found["std"]) else f" ± {self.format.format(found['std'])}"
        count = "" if found["count"] == seeds else f" (n={found['count']:.0f})"
        return f"{self.format.format(found['mean'])}{deviation}{count}"


def of_maps(row: MapMeasure, metric: str) -> Measure:
    """The measure of maps that is logged as `metric`. In a comparison neither direction is better."""
    return Measure(metric, row.heading, row.format, row.meaning, "neither")


def _at_last_layer(name: str) -> Measure:
    return of_maps(MAP_MEASURES[name], f"cam/{LAST}/{name}")


HEADLINE_FOCUS = _at_last_layer("focus")
MAP_ON_OBJECT = _at_last_layer("energy")
BACKGROUND_GAP = Measure(
    "shift/background_gap",
    "background gap",
    "{:z.1%}",
    "accuracy on the own class's background minus that on another's, same objects; 0 = background does not matter",
    "lower",
)
TEST_ACCURACY = Measure("test/accuracy", "test accuracy", "{:z.2%}", "share of the test images classified correctly")

WORST_GROUP = Measure(
    "test/worst_group_accuracy",
    "worst-group accuracy",
    "{:z.2%}",
    "accuracy on the test images of the group where it is lowest; each network has its own worst group",
)

MEASURES = (
    TEST_ACCURACY,
    Measure(
        "test/balanced_accuracy",
        "balanced accuracy",
        "{:z.2%}",
        "mean over the classes of the share of their test images classified correctly; each class counts the same",
    ),
    WORST_GROUP,
    Measure("val/accuracy", "val accuracy", "{:z.2%}", "the same on the validation images"),
    BACKGROUND_GAP,
    Measure(
        "shift/background_only_accuracy",
        "background alone",
        "{:z.1%}",
        "accuracy on the background without the object; by chance it would be one over the number of classes",
        "neither",
    ),
    Measure(
        "shift/background_flips",
        "flipped by background",
        "{:z.1%}",
        "share of predictions that change when the same object gets another class's background",
        "lower",
    ),
    Measure(
        "shift/corrupted_accuracy",
        "accuracy, corrupted",
        "{:z.2%}",
        "accuracy on CIFAR-10-C: mean over 15 corruptions of the test images and their five severities",
    ),
    HEADLINE_FOCUS,
    *map(_at_last_layer, ("energy", "recall", "precision", "coverage")),
    Measure(
        "faith/deletion_margin",
        "deletion margin",
        "{:z.3f}",
        "how much faster the prediction falls when pixels go in the map's order than in a random map's; inpainted",
        "neither",
    ),
)

IN_VIEW = (TEST_ACCURACY, BACKGROUND_GAP, HEADLINE_FOCUS, MAP_ON_OBJECT)
"""The measures that MLflow's view of a comparison draws as bars."""
IS_BETTER = "Is the network better?"
ASKED = {TEST_ACCURACY: IS_BETTER, WORST_GROUP: "Is it better in its worst group?"}
"""The questions about accuracy that are asked beforehand, by the measure that answers them."""

SECONDARY = {
    f"cam/{LAST}/recall": "Does the map cover the whole object?",
    f"cam/{LAST}/precision": "Does the map keep to the object?",
}
"""Further questions, by the measure that answers them. Not asked beforehand; the intervals are not corrected."""

WITHOUT_MASKS = {f"cam/{LAST}/coverage": "Is the bright part of the map larger?"}
"""The questions that remain for a data set without object masks."""

FOCUS = Quantity("focus index on the images both classify correctly", "neither", share=False)


def last_layer(run: FinishedRun) -> str:
    """The deepest of the layers that the run explained."""
    return config(run).layers[-1]

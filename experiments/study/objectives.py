"""What a study can search for, and which direction is better."""

import re
from collections.abc import Mapping

from ..errors import did_you_mean
from ..explaining.map_measures import MAP_MEASURES
from ..settings.base import NONE

SCORES: Mapping[str, str] = {
    "val/accuracy": "maximize",
    "val/loss": "minimize",
}


MEASURES: Mapping[str, str] = {
    measure.name: "maximize" if measure.direction == "higher" else "minimize"
    for measure in MAP_MEASURES.values()
    if measure.direction != "neither"
}
"""Measures of maps that can be an objective, with the direction that a study takes for better."""


_CAM = re.compile(r"cam/(?P<layer>[\w.]+)/(?P<measure>\w+)")


def direction(objective: str) -> str:
    """`maximize` or `minimize`.

    Raises:
        ValueError: the objective is unknown, of the test images, or no quality.
    """
    if objective in SCORES:
        return SCORES[objective]
    if objective.startswith("test/"):
        raise ValueError(f"{objective!r} is of the test images, on which nothing may be chosen; take val/accuracy")
    match = _CAM.fullmatch(objective)
    if match and match["measure"] in MEASURES:
        return MEASURES[match["measure"]]
    if match and match["measure"] in MAP_MEASURES:
        raise ValueError(
            f"{objective!r} is no objective: {match['measure']} is a size and no quality, neither more nor less of it "
            f"is better; take one of {', '.join(MEASURES)}"
        )
    hint = did_you_mean(objective, list(SCORES))
    if match:
        hint = did_you_mean(match["measure"], list(MEASURES))
    raise ValueError(
        f"{objective!r} is no objective: val/accuracy, val/loss or cam/<layer>/<measure>, "
        f"the measure one of {', '.join(MEASURES)}{hint}"
    )


def checked_objective(text: str) -> str:
    direction(text)
    return text


def checked_objectives(text: str) -> str:
    names = [] if text == NONE else [name.strip() for name in text.split(",")]
    for name in names:
        direction(name)
    if text != NONE and not 2 <= len(set(names)) == len(names) <= 3:
        raise ValueError("must be none, or two or three different ones, such as val/accuracy,cam/layer3/focus")
    return text

"""What the charts of a study share: the table of trials, markers of trials and baselines, axes, legends."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from optuna.trial import FrozenTrial

from ..evidence.differences import Quantity
from ..pictures.charts import INK, MARKERS
from ..pictures.style import COLOURS, SMALL
from .notes import Notes

FEWEST_TRIALS = 8  # with fewer, importances and contours show only chance
TOP = 0.25  # the share of the trials that count as the best
UP: Mapping[str, str] = {"higher": "better ↑", "lower": "better ↓"}


# In the order of the panels of the slice chart.
PARAMETERS: Mapping[str, str] = {
    "cutout_holes": "holes",
    "cutout_size": "side of a hole (px)",
    "cutout_height": "height of a hole (px)",
    "cutout_width": "width of a hole (px)",
    "cutout_p": "probability of holes",
    "cutout_fill": "fill",
    "cutout_placement": "placement",
}


@dataclass(frozen=True)
class Baselines:
    """The known settings.

    Attributes:
        values: of the first objective in the unit of the chart, for those that have one.
        styles: colour and marker of all.
    """

    values: Mapping[str, float]
    styles: Mapping[str, tuple[str, str]]


def is_whole(values: pd.Series) -> bool:
    return bool((values % 1 == 0).all())


def has_best(values: Sequence[float], quantity: Quantity) -> bool:
    """Whether the best share `TOP` of the values is better than the worst value."""
    ranked = sorted(values, reverse=quantity.better == "higher")
    return ranked[math.ceil(TOP * len(ranked)) - 1] != ranked[-1]


def draw_trials(axes: Axes, table: pd.DataFrame, places: pd.Series, quantity: Quantity, baselines: Baselines) -> None:
    """Draws a marker for each trial; each baseline has its own."""
    plain = table["baseline"].isna()
    axes.plot(places[plain], table.loc[plain, quantity.name], MARKERS[0], color=COLOURS[0], markersize=5, alpha=0.7)
    for name, (colour, marker) in baselines.styles.items():
        own = table["baseline"] == name
        values = table.loc[own, quantity.name]
        axes.plot(places[own], values, marker, color=colour, markeredgecolor=INK, markersize=8, zorder=4)


def far_limit(values: pd.Series, quantity: Quantity) -> float:
    """The end of the axis, so that a few far worse trials do not squeeze all others together; NaN if there are none.

    Far means three times the distance between the quartiles beyond the worse quartile (Tukey 1977).
    """
    low, high = values.quantile(0.25), values.quantile(0.75)
    if quantity.better == "higher":
        limit, beyond = low - 3 * (high - low), values.min() < low - 3 * (high - low)
    else:
        limit, beyond = high + 3 * (high - low), values.max() > high + 3 * (high - low)
    return float(limit) if beyond and low < high else math.nan


def without_far(axes: Axes, table: pd.DataFrame, places: pd.Series, quantity: Quantity, limit: float) -> None:
    """Ends the axis at the limit, and draws an arrow for each trial beyond it."""
    if math.isnan(limit):
        return
    higher = quantity.better == "higher"
    beyond = table[quantity.name] < limit if higher else table[quantity.name] > limit
    axes.plot(places[beyond], [limit] * int(beyond.sum()), "v" if higher else "^", color=INK, clip_on=False)
    axes.set_ylim(bottom=limit if higher else None, top=None if higher else limit)


def far_keys(quantity: Quantity, limit: float) -> list[Line2D]:
    if math.isnan(limit):
        return []
    marker = "v" if quantity.better == "higher" else "^"
    return [Line2D([], [], linestyle="", marker=marker, color=INK, label="far worse, beyond the axis")]


def draw_lines(axes: Axes, baselines: Baselines) -> None:
    for name, value in baselines.values.items():
        axes.axhline(value, color=baselines.styles[name][0], linestyle="--", linewidth=1.2, zorder=1)


def legend_keys(quantity: Quantity, baselines: Baselines) -> list[Line2D]:
    """Legend entries of the trials and of every baseline, with its value if it has one."""
    keys = [Line2D([], [], linestyle="", marker=MARKERS[0], color=COLOURS[0], markersize=5, label="trial")]
    for name, (colour, marker) in baselines.styles.items():
        value = baselines.values.get(name)
        text = name if value is None else f"{name}: {amount_text(value, quantity)}"
        key = Line2D([], [], marker=marker, color=colour, markeredgecolor=INK, markersize=7, label=text)
        key.set_linestyle("" if value is None else "--")
        keys.append(key)
    return keys


def set_values(axes: Axes, quantity: Quantity) -> None:
    """Labels the vertical axis."""
    axes.set_ylabel(axis_heading(quantity))
    axes.set_title(UP[quantity.better], loc="left", fontsize=SMALL)
    axes.grid(axis="y", alpha=0.3)


def axis_scale(quantity: Quantity) -> int:
    return 100 if quantity.share else 1


def axis_heading(quantity: Quantity) -> str:
    return quantity.name + (" (%)" if quantity.share else "")


def amount_text(value: float, quantity: Quantity) -> str:
    return f"{value:.2f} %" if quantity.share else f"{value:.3f}"


def parameter_of(name: str) -> str:
    """The name of the parameter for people."""
    return PARAMETERS.get(name, name)


def trial_table(trials: Sequence[FrozenTrial], quantities: Sequence[Quantity]) -> pd.DataFrame:
    """A row for each trial: `ticket`, `label`, `baseline`, objectives in the unit of the chart, and parameters."""
    columns = ["ticket", "label", "baseline", *(quantity.name for quantity in quantities), *PARAMETERS]
    rows = [
        [
            (notes := Notes.of(trial)).ticket,
            notes.label or notes.name,
            notes.baseline,
            *(value * axis_scale(quantity) for value, quantity in zip(trial.values, quantities, strict=True)),
            *(trial.params.get(name) for name in PARAMETERS),
        ]
        for trial in trials
    ]
    return pd.DataFrame(rows, columns=columns)

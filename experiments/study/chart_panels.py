"""Parts that the charts of a study share: axes, keys, values of a parameter."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from optuna.trial import FrozenTrial

from ..evidence.differences import Quantity
from ..pictures.charts import INK, MARKERS, SMALL
from ..pictures.style import COLOURS

FEW_VALUES = 6  # of a parameter in whole numbers or words up to which each has its median
REACH = 0.15  # of an axis: how far a trial speaks for its neighbourhood in a contour
UP: Mapping[str, str] = {"higher": "better ↑", "lower": "better ↓"}


# In the order of the panels.
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
    """The known settings: values of the first objective, as shown, of those that have one; colour and marker of all."""

    values: Mapping[str, float]
    styles: Mapping[str, tuple[str, str]]


def is_whole(values: pd.Series) -> bool:
    return bool((values % 1 == 0).all())


def draw_trials(axes: Axes, table: pd.DataFrame, places: pd.Series, quantity: Quantity, baselines: Baselines) -> None:
    """A marker per trial; baselines have their own."""
    plain = table["baseline"].isna()
    axes.plot(places[plain], table.loc[plain, quantity.name], MARKERS[0], color=COLOURS[0], markersize=5, alpha=0.7)
    for name, (colour, marker) in baselines.styles.items():
        own = table["baseline"] == name
        values = table.loc[own, quantity.name]
        axes.plot(places[own], values, marker, color=colour, markeredgecolor=INK, markersize=8, zorder=4)


def far_limit(values: pd.Series, quantity: Quantity) -> float:
    """Where the axis ends, so that few trials that are far worse do not press all others together; NaN: nowhere.

    Far is three times the distance of the quartiles beyond the worse of them (Tukey 1977).
    """
    low, high = values.quantile(0.25), values.quantile(0.75)
    if quantity.better == "higher":
        limit, beyond = low - 3 * (high - low), values.min() < low - 3 * (high - low)
    else:
        limit, beyond = high + 3 * (high - low), values.max() > high + 3 * (high - low)
    return float(limit) if beyond and low < high else math.nan


def without_far(axes: Axes, table: pd.DataFrame, places: pd.Series, quantity: Quantity, limit: float) -> None:
    """Ends the axis at the limit, with an arrow for each trial beyond it."""
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
    return [Line2D([], [], linestyle="", marker=marker, color=INK, label="beyond the axis: far worse")]


def draw_lines(axes: Axes, baselines: Baselines) -> None:
    for name, value in baselines.values.items():
        axes.axhline(value, color=baselines.styles[name][0], linestyle="--", linewidth=1.2, zorder=1)


def legend_keys(quantity: Quantity, baselines: Baselines) -> list[Line2D]:
    """Keys of the trials and of every baseline, with its value where it has one."""
    keys = [Line2D([], [], linestyle="", marker=MARKERS[0], color=COLOURS[0], markersize=5, label="trial")]
    for name, (colour, marker) in baselines.styles.items():
        value = baselines.values.get(name)
        text = name if value is None else f"{name}: {amount_text(value, quantity)}"
        key = Line2D([], [], marker=marker, color=colour, markeredgecolor=INK, markersize=7, label=text)
        key.set_linestyle("" if value is None else "--")
        keys.append(key)
    return keys


def set_values(axes: Axes, quantity: Quantity) -> None:
    """What the vertical axis shows."""
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
    """The parameter's name for people."""
    return PARAMETERS.get(name, name)


def trial_table(trials: Sequence[FrozenTrial], quantities: Sequence[Quantity]) -> pd.DataFrame:
    """A row per trial: `ticket`, `label`, `baseline`, the objectives by name, as shown, and the known parameters."""
    columns = ["ticket", "label", "baseline", *(quantity.name for quantity in quantities), *PARAMETERS]
    rows = [
        [
            trial.user_attrs["ticket"],
            trial.user_attrs.get("label", f"trial {trial.user_attrs['ticket']}"),
            trial.user_attrs.get("baseline"),
            *(value * axis_scale(quantity) for value, quantity in zip(trial.values, quantities, strict=True)),
            *(trial.params.get(name) for name in PARAMETERS),
        ]
        for trial in trials
    ]
    return pd.DataFrame(rows, columns=columns)

"""The charts of a study: the course of the search, the importance of parameters, where the good values lie.

Optuna's own matplotlib charts are not used. They draw through the global state of pyplot, and they name parameters as
in the code. Of several trials at one point their contour plot shows only one; whole numbers give many such trials.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import optuna
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from optuna.trial import FrozenTrial, TrialState
from pandas.api.types import is_numeric_dtype

from ..evidence.differences import Quantity
from ..pictures.charts import DIRECTION, INK, MARKERS, WIDTH, legend_below, titled_figure
from ..pictures.failsafe import drawn_or_explained
from ..pictures.style import COLOURS, SMALL, Pixels, drawn
from .chart_panels import (
    FEWEST_TRIALS,
    PARAMETERS,
    Baselines,
    amount_text,
    axis_heading,
    axis_scale,
    draw_lines,
    draw_trials,
    far_keys,
    far_limit,
    has_best,
    is_whole,
    legend_keys,
    parameter_of,
    set_values,
    trial_table,
    without_far,
)
from .importance_chart import importance_chart
from .notes import ticket_of
from .race import undominated
from .results import quantity

ENOUGH_FOR_MEANS = 20  # trials; with fewer, a contour has no background
FEW_VALUES = 6  # up to so many values of a parameter, each gets its median
MOST_CONTOURS = 3
REACH = 0.15  # of an axis: the standard deviation of the weights around a trial in a contour

# The most informative first.
CONTOURS = (
    ("cutout_width", "cutout_height"),
    ("cutout_size", "cutout_holes"),
    ("cutout_size", "cutout_p"),
    ("cutout_holes", "cutout_p"),
    ("cutout_height", "cutout_holes"),
)


def iter_charts(
    study: optuna.Study, objectives: Sequence[str], baselines: Mapping[str, float]
) -> Iterator[tuple[str, Pixels]]:
    """Yields each chart with its path in a run.

    A chart is left out if there are too few trials, or if nothing varies.
    `charts/history.png`, `charts/importance.png`, `charts/slice.png` and `charts/contour.png` show the first objective.
    `charts/pareto.png` shows it against each other objective. Only completed trials with finite values are drawn. Their
    `Notes` give their numbers, labels and baselines.

    Args:
        objectives: names such as `val/accuracy`, in the order of the directions of the study. Accuracies are shares in
            [0, 1] and are shown in per cent.
        baselines: values of the first objective to compare with, by name.

    Raises:
        ValueError: the number of objectives differs from the number of directions.
    """
    directions = [direction.name.lower() for direction in study.directions]
    quantities = [quantity(*pair) for pair in zip(objectives, directions, strict=True)]
    trials = sorted(
        (
            trial
            for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if np.isfinite(trial.values).all()
        ),
        key=lambda trial: ticket_of(trial) or 0,
    )
    for name, chart in _iter_figures(trials, quantities, baselines):
        path = f"charts/{name}.png"
        if (picture := drawn_or_explained(path, partial(_drawn, chart))) is not None:
            yield path, picture


def _drawn(chart: Callable[[], Figure | None]) -> Pixels | None:
    figure = chart()
    return None if figure is None else drawn(figure)


def _iter_figures(
    trials: Sequence[FrozenTrial], quantities: Sequence[Quantity], baselines: Mapping[str, float]
) -> Iterator[tuple[str, Callable[[], Figure | None]]]:
    first = quantities[0]
    table = trial_table(trials, quantities)
    names = dict.fromkeys([*baselines, *table["baseline"].dropna()])
    # The first colour and marker are those of the other trials.
    styles = {name: (COLOURS[turn % len(COLOURS)], MARKERS[turn % len(MARKERS)]) for turn, name in enumerate(names, 1)}
    known = Baselines({name: value * axis_scale(first) for name, value in baselines.items()}, styles)
    yield "history", partial(_history, table, first, known)
    yield "importance", partial(importance_chart, trials, first)
    yield "slice", partial(_slice, table, first, known)
    yield "contour", partial(_contour, table, first)
    if len(quantities) > 1:
        yield "pareto", partial(_pareto, table, quantities, known)


def _history(table: pd.DataFrame, quantity: Quantity, baselines: Baselines) -> Figure | None:
    """The objective of each trial, the best so far, and the baselines."""
    if len(table) < 2:
        return None
    values = table[quantity.name]
    best = values.cummax() if quantity.better == "higher" else values.cummin()
    winner = table.iloc[int(values.argmax() if quantity.better == "higher" else values.argmin())]
    note = f"{len(table)} completed trials; the best of so many is partly luck"
    figure = titled_figure(4.2, f"The search\n{note}")
    axes = figure.subplots()
    axes.step(table["ticket"], best, where="post", color=INK, linewidth=1.2)
    draw_trials(axes, table, table["ticket"], quantity, baselines)
    draw_lines(axes, baselines)
    limit = far_limit(values, quantity)
    without_far(axes, table, table["ticket"], quantity, limit)
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    set_values(axes, quantity)
    end = f"best so far; at the end {winner['label']}: {amount_text(winner[quantity.name], quantity)}"
    best_key = Line2D([], [], color=INK, linewidth=1.2, label=end)
    legend_below(figure, [*legend_keys(quantity, baselines), *far_keys(quantity, limit), best_key])
    return figure


def _slice(table: pd.DataFrame, quantity: Quantity, baselines: Baselines) -> Figure | None:
    """One panel for each parameter that varies: the objective of the trials against it."""
    names = [name for name in PARAMETERS if table[name].nunique() > 1]
    if not names:
        return None
    columns = min(2, len(names))
    rows = math.ceil(len(names) / columns)
    what = "Each dot is a trial. Each bar is the median of the trials with this value."
    figure = titled_figure(0.8 + 2.4 * rows, f"The {quantity.name} by parameter\n{what}")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    limit = far_limit(table[quantity.name], quantity)
    for axes, name in zip(panels.flat, names, strict=False):
        _slice_panel(axes, table.dropna(subset=name), name, quantity, baselines, limit)
    for axes in panels.flat[len(names) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        set_values(axes, quantity)
    legend_below(figure, [*legend_keys(quantity, baselines), *far_keys(quantity, limit)])
    return figure


def _slice_panel(
    axes: Axes, table: pd.DataFrame, name: str, quantity: Quantity, baselines: Baselines, limit: float
) -> None:
    values = sorted(table[name].unique())
    places = table[name]
    if not is_numeric_dtype(places):
        places = places.map(values.index)
        axes.set_xticks(range(len(values)), values)
        axes.set_xlim(-0.6, len(values) - 0.4)
    elif is_whole(places):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if is_whole(places) and len(values) <= FEW_VALUES:
        for place, own in table.groupby(places)[quantity.name]:
            if len(own) > 1:
                axes.plot([place - 0.3, place + 0.3], [own.median()] * 2, color=INK, linewidth=2.5, zorder=3)
    draw_trials(axes, table, places, quantity, baselines)
    draw_lines(axes, baselines)
    without_far(axes, table, places, quantity, limit)
    axes.set_xlabel(parameter_of(name))


def _contour(table: pd.DataFrame, quantity: Quantity) -> Figure | None:
    """The objective over pairs of numeric parameters: each trial, and the mean of nearby trials."""
    pairs = list(islice((pair for pair in CONTOURS if _has_contour(table, pair, quantity)), MOST_CONTOURS))
    if not pairs:
        return None
    what = "Each dot is a trial; better trials are drawn on top."
    if any(len(table.dropna(subset=list(pair))) >= ENOUGH_FOR_MEANS for pair in pairs):
        what += " Background: mean of nearby trials; white: no trial is near."
    width = WIDTH / max(len(pairs), 2) - 0.3
    figure = titled_figure(width + 1.1, f"The {quantity.name} by two parameters\n{what}")
    # The worst quarter has one colour, so that the colours of the others differ more.
    low, high = np.quantile(table[quantity.name], [0.25, 1] if quantity.better == "higher" else [0, 0.75])
    norm = Normalize(low, high)
    panels = figure.subplots(1, len(pairs), squeeze=False)[0]
    for axes, pair in zip(panels, pairs, strict=True):
        dots = _contour_panel(axes, table.dropna(subset=list(pair)), pair, quantity, norm)
    extend = "min" if quantity.better == "higher" else "max"
    figure.colorbar(dots, ax=panels, extend=extend, label=axis_heading(quantity), pad=0.02)
    return figure


def _has_contour(table: pd.DataFrame, pair: tuple[str, str], quantity: Quantity) -> bool:
    own = table.dropna(subset=list(pair))
    return (
        len(own) >= FEWEST_TRIALS
        and all(own[name].nunique() > 1 for name in pair)
        and has_best(table[quantity.name].tolist(), quantity)
    )


def _contour_panel(
    axes: Axes, table: pd.DataFrame, pair: tuple[str, str], quantity: Quantity, norm: Normalize
) -> PathCollection:
    """Draws one pair; returns the dots, from which the colour bar is made."""
    colours: dict[str, Any] = {"cmap": "cividis" if quantity.better == "higher" else "cividis_r", "norm": norm}
    if len(table) >= ENOUGH_FOR_MEANS:
        points = table[list(pair)].to_numpy(float)
        low, size = points.min(axis=0), np.ptp(points, axis=0)
        grid = np.linspace(low - 0.08 * size, low + 1.08 * size, 200)
        # Limited like the colours, so that one very bad trial does not outweigh its neighbours.
        values = table[quantity.name].clip(norm.vmin, norm.vmax).to_numpy(float)
        means = _nearby_mean((points - low) / size, values, (grid - low) / size)
        axes.pcolormesh(*grid.T, means, shading="nearest", alpha=0.6, **colours)
    ordered = table.sort_values(quantity.name, ascending=quantity.better == "higher")
    x, y = ordered[list(pair)].to_numpy(float).T
    dots = axes.scatter(x, y, c=ordered[quantity.name], s=26, edgecolors=INK, **colours)
    for axis, name in zip((axes.xaxis, axes.yaxis), pair, strict=True):
        axis.set_major_locator(MaxNLocator(5, integer=is_whole(table[name])))
    axes.set(xlabel=parameter_of(pair[0]), ylabel=parameter_of(pair[1]))
    return dots


def _nearby_mean(
    points: Float[np.ndarray, "n 2"], values: Float[np.ndarray, "n"], grid: Float[np.ndarray, "g 2"]
) -> Float[np.ndarray, "g g"]:
    """The mean of the values around each crossing of the grid, Gaussian weights; NaN where no point is near.

    Points and grid have both axes in one unit, of which `REACH` is the standard deviation. Rows are along the second
    axis. The kernel regression of Nadaraya (1964) and Watson (1964).
    """
    squares = (grid[:, None] - points) ** 2
    distance = squares[None, :, :, 0] + squares[:, None, :, 1]
    weights = np.exp(-distance / (2 * REACH**2))
    mean = (weights * values).sum(axis=-1) / np.maximum(weights.sum(axis=-1), np.finfo(float).tiny)
    return np.where(distance.min(axis=-1) <= (1.5 * REACH) ** 2, mean, np.nan)


def _pareto(table: pd.DataFrame, quantities: Sequence[Quantity], baselines: Baselines) -> Figure | None:
    """The first objective against each other objective; trials on the Pareto front are circled and numbered."""
    if len(table) < 2:
        return None
    first, *others = quantities
    values = table[[quantity.name for quantity in quantities]].to_numpy(float)
    front = table[undominated(values.tolist(), [quantity.better == "higher" for quantity in quantities])]
    figure = titled_figure(
        4.6,
        "Trade-off between the objectives\n"
        "Circled and numbered: no other trial is as good in every objective and better in one.",
    )
    for axes, other in zip(figure.subplots(1, len(others), squeeze=False).flat, others, strict=True):
        axes.plot(front[first.name], front[other.name], "o", color="none", markeredgecolor=INK, markersize=12)
        draw_trials(axes, table, table[first.name], other, baselines)
        for _, trial in front.iterrows():
            axes.annotate(
                f"{trial['ticket']}",
                (trial[first.name], trial[other.name]),
                (6, 6),
                textcoords="offset points",
                zorder=5,
            )
        axes.margins(0.1)
        axes.set_xlabel(axis_heading(first))
        axes.set_title(DIRECTION[first.better], loc="right", fontsize=SMALL)
        set_values(axes, other)
    on_front = Line2D([], [], linestyle="", marker="o", color="none", markeredgecolor=INK, markersize=12)
    on_front.set_label("on the Pareto front")
    legend_below(figure, [*legend_keys(first, Baselines({}, baselines.styles)), on_front])
    return figure

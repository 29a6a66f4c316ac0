"""The charts of a study: the course of the search, the importance of parameters, where the good values lie.

Optuna's own matplotlib charts are not used. They draw through the global state of pyplot, and they name parameters as
in the code. Of several trials at one point their contour plot shows only one; whole numbers give many such trials.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
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
from ..pictures.style import COLOURS, SMALL, Pixels, drawn, drawn_or_explained
from .importance_chart import FEWEST_TRIALS, PARAMETERS, has_best, importance_chart
from .notes import Notes, ticket_of
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
    table = _trial_table(trials, quantities)
    names = dict.fromkeys([*baselines, *table["baseline"].dropna()])
    # The first colour and marker are those of the other trials.
    styles = {name: (COLOURS[turn % len(COLOURS)], MARKERS[turn % len(MARKERS)]) for turn, name in enumerate(names, 1)}
    first = quantities[0]
    search = _Search(table, first, {name: value * first.scale for name, value in baselines.items()}, styles)
    yield "history", partial(_history, search)
    yield "importance", partial(importance_chart, trials, first)
    yield "slice", partial(_slice, search)
    yield "contour", partial(_contour, table, first)
    if len(quantities) > 1:
        yield "pareto", partial(_pareto, search, quantities)


def _trial_table(trials: Sequence[FrozenTrial], quantities: Sequence[Quantity]) -> pd.DataFrame:
    """A row for each trial: `ticket`, `label`, `baseline`, objectives in the unit of the chart, and parameters."""
    columns = ["ticket", "label", "baseline", *(quantity.name for quantity in quantities), *PARAMETERS]
    rows = [
        [
            (notes := Notes.of(trial)).ticket,
            notes.label or notes.name,
            notes.baseline,
            *(value * quantity.scale for value, quantity in zip(trial.values, quantities, strict=True)),
            *(trial.params.get(name) for name in PARAMETERS),
        ]
        for trial in trials
    ]
    return pd.DataFrame(rows, columns=columns)


@dataclass(frozen=True)
class _Search:
    """The trials and the baselines, as charts of the first objective show them.

    Attributes:
        baselines: values of the known settings in the unit of the chart, for those that have one.
        styles: colour and marker of all known settings.
    """

    table: pd.DataFrame
    quantity: Quantity
    baselines: Mapping[str, float]
    styles: Mapping[str, tuple[str, str]]

    @cached_property
    def limit(self) -> float:
        """The end of the axis, so that a few far worse trials do not squeeze all others together; NaN without those.

        Far means three times the distance between the quartiles beyond the worse quartile (Tukey 1977).
        """
        values = self.table[self.quantity.name]
        low, high = values.quantile(0.25), values.quantile(0.75)
        limit = low - 3 * (high - low) if self.quantity.higher else high + 3 * (high - low)
        beyond = values.min() < limit if self.quantity.higher else values.max() > limit
        return float(limit) if beyond and low < high else math.nan

    def draw(self, axes: Axes, table: pd.DataFrame, places: pd.Series) -> None:
        """Draws these trials, a line for each baseline, and an arrow for each trial beyond the end of the axis."""
        name, higher = self.quantity.name, self.quantity.higher
        self.draw_markers(axes, table, places, name)
        for baseline, value in self.baselines.items():
            axes.axhline(value, color=self.styles[baseline][0], linestyle="--", linewidth=1.2, zorder=1)
        if not math.isnan(self.limit):
            beyond = table[name] < self.limit if higher else table[name] > self.limit
            axes.plot(places[beyond], [self.limit] * int(beyond.sum()), self._arrow, color=INK, clip_on=False)
            axes.set_ylim(bottom=self.limit if higher else None, top=None if higher else self.limit)

    def draw_markers(self, axes: Axes, table: pd.DataFrame, places: pd.Series, name: str) -> None:
        """Draws a marker for each trial, at the height of its column `name`; each baseline has its own."""
        plain = table["baseline"].isna()
        axes.plot(places[plain], table.loc[plain, name], MARKERS[0], color=COLOURS[0], markersize=5, alpha=0.7)
        for baseline, (colour, marker) in self.styles.items():
            own = table["baseline"] == baseline
            axes.plot(
                places[own], table.loc[own, name], marker, color=colour, markeredgecolor=INK, markersize=8, zorder=4
            )

    @property
    def _arrow(self) -> str:
        return "v" if self.quantity.higher else "^"

    def keys(self, *, with_values: bool = True) -> list[Line2D]:
        """Legend entries of the trials and of every baseline; with the values also of those, and of the arrows."""
        keys = [Line2D([], [], linestyle="", marker=MARKERS[0], color=COLOURS[0], markersize=5, label="trial")]
        for name, (colour, marker) in self.styles.items():
            value = self.baselines.get(name) if with_values else None
            text = name if value is None else f"{name}: {_amount(value, self.quantity)}"
            key = Line2D([], [], marker=marker, color=colour, markeredgecolor=INK, markersize=7, label=text)
            key.set_linestyle("" if value is None else "--")
            keys.append(key)
        if with_values and not math.isnan(self.limit):
            far = "far worse, beyond the axis"
            keys.append(Line2D([], [], linestyle="", marker=self._arrow, color=INK, label=far))
        return keys


def _label_values(axes: Axes, quantity: Quantity) -> None:
    """Labels the vertical axis."""
    axes.set_ylabel(quantity.axis)
    axes.set_title("better ↑" if quantity.higher else "better ↓", loc="left", fontsize=SMALL)
    axes.grid(axis="y", alpha=0.3)


def _amount(value: float, quantity: Quantity) -> str:
    return f"{value:.2f} %" if quantity.share else f"{value:.3f}"


def _is_whole(values: pd.Series) -> bool:
    return bool((values % 1 == 0).all())


def _history(search: _Search) -> Figure | None:
    """The objective of each trial, the best so far, and the baselines."""
    table, quantity = search.table, search.quantity
    if len(table) < 2:
        return None
    values = table[quantity.name]
    best = values.cummax() if quantity.higher else values.cummin()
    winner = table.iloc[int(values.argmax() if quantity.higher else values.argmin())]
    note = f"{len(table)} completed trials; the best of so many is partly luck"
    figure = titled_figure(4.2, f"The search\n{note}")
    axes = figure.subplots()
    axes.step(table["ticket"], best, where="post", color=INK, linewidth=1.2)
    search.draw(axes, table, table["ticket"])
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _label_values(axes, quantity)
    end = f"best so far; at the end {winner['label']}: {_amount(winner[quantity.name], quantity)}"
    legend_below(figure, [*search.keys(), Line2D([], [], color=INK, linewidth=1.2, label=end)])
    return figure


def _slice(search: _Search) -> Figure | None:
    """One panel for each parameter that varies: the objective of the trials against it."""
    names = [name for name in PARAMETERS if search.table[name].nunique() > 1]
    if not names:
        return None
    columns = min(2, len(names))
    rows = math.ceil(len(names) / columns)
    what = "Each dot is a trial. Each bar is the median of the trials with this value."
    figure = titled_figure(0.8 + 2.4 * rows, f"The {search.quantity.name} by parameter\n{what}")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, name in zip(panels.flat, names, strict=False):
        _slice_panel(axes, search, name)
    for axes in panels.flat[len(names) :]:
        axes.set_visible(False)
    for axes in panels[:, 0]:
        _label_values(axes, search.quantity)
    legend_below(figure, search.keys())
    return figure


def _slice_panel(axes: Axes, search: _Search, name: str) -> None:
    table = search.table.dropna(subset=name)
    values, places = sorted(table[name].unique()), table[name]
    if not is_numeric_dtype(places):
        places = places.map(values.index)
        axes.set_xticks(range(len(values)), values)
        axes.set_xlim(-0.6, len(values) - 0.4)
    elif _is_whole(places):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if _is_whole(places) and len(values) <= FEW_VALUES:
        for place, own in table.groupby(places)[search.quantity.name]:
            if len(own) > 1:
                axes.plot([place - 0.3, place + 0.3], [own.median()] * 2, color=INK, linewidth=2.5, zorder=3)
    search.draw(axes, table, places)
    axes.set_xlabel(PARAMETERS[name])


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
    low, high = np.quantile(table[quantity.name], [0.25, 1] if quantity.higher else [0, 0.75])
    norm = Normalize(low, high)
    panels = figure.subplots(1, len(pairs), squeeze=False)[0]
    for axes, pair in zip(panels, pairs, strict=True):
        dots = _contour_panel(axes, table.dropna(subset=list(pair)), pair, quantity, norm)
    extend = "min" if quantity.higher else "max"
    figure.colorbar(dots, ax=panels, extend=extend, label=quantity.axis, pad=0.02)
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
    colours: dict[str, Any] = {"cmap": "cividis" if quantity.higher else "cividis_r", "norm": norm}
    if len(table) >= ENOUGH_FOR_MEANS:
        points = table[list(pair)].to_numpy(float)
        low, size = points.min(axis=0), np.ptp(points, axis=0)
        grid = np.linspace(low - 0.08 * size, low + 1.08 * size, 200)
        # Limited like the colours, so that one very bad trial does not outweigh its neighbours.
        values = table[quantity.name].clip(norm.vmin, norm.vmax).to_numpy(float)
        means = _nearby_mean((points - low) / size, values, (grid - low) / size)
        axes.pcolormesh(*grid.T, means, shading="nearest", alpha=0.6, **colours)
    ordered = table.sort_values(quantity.name, ascending=quantity.higher)
    x, y = ordered[list(pair)].to_numpy(float).T
    dots = axes.scatter(x, y, c=ordered[quantity.name], s=26, edgecolors=INK, **colours)
    for axis, name in zip((axes.xaxis, axes.yaxis), pair, strict=True):
        axis.set_major_locator(MaxNLocator(5, integer=_is_whole(table[name])))
    axes.set(xlabel=PARAMETERS[pair[0]], ylabel=PARAMETERS[pair[1]])
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


def _pareto(search: _Search, quantities: Sequence[Quantity]) -> Figure | None:
    """The first objective against each other objective; trials on the Pareto front are circled and numbered."""
    table = search.table
    if len(table) < 2:
        return None
    first, *others = quantities
    values = table[[quantity.name for quantity in quantities]].to_numpy(float)
    front = table[undominated(values.tolist(), [quantity.higher for quantity in quantities])]
    figure = titled_figure(
        4.6,
        "Trade-off between the objectives\n"
        "Circled and numbered: no other trial is as good in every objective and better in one.",
    )
    for axes, other in zip(figure.subplots(1, len(others), squeeze=False).flat, others, strict=True):
        axes.plot(front[first.name], front[other.name], "o", color="none", markeredgecolor=INK, markersize=12)
        search.draw_markers(axes, table, table[first.name], other.name)
        for _, trial in front.iterrows():
            place = trial[first.name], trial[other.name]
            axes.annotate(f"{trial['ticket']}", place, (6, 6), textcoords="offset points", zorder=5)
        axes.margins(0.1)
        axes.set_xlabel(first.axis)
        axes.set_title(DIRECTION[first.better], loc="right", fontsize=SMALL)
        _label_values(axes, other)
    on_front = Line2D([], [], linestyle="", marker="o", color="none", markeredgecolor=INK, markersize=12)
    on_front.set_label("on the Pareto front")
    legend_below(figure, [*search.keys(with_values=False), on_front])
    return figure

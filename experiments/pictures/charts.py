"""The charts of a comparison: each function takes tables or plain data and returns one picture, uint8 `(h, w, 3)`.

A variant has the same colour and marker in every chart, so every chart can be read without colours. Every seed is
shown, as a dot or as an end of a band. No text is smaller than 9 points.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ..evidence.differences import Better, Quantity
from ..evidence.network_tests import Calibration
from ..evidence.sentences import mean_text
from .style import COLOURS, LARGE, PLAIN, SMALL, Pixels, drawn, text_width, wrapped

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
INK, FAINT = "#202124", "#9aa0a6"
WIDTH, DPI = 8.5, 130  # inches, pixels per inch
LINE = 0.165  # inches from one line of text to the next
NAME = 2.2  # width in inches of a name next to a chart
FEW = 10  # with fewer images in a bin its accuracy is not reliable
MOST_CLASSES = 50
DIRECTION: dict[Better, str] = {"higher": "better →", "lower": "← better", "neither": ""}
SPLITS: dict[str, dict[str, Any]] = {
    "train": {"linestyle": ":", "fillstyle": "none"},
    "val": {"linestyle": "-", "fillstyle": "full"},
    "test": {"linestyle": "--", "fillstyle": "left"},
}
SPLIT_NAMES = {"train": "training, on augmented images", "val": "validation", "test": "test"}
AGREEMENTS = {"rank_correlation": "rank correlation", "top_iou": "overlap of the top fifth"}


def forest(differences: pd.DataFrame, quantities: Mapping[str, Quantity]) -> Pixels:
    """A panel per measure with a row per variant: the difference to the baseline, a dot per seed, a line at zero.

    `differences` is the table `Findings.differences`; `quantities` are the measures to show, by their name in its
    column `measure`. With three seeds or more the chart shows the mean and its 95 % interval, also in numbers.
    """
    table = differences.astype({"low": float, "high": float})
    names = list(dict.fromkeys(table["variant"]))
    shown = {measure: quantity for measure, quantity in quantities.items() if (table["measure"] == measure).any()}
    height = 0.75 + _rows_height(names)
    figure = titled_figure(0.8 + height * len(shown), _forest_title(table))
    panels = figure.subplots(len(shown), 1, squeeze=False).flat
    for axes, (measure, quantity) in zip(panels, shown.items(), strict=True):
        _forest_panel(axes, table[table["measure"] == measure], names, quantity)
    return drawn(figure)


def _forest_title(table: pd.DataFrame) -> str:
    seeds = int(table["seeds"].max())
    what = f"mean and 95 % interval over {seeds} seeds" if table["low"].notna().any() else "too few for an interval"
    dots = "each dot is a seed" if seeds > 1 else "one seed"
    return f"Difference to {table['against'].iloc[0]}, paired by seed\n{dots}; {what}"


def _forest_panel(axes: Axes, rows: pd.DataFrame, names: Sequence[str], quantity: Quantity) -> None:
    axes.axvline(0, color=INK, linewidth=1)
    values = [0.0]
    for turn, (name, place) in enumerate(zip(names, _places(names), strict=True), start=1):
        for _, row in rows[rows["variant"] == name].iterrows():
            values += _forest_row(axes, row, turn, place, quantity.scale)
    # Room around the values, also if all of them are equal.
    low, high = min(values), max(values)
    pad = 0.08 * (high - low) or 1.0
    axes.set_xlim(low - pad, high + pad)
    axes.xaxis.set_major_locator(MaxNLocator(7))
    _set_names(axes, names)
    unit = " (points)" if quantity.share else ""
    _set_heading(axes, quantity.name + unit, quantity.better)


def _forest_row(axes: Axes, row: pd.Series, turn: int, place: float, scale: int) -> list[float]:
    """Draws one difference and returns the drawn values."""
    colour, marker = _style(turn)
    seeds = [value * scale for value in row["per_seed"]]
    mean, low, high = (row[column] * scale for column in ("mean", "low", "high"))
    decimals = 2 if scale > 1 else 3
    amount = f"{mean:+z.{decimals}f}"
    if math.isnan(low):
        axes.plot(seeds, [place] * len(seeds), marker, color=colour, markeredgecolor=INK, markersize=6)
    else:
        axes.plot(seeds, [place + 0.55] * len(seeds), "o", color=FAINT, markeredgecolor=INK, markersize=3.5, alpha=0.7)
        axes.plot([low, high], [place - 0.15] * 2, color=colour, linewidth=2.5, solid_capstyle="butt")
        axes.plot(mean, place - 0.15, marker, color=colour, markeredgecolor=INK, markersize=8)
        amount += f"  ({low:+z.{decimals}f} to {high:+z.{decimals}f})"
    axes.text(1.02, place, amount, transform=axes.get_yaxis_transform(), va="center", fontsize=SMALL)
    return [*seeds, *(bound for bound in (low, high) if not math.isnan(bound))]


def seeds(runs: pd.DataFrame, quantities: Mapping[str, Quantity]) -> Pixels:
    """A panel per measure with a row per variant: a dot per run, a bar for the mean, and lines between paired seeds.

    `runs` is the table `Findings.runs`; `quantities` are the measures to show, by column. Seeds are paired in order.
    """
    names = list(dict.fromkeys(runs["variant"]))
    paired = runs.sort_values("seed").assign(turn=lambda table: table.groupby("variant").cumcount())
    shown = [measure for measure in quantities if measure in runs]
    columns = min(2, len(shown))
    lines = math.ceil(len(shown) / columns)
    joined = "each dot is a run, the bar their mean; lines join paired seeds"
    title = f"Every run\n{joined if len(runs) > len(names) else 'one seed: each marker is one run'}"
    figure = titled_figure(0.8 + lines * (0.75 + _rows_height(names)), title)
    panels = figure.subplots(lines, columns, squeeze=False, sharey=True)
    for axes, measure in zip(panels.flat, shown, strict=False):
        quantity = quantities[measure]
        values = paired.pivot(index="turn", columns="variant", values=measure)[names].to_numpy(float)
        _seeds_panel(axes, values * quantity.scale, _places(names))
        _set_names(axes, names)
        _set_heading(axes, quantity.axis, quantity.better)
    for axes in panels.flat[len(shown) :]:
        axes.set_visible(False)
    return drawn(figure)


def _seeds_panel(axes: Axes, values: Float[np.ndarray, "seeds variants"], places: Sequence[float]) -> None:
    for own in values:
        axes.plot(own, places, color=FAINT, linewidth=0.8, zorder=1)
    for turn, (own, place) in enumerate(zip(values.T, places, strict=True)):
        colour, marker = _style(turn)
        axes.plot(own, [place] * len(own), marker, color=colour, markeredgecolor=INK, markersize=6, alpha=0.8)
        if np.isfinite(own).sum() > 1:
            axes.plot([np.nanmean(own)] * 2, [place - 0.7, place + 0.7], color=INK, linewidth=2.5)
    axes.margins(x=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(5))


def curves(histories: Mapping[str, Sequence[pd.DataFrame]]) -> Pixels:
    """Loss and accuracy per epoch: a line for the mean of each variant's seeds, a band from the lowest to the highest.

    Each history is indexed by epoch; its columns are `train/loss`, `val/accuracy` and so on, as far as they exist.
    """
    most = max(len(some) for some in histories.values())
    what = f"mean of {most} seeds, band from the lowest to the highest" if most > 1 else "one seed"
    figure = titled_figure(4.8, f"Training\n{what}")
    splits = set()
    for axes, measure in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for turn, some in enumerate(histories.values()):
            for split in SPLITS:
                values = [own[f"{split}/{measure}"].dropna() for own in some if f"{split}/{measure}" in own]
                if any(map(len, values)):
                    splits.add(split)
                    _curve(axes, pd.concat(values, axis=1).sort_index(), split, turn, len(histories))
        if axes.get_xlim()[1] - axes.get_xlim()[0] < 1:  # one epoch
            axes.set_xlim(0.4, 1.6)
        axes.set(xlabel="epoch", ylabel=measure)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
    split_keys = [
        Line2D([], [], color=INK, marker="o", markersize=5, label=SPLIT_NAMES[split], **style)
        for split, style in SPLITS.items()
        if split in splits
    ]
    legend_below(figure, [*_variant_keys(list(histories)), *split_keys])
    return drawn(figure)


def _curve(axes: Axes, values: pd.DataFrame, split: str, turn: int, variants: int) -> None:
    colour, marker = _style(turn)
    epochs, low, high = values.index.to_numpy(float), values.min(axis=1), values.max(axis=1)
    if len(values) == 1:  # side by side, because without lines the points would overlap
        epochs = epochs + 0.08 * (turn - (variants - 1) / 2)
        axes.vlines(epochs, low, high, color=colour)
    axes.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)
    every = (turn % 4, len(values) // 5) if len(values) > 4 else None
    axes.plot(epochs, values.mean(axis=1), color=colour, marker=marker, markersize=5, markevery=every, **SPLITS[split])


def reliability(calibrations: Mapping[str, Sequence[Calibration]]) -> Pixels:
    """Accuracy against confidence, all seeds of a variant in one line; below, how many images have that confidence.

    The legend shows the expected calibration error and the Brier score, mean and standard deviation over seeds.
    """
    several = any(len(some) > 1 for some in calibrations.values())
    seeds = "; thin: from the lowest to the highest seed" if several else ""
    figure = titled_figure(6.8, f"Reliability\nhollow: fewer than {FEW} images per run{seeds}")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    above.plot([0, 1], [0, 1], color=FAINT, linewidth=1)
    above.text(0.97, 0.91, "confidence = accuracy", ha="right", fontsize=SMALL)
    for turn, some in enumerate(calibrations.values()):
        _reliability_line(above, some, turn)
        shares = np.mean([own.count / own.count.sum() for own in some], axis=0)
        below.stairs(shares, some[0].edges, color=_style(turn)[0], linewidth=1.2, alpha=0.7)
    above.set(ylabel="accuracy", xlim=(0, 1), ylim=(-0.02, 1.02))
    below.set(xlabel="confidence: the probability of the predicted class", ylabel="share of\nthe images")
    legend_below(figure, _variant_keys([f"{name}: {_calibration_text(some)}" for name, some in calibrations.items()]))
    return drawn(figure)


def _reliability_line(axes: Axes, some: Sequence[Calibration], turn: int) -> None:
    count = np.array([own.count for own in some])
    sure, right = (np.array([getattr(own, name) for own in some]) for name in ("confidence", "accuracy"))
    filled = count.sum(axis=0) > 0
    pooled_sure, pooled_right = (
        (np.nan_to_num(values) * count).sum(axis=0)[filled] / count.sum(axis=0)[filled] for values in (sure, right)
    )
    many = (count.mean(axis=0) >= FEW)[filled]
    colour, marker = _style(turn)
    ends = (edge[filled] for edge in (np.fmin.reduce(right), np.fmax.reduce(right)))
    axes.vlines(pooled_sure[many], *(end[many] for end in ends), color=colour, linewidth=1)
    axes.plot(pooled_sure[many], pooled_right[many], marker + "-", color=colour, markeredgecolor=INK, markersize=6)
    axes.plot(pooled_sure[~many], pooled_right[~many], marker, color=colour, markerfacecolor="white", markersize=6)


def _calibration_text(some: Sequence[Calibration]) -> str:
    ece, brier = mean_text([own.ece for own in some]), mean_text([own.brier for own in some])
    return f"ECE {ece}, Brier {brier} ({len(some)} seed{'' if len(some) == 1 else 's'})"


def per_class(classes: pd.DataFrame) -> Pixels:
    """A panel per variant, a row per class: the difference of its accuracy to the baseline's, with the 95 % interval.

    `classes` is the table `Findings.classes` (see `evidence.network_tests.by_class`). Classes are sorted by their mean
    difference, in the same order in all panels. A filled diamond with a star marks p < 0.05 after Holm's correction, an
    open circle no difference. With very many classes, only the lowest and highest differences are shown.
    """
    table = classes.astype({"low": float, "high": float, "difference": float})
    order, total = by_difference(table), table["class"].nunique()
    variants = list(dict.fromkeys(table["name"]))
    columns = min(3, len(variants))
    lines = math.ceil(len(variants) / columns)
    headings = {name: wrapped(name, (WIDTH - NAME) / columns) for name in variants}
    heading = LINE * max(text.count("\n") for text in headings.values())
    figure = titled_figure(0.7 + lines * (0.75 + heading + _rows_height(order)), _class_title(table, total))
    panels = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for turn, (axes, name) in enumerate(zip(panels.flat, variants, strict=False), start=1):
        _class_panel(axes, table[table["name"] == name].set_index("class").loc[order], turn)
        _set_names(axes, order)
        axes.set_title(headings[name], loc="left", fontsize=PLAIN, fontweight="bold")
        axes.tick_params(axis="x", labelbottom=True)
    for axes in panels.flat[len(variants) :]:
        axes.set_visible(False)
    texts = {("D", INK): "* differs: p < 0.05 after Holm's correction", ("o", "white"): "no difference shown"}
    keys = [
        Line2D([], [], linestyle="", marker=marker, markerfacecolor=fill, markeredgecolor=INK, label=text)
        for (marker, fill), text in texts.items()
    ]
    legend_below(figure, keys)
    return drawn(figure)


def by_difference(classes: pd.DataFrame, column: str = "class") -> list[str]:
    """The classes by their mean difference, the highest first; of very many the highest and the lowest."""
    order = list(classes.groupby(column, sort=False)["difference"].mean().sort_values(ascending=False).index)
    return order if len(order) <= MOST_CLASSES else order[: MOST_CLASSES // 2] + order[-MOST_CLASSES // 2 :]


def _class_title(table: pd.DataFrame, total: int) -> str:
    about, seeds = table["about"].iloc[0], int(table["seeds"].iloc[0])
    title = f"Test accuracy class by class: difference to {table['against'].iloc[0]} in points (better →)"
    some = f", the {MOST_CLASSES // 2} highest and lowest of {total} classes" if total > MOST_CLASSES else ""
    what = {
        "the method": f"mean and 95 % interval over {seeds} seeds",
        "these two networks": "one seed: 95 % intervals over images, for these two networks, not for the method",
    }.get(about, f"mean of {seeds} seeds, too few for an interval")
    return f"{title}\n{what}{some}"


def _class_panel(axes: Axes, rows: pd.DataFrame, turn: int) -> None:
    axes.axvline(0, color=INK, linewidth=1)
    colour, _ = _style(turn)
    for line, (_, row) in zip(_places(list(rows.index)), rows.iterrows(), strict=True):
        mean, low, high = (100 * row[column] for column in ("difference", "low", "high"))
        if not row["images"]:
            axes.text(0, line, " no images", va="center", fontsize=SMALL)
        axes.plot([low, high], [line] * 2, color=colour, linewidth=2)
        marker, fill = ("D", colour) if row["shown"] else ("o", "white")
        axes.plot(mean, line, marker, color=colour, markerfacecolor=fill, markeredgecolor=INK, markersize=6)
        if row["shown"]:
            axes.annotate("*", (max(mean, high), line), (4, -6), textcoords="offset points", fontsize=LARGE)
    axes.margins(x=0.1)
    axes.xaxis.set_major_locator(MaxNLocator(5))


def agreement(table: pd.DataFrame) -> Pixels:
    """How similar the maps of each variant and the first one are, and how similar the maps of two seeds are.

    `table` is `Findings.agreement`. The ends of a grey bar are the agreements between seeds within the two variants,
    which are the noise floor: maps of two variants that agree as well as this show no effect beyond that of the seed.
    Raises ValueError if the table is empty.
    """
    if not len(table):
        raise ValueError("agreement has no row: no two runs have maps of the same size; leave out this chart")
    within = table[table["variant"] == table["against"]].set_index("variant")
    first = table["variant"].iloc[0]
    between = table[(table["variant"] == first) & (table["against"] != first)].set_index("against")
    names = [*(f"{first} and {name}" for name in between.index), *(f"{name}, two seeds" for name in within.index)]
    floor = "one seed: the difference between seeds is not known"
    if len(within):
        floor = "grey: between seeds of one variant; a marker there or right of it shows no effect beyond that of seeds"
    figure = titled_figure(
        1.2 + _rows_height(names), f"How similar the last layer's maps are on the same images (1 = the same)\n{floor}"
    )
    turns = {name: turn for turn, name in enumerate(dict.fromkeys([*table["variant"], *table["against"]]))}
    places = _places(names)
    for axes, (column, heading) in zip(figure.subplots(1, 2, sharey=True), AGREEMENTS.items(), strict=True):
        for name, value, place in zip(between.index, between[column], places, strict=False):
            _agreement_row(axes, value, within[column].reindex([first, name]).tolist(), turns[name], place)
        axes.plot(within[column], places[len(between) :], "|", color=INK, markersize=12, markeredgewidth=1.5)
        _set_names(axes, names)
        _set_heading(axes, heading, "neither")
        axes.margins(x=0.15)
        axes.xaxis.set_major_locator(MaxNLocator(4))
    return drawn(figure)


def _agreement_row(axes: Axes, value: float, floors: Sequence[float], turn: int, place: float) -> None:
    colour, marker = _style(turn)
    axes.plot(floors, [place] * 2, color=FAINT, linewidth=7, solid_capstyle="butt")
    axes.plot(floors, [place] * 2, "|", color=INK, markersize=12)
    axes.plot(value, place, marker, color=colour, markeredgecolor=INK, markersize=7)


def _style(turn: int) -> tuple[str, str]:
    """Colour and marker of a variant; 0 is the first."""
    return COLOURS[turn % len(COLOURS)], MARKERS[turn % len(MARKERS)]


def titled_figure(height: float, title: str) -> Figure:
    """A white figure with `height` in inches and a `title`."""
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained", facecolor="white")
    figure.suptitle(wrapped(title, WIDTH - 0.5, LARGE), fontsize=LARGE, x=0.01, ha="left")
    return figure


def _heights(names: Sequence[str]) -> list[float]:
    """The height of the row of each name, in lines of text."""
    return [wrapped(name, NAME).count("\n") + 2.2 for name in names]


def _rows_height(names: Sequence[str]) -> float:
    """The height in inches of the rows with these names."""
    return LINE * sum(_heights(names))


def _places(names: Sequence[str]) -> list[float]:
    """The middle of the row of each name, in lines from the top."""
    heights = np.array(_heights(names))
    return list(map(float, np.cumsum(heights) - heights / 2))


def _set_names(axes: Axes, names: Sequence[str]) -> None:
    """Writes the names next to the rows, the first at the top."""
    axes.set_yticks(_places(names), [wrapped(name, NAME) for name in names])
    axes.set_ylim(sum(_heights(names)), 0)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="x", alpha=0.3)


def _set_heading(axes: Axes, text: str, better: Better) -> None:
    axes.set_title(wrapped(text, NAME), loc="left", fontsize=PLAIN, fontweight="bold")
    axes.set_title(DIRECTION[better], loc="right", fontsize=SMALL)


def _variant_keys(texts: Sequence[str]) -> list[Line2D]:
    styles = map(_style, range(len(texts)))
    return [
        Line2D([], [], color=colour, marker=marker, markersize=6, label=text)
        for (colour, marker), text in zip(styles, texts, strict=True)
    ]


def legend_below(figure: Figure, keys: Sequence[Line2D]) -> None:
    """Adds a legend below the chart, in as many columns as fit, and increases the height of the figure."""
    width = figure.get_figwidth() - 0.5
    longest = max(text_width(str(key.get_label())) for key in keys)
    columns = max(1, min(3, int(width / (longest + 0.6))))
    texts = [wrapped(str(key.get_label()), width - 0.6) for key in keys]
    lines = sum(text.count("\n") + 1 for text in texts)
    figure.set_figheight(figure.get_figheight() + 0.2 * math.ceil(lines / columns) + 0.1)
    figure.legend(keys, texts, loc="outside lower center", ncols=columns, frameon=False, fontsize=PLAIN)

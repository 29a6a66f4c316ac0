"""Pictures of one training: loss and accuracy per epoch, and the confusion matrix."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Int64
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import COLOURS, LARGE, Pixels, drawn, wrapped

WIDTH, LINE = 11.0, 0.2  # inches: the picture, and from one line of its title to the next
NAME = 1.8  # inches for the name of a class
MOST_WRITTEN = 30  # up to this number of classes a confusion matrix has room for its counts


def curves(history: pd.DataFrame, title: str) -> Pixels:
    """Loss and accuracy per epoch; `history` is indexed by epoch, its columns are metric names such as `val/loss`."""
    styles = {"train": ":", "val": "-", "test": "--"}
    heading = wrapped(title, WIDTH - 1, LARGE)
    figure = Figure(figsize=(WIDTH, 4.0 + LINE * heading.count("\n")), layout="constrained")
    for axes, measure in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for (split, style), colour in zip(styles.items(), COLOURS, strict=False):
            if f"{split}/{measure}" in history:
                values = history[f"{split}/{measure}"].dropna()
                marker = "o" if len(values) == 1 else None
                axes.plot(values.index, values, style, color=colour, marker=marker, label=split)
        axes.set(xlabel="epoch", ylabel=measure)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if axes.get_xlim()[1] - axes.get_xlim()[0] < 1:  # one epoch
            axes.set_xlim(0.5, 1.5)
        axes.grid(alpha=0.3)
    figure.suptitle(heading)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    return drawn(figure)


def confusion(matrix: Int64[np.ndarray, "k k"], classes: Sequence[str]) -> Pixels:
    """Counts per true (row) and predicted (column) class, coloured by the share of the row."""
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    side = min(3.2 + 0.55 * len(classes), 24)
    figure = Figure(figsize=(side, side * 0.9), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="cividis", vmin=0, vmax=1)
    names = list(map(_class_name, classes))
    axes.set_xticks(range(len(classes)), names, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), names)
    axes.set(xlabel="predicted class", ylabel="true class", title="Test images: predicted against true class")
    for (row, column), count in np.ndenumerate(matrix):
        if count and len(classes) <= MOST_WRITTEN:
            shade = "black" if share[row, column] > 0.5 else "white"
            axes.text(column, row, str(count), ha="center", va="center", color=shade, fontsize=9)
    figure.colorbar(image, label="share of the true class", shrink=0.8)
    return drawn(figure)


def _class_name(name: str) -> str:
    """The name in at most two lines; the middle of a longer one is left out."""
    lines = wrapped(name, NAME).splitlines()
    return "\n".join(lines if len(lines) < 3 else [lines[0], f"…{lines[-1]}"])

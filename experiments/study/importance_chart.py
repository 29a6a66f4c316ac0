"""The chart of the importance of parameters in a study."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial

from ..evidence.differences import Quantity
from ..pictures.charts import titled_figure
from ..pictures.style import COLOURS, PLAIN, SMALL

FEWEST_TRIALS = 8  # with fewer, importances and contours show only chance
TOP = 0.25  # the share of the trials that count as the best
FEW_TRIALS = 30  # with fewer, an importance is only a hint

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


def importance_chart(trials: Sequence[FrozenTrial], quantity: Quantity) -> Figure | None:
    """The importance of each parameter, by two methods that answer different questions; None with too few trials."""
    alike, names = _alike(trials)
    if len(names) < 2 or not has_best([trial.values[0] for trial in alike], quantity):
        return None
    part = _part_study(alike, names, quantity)
    methods = {
        "fANOVA, the whole space": FanovaImportanceEvaluator(seed=0),
        "PED-ANOVA, the best trials": PedAnovaImportanceEvaluator(target_quantile=TOP),
    }
    shares = pd.DataFrame({name: get_param_importances(part, evaluator=own) for name, own in methods.items()}) * 100
    shares = shares.iloc[np.argsort(-shares.mean(axis=1).to_numpy(), kind="stable")]
    figure = titled_figure(2.1 + 0.36 * len(shares), _title(len(trials), len(alike), quantity))
    for axes, (method, own), colour in zip(figure.subplots(1, 2, sharey=True), shares.items(), COLOURS, strict=False):
        _panel(axes, own.tolist(), colour)
        axes.set_title(method, loc="left", fontsize=PLAIN, fontweight="bold")
        axes.set_yticks(range(len(shares)), [PARAMETERS[str(name)] for name in shares.index])
        axes.set_ylim(len(shares) - 0.5, -0.5)
    return figure


def _title(trials: int, alike: int, quantity: Quantity) -> str:
    which = f"the {alike} of {trials} trials that have all of these parameters" if alike < trials else f"{alike} trials"
    few = "; with so few trials this is only a hint" if alike < FEW_TRIALS else ""
    return (
        f"Importance of the parameters for the {quantity.name}\n{which}{few}\n"
        "fANOVA: the share of the variance over the whole space that one parameter explains\n"
        "PED-ANOVA: how far one parameter separates the best quarter of the trials from the rest"
    )


def _panel(axes: Axes, shares: Sequence[float], colour: str) -> None:
    axes.barh(range(len(shares)), shares, color=colour, height=0.6)
    for place, share in enumerate(shares):
        axes.text(share + 1, place, f"{share:.0f} %", va="center", fontsize=SMALL)
    axes.set(xlabel="importance (%), sum 100", xlim=(0, 114), xticks=range(0, 101, 20))
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right"]].set_visible(False)


def _alike(trials: Sequence[FrozenTrial]) -> tuple[list[FrozenTrial], list[str]]:
    """The largest set of parameters that enough trials share: these trials, and the parameters that vary among them.

    A trial without holes has no size, so a model of all parameters cannot use it.
    """
    having = {
        names: [trial for trial in trials if names <= trial.params.keys()]
        for names in {frozenset(trial.params) for trial in trials}
    }
    enough = {names: some for names, some in having.items() if len(some) >= FEWEST_TRIALS}
    if not enough:
        return [], []
    shared = max(enough, key=lambda names: (len(names), len(enough[names]), sorted(names)))
    alike = enough[shared]
    return alike, [name for name in sorted(shared) if len({trial.params[name] for trial in alike}) > 1]


def _part_study(trials: Sequence[FrozenTrial], names: Sequence[str], quantity: Quantity) -> optuna.Study:
    """A study of these trials with only these parameters and the first objective."""
    distributions = {name: _covering(name, trials) for name in names}
    part = optuna.create_study(direction="maximize" if quantity.higher else "minimize")
    part.add_trials(
        optuna.create_trial(
            params={name: trial.params[name] for name in names}, distributions=distributions, value=trial.values[0]
        )
        for trial in trials
    )
    return part


def _covering(name: str, trials: Sequence[FrozenTrial]) -> BaseDistribution:
    """One distribution for all values of a parameter, also if its range differs between trials."""
    values = [trial.params[name] for trial in trials]
    ranges: list[Any] = [trial.distributions[name] for trial in trials]
    if isinstance(ranges[0], CategoricalDistribution):
        return CategoricalDistribution(sorted({*values}))
    low, high = min(*values, *(own.low for own in ranges)), max(*values, *(own.high for own in ranges))
    return IntDistribution(low, high) if isinstance(ranges[0], IntDistribution) else FloatDistribution(low, high)


def has_best(values: Sequence[float], quantity: Quantity) -> bool:
    """Whether the best share `TOP` of the values is better than the worst value."""
    ranked = sorted(values, reverse=quantity.higher)
    return ranked[math.ceil(TOP * len(ranked)) - 1] != ranked[-1]

"""What a difference between variants allows to say."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """Differences of one measure paired by seed, their mean, and its confidence interval where n allows one."""

    per_seed: tuple[float, ...]
    mean: float
    low: float | None
    high: float | None


def paired_difference(variant: Sequence[float], baseline: Sequence[float]) -> Difference:
    """`variant` minus `baseline`, seed by seed, with Student's t interval over the seeds.

    The interval is left out below three seeds, where it is too wide to say anything. All equal differences give an
    interval of width zero.

    Raises:
        ValueError: where the two have different lengths, or none.
    """
    if len(variant) != len(baseline) or not len(variant):
        raise ValueError(f"{len(variant)} and {len(baseline)} seeds cannot be paired; give both the same, at least one")
    differences = np.asarray(variant, float) - np.asarray(baseline, float)
    mean = float(differences.mean())
    if len(differences) < 3:
        return Difference(tuple(differences.tolist()), mean, None, None)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(differences) - 1) * stats.sem(differences))
    return Difference(tuple(differences.tolist()), mean, mean - half, mean + half)


def sentence(name: str, baseline: str, difference: Difference, measure: str = "test accuracy") -> str:
    """What may be concluded from an accuracy difference, in points of per cent."""
    n, points = len(difference.per_seed), difference.mean * 100
    if difference.low is None or difference.high is None:
        seeds = "one seed" if n == 1 else f"{n} seeds"
        about = "only about these two networks" if n == 1 else "only about these networks; three seeds give an interval"
        return (
            f"{name} against {baseline}: {measure} {points:+.2f} points with {seeds}: "
            f"no statement about the method, {about}."
        )
    low, high = difference.low * 100, difference.high * 100
    if low > 0:
        interval = f"95 % interval {low:.2f} to {high:.2f}, {n} seeds"
        return f"{name} is better than {baseline} by {points:.2f} points of {measure} ({interval})."
    if high < 0:
        interval = f"95 % interval {-high:.2f} to {-low:.2f}, {n} seeds"
        return f"{name} is worse than {baseline} by {-points:.2f} points of {measure} ({interval})."
    interval = f"95 % interval {low:+.2f} to {high:+.2f}, {n} seeds"
    return f"{name} against {baseline}: no difference in {measure} shown ({points:+.2f} points; {interval})."

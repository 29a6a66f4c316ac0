"""The difference between two variants: paired by seed, with interval, p value and sample size."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from jaxtyping import Float, Float64
from scipy import stats
from statsmodels.stats.power import TTestPower

CONFIDENCE = 0.95
POWER = 0.80
FEWEST = 3  # seeds for an interval; with two, it reaches about nine standard deviations to each side
ROUNDING = 1e-12  # relative to the values: a smaller spread of the differences is a rounding error
Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class Quantity:
    """What is compared: its name, the better direction, and whether it is a share, printed in percentage points."""

    name: str
    better: Better = "higher"
    share: bool = True

    @property
    def higher(self) -> bool:
        """Whether a higher value is better."""
        return self.better == "higher"

    @property
    def scale(self) -> int:
        """The factor to the unit of charts and sentences: 100 for a share."""
        return 100 if self.share else 1

    @property
    def axis(self) -> str:
        """Its name and the unit of its values in charts."""
        return self.name + (" (%)" if self.share else "")


ACCURACY = Quantity("test accuracy")


@dataclass(frozen=True)
class Difference:
    """Differences of one quantity paired by seed, variant minus baseline.

    Attributes:
        mean_variant, mean_baseline: the mean over the seeds of each of the two.
        low, high: the 95 % interval of the mean; None with fewer than three seeds; equal to the mean if all differences
            are equal.
        p: two-sided p value of Student's t test; 1 if all differences are zero; None without an interval, or if all
            differences are equal but not zero. Then the quantity is coarse, and the result is not certain.
        smallest_shown: half the width of the interval; with this n and spread, only a larger mean difference is shown.
        detectable: the true difference that this n finds with 80 % power, if the observed spread is the true one.
        images_too: whether the interval was widened, because few images were measured.
    """

    per_seed: tuple[float, ...]
    mean: float
    mean_variant: float
    mean_baseline: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    smallest_shown: float | None = None
    detectable: float | None = None
    images_too: bool = False

    def widened(self, low: float, high: float) -> "Difference":
        """With an interval that also covers `low` to `high`, from seeds and images resampled."""
        bounds = [bound for bound in (self.low, self.high, low, high) if bound is not None]
        low, high = min(bounds), max(bounds)
        return replace(self, low=low, high=high, smallest_shown=(high - low) / 2, images_too=True)

    @property
    def larger(self) -> int:
        """Number of seeds in which the variant's value is larger."""
        return sum(difference > 0 for difference in self.per_seed)

    @property
    def smaller(self) -> int:
        """Number of seeds in which the variant's value is smaller."""
        return sum(difference < 0 for difference in self.per_seed)

    @property
    def ties(self) -> int:
        """Number of seeds in which the two values are equal."""
        return len(self.per_seed) - self.larger - self.smaller

    @property
    def equal(self) -> bool:
        """Whether all seeds give the same difference, so that the interval has no width."""
        return self.low is not None and self.low == self.high

    @property
    def shown(self) -> bool:
        """Whether the interval excludes zero and has a width."""
        return self.low is not None and self.high is not None and not self.equal and not self.low <= 0 <= self.high


def paired_difference(
    variant: Sequence[float] | Float[np.ndarray, "seeds"], baseline: Sequence[float] | Float[np.ndarray, "seeds"]
) -> Difference:
    """`variant` minus `baseline`, seed by seed, with Student's t interval over the seeds.

    With fewer than three seeds there is no interval, because it would be too wide to be useful. If all differences are
    equal, the interval has width zero.

    Raises:
        ValueError: the two have different lengths or no values, or a value is not finite.
    """
    if len(variant) != len(baseline) or not len(variant):
        raise ValueError(
            f"{len(variant)} and {len(baseline)} seeds cannot be paired; give the same number for both, at least one"
        )
    values = np.array([variant, baseline], float)
    if not np.isfinite(values).all():
        missing = int(np.argmin(np.isfinite(values).all(axis=0))) + 1
        raise ValueError(f"seed number {missing} has no finite value; leave it out of both variants")
    differences = values[0] - values[1]
    of_variant, of_baseline = map(float, values.mean(axis=1))
    plain = Difference(tuple(differences.tolist()), float(differences.mean()), of_variant, of_baseline)
    if len(differences) < FEWEST:
        return plain
    if np.ptp(differences) <= ROUNDING * np.abs(values).max():
        p = None if plain.mean else 1.0
        return replace(plain, low=plain.mean, high=plain.mean, p=p, smallest_shown=0.0, detectable=0.0)
    test = stats.ttest_1samp(differences, 0)
    low, high = map(float, test.confidence_interval(CONFIDENCE))
    detectable = _standard_effect(len(differences)) * float(differences.std(ddof=1))
    p = float(test.pvalue)
    return replace(plain, low=low, high=high, p=p, smallest_shown=(high - low) / 2, detectable=detectable)


@lru_cache
def _standard_effect(seeds: int) -> float:
    """The true difference, in standard deviations, that a paired t test with this many seeds finds with 80 % power."""
    return float(TTestPower().solve_power(nobs=seeds, alpha=1 - CONFIDENCE, power=POWER))


def mean_of_present(values: Float64[np.ndarray, "rows columns"], axis: int) -> Float64[np.ndarray, "_"]:
    """The mean along the axis without NaN; NaN where nothing else is there."""
    counts = np.sum(~np.isnan(values), axis=axis)
    return np.divide(np.nansum(values, axis=axis), counts, out=np.full(counts.shape, np.nan), where=counts > 0)


def holm(p_values: Sequence[float] | Float[np.ndarray, "tests"]) -> Float64[np.ndarray, "tests"]:
    """The p values, adjusted for their number (Holm 1979). NaN stays NaN and counts as a test with p = 1."""
    # Not by statsmodels: it collects all garbage at every call, half a second in a comparison.
    values = np.asarray(p_values, float)
    known = np.nan_to_num(values, nan=1.0)
    order = np.argsort(known)
    adjusted = np.empty_like(known)
    adjusted[order] = np.minimum(np.maximum.accumulate(known[order] * np.arange(len(known), 0, -1)), 1.0)
    return np.where(np.isnan(values), np.nan, adjusted)

"""What a difference between variants allows to say.

Two questions are kept apart. *Does the method differ?* has the seed as its unit: `paired_difference`, `by_class` from
three seeds, `two_way_bootstrap` as a check. *Do these two networks differ?* has the test image as its unit: `mcnemar`.
Only where seeds scatter no more than independent errors would (`seed_noise`) does the second speak for the first.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float64, Int64
from scipy import stats
from statsmodels.stats.contingency_tables import cochrans_q
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

CONFIDENCE = 0.95
POWER = 0.80
FEWEST = 3  # seeds that give an interval; with two it is some nine standard deviations wide to each side
ROUNDING = 1e-12  # relative to the values: a smaller spread of differences is the arithmetic's

Better = Literal["higher", "lower", "neither"]


@dataclass(frozen=True)
class Quantity:
    """What is compared: its name, which direction is better, and whether it is a share, told in points of per cent."""

    name: str
    better: Better = "higher"
    share: bool = True


ACCURACY = Quantity("test accuracy")


@dataclass(frozen=True)
class Difference:
    """Differences of one quantity paired by seed, variant minus baseline.

    Attributes:
        low, high: the 95 % interval of the mean; None below three seeds, both the mean where all differences are equal.
        p: two-sided, of Student's t test; 1 where all differences are zero, None without an interval and where all
            are equal otherwise: a spread of zero shows that the quantity is coarse, not that the answer is certain.
        smallest_shown: half the interval's width: a mean difference must be larger to be shown with this n and spread.
        detectable: the true difference that this n shows with 80 % power, were the observed spread the true one.
    """

    per_seed: tuple[float, ...]
    mean: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    smallest_shown: float | None = None
    detectable: float | None = None

    @property
    def larger(self) -> int:
        """In how many seeds the variant's value is the larger one."""
        return sum(difference > 0 for difference in self.per_seed)

    @property
    def smaller(self) -> int:
        """In how many seeds the variant's value is the smaller one."""
        return sum(difference < 0 for difference in self.per_seed)

    @property
    def ties(self) -> int:
        """In how many seeds the two values are the same."""
        return len(self.per_seed) - self.larger - self.smaller

    @property
    def equal(self) -> bool:
        """Whether the interval has no width: all seeds give the same difference."""
        return self.low is not None and self.low == self.high

    @property
    def shown(self) -> bool:
        """Whether the interval leaves zero out and has a width."""
        return self.low is not None and self.high is not None and not self.equal and not self.low <= 0 <= self.high


def paired_difference(
    variant: Sequence[float] | Float[np.ndarray, "seeds"], baseline: Sequence[float] | Float[np.ndarray, "seeds"]
) -> Difference:
    """`variant` minus `baseline`, seed by seed, with Student's t interval over the seeds.

    The interval is left out below three seeds, where it is too wide to say anything. All equal differences give an
    interval of width zero.

    Raises:
        ValueError: where the two have different lengths, or none, or a value is not finite.
    """
    if len(variant) != len(baseline) or not len(variant):
        raise ValueError(f"{len(variant)} and {len(baseline)} seeds cannot be paired; give both the same, at least one")
    values = np.array([variant, baseline], float)
    if not np.isfinite(values).all():
        raise ValueError(f"seed number {_first_missing(values)} has no finite value; leave it out of both variants")
    differences = values[0] - values[1]
    plain = Difference(tuple(differences.tolist()), float(differences.mean()))
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


def _first_missing(values: Float64[np.ndarray, "2 seeds"]) -> int:
    return int(np.argmin(np.isfinite(values).all(axis=0))) + 1


@lru_cache
def _standard_effect(seeds: int) -> float:
    """The true difference, in standard deviations, that a paired t test of this many seeds finds with 80 % power."""
    return float(TTestPower().solve_power(nobs=seeds, alpha=1 - CONFIDENCE, power=POWER))


def holm(p_values: Sequence[float] | Float[np.ndarray, "tests"]) -> Float64[np.ndarray, "tests"]:
    """The p values adjusted for their number (Holm 1979). A NaN stays one, and counts as a test that shows nothing."""
    values = np.asarray(p_values, float)
    adjusted = np.asarray(multipletests(np.nan_to_num(values, nan=1.0), method="holm")[1], float)
    return np.where(np.isnan(values), np.nan, adjusted)


@dataclass(frozen=True)
class NetworkDifference:
    """Two trained networks on the same images: a statement about these two, not about how they were trained.

    Attributes:
        images: how many both classified.
        only_variant, only_baseline: how many the one alone classified correctly.
        mean, low, high: the difference of the accuracies, variant minus baseline, and its 95 % interval over images.
        p: McNemar's mid-p value.
    """

    images: int
    only_variant: int
    only_baseline: int
    mean: float
    low: float
    high: float
    p: float


def mcnemar(variant: Bool[np.ndarray, "images"], baseline: Bool[np.ndarray, "images"]) -> NetworkDifference:
    """How two networks differ, from which images each of them classifies correctly.

    The p value is McNemar's mid-p (Fagerland, Lydersen and Laake, BMC Med. Res. Methodol. 2013, 13:91), the interval
    Wald's with one image added to each kind of disagreement (Bonett and Price, J. Educ. Behav. Stat. 2012, 37:479),
    which has a width even where the networks never disagree.

    Raises:
        ValueError: where there are no images.
    """
    images = len(variant)
    if not images:
        raise ValueError("two networks cannot be compared on no images; give at least one")
    gained, lost = int(np.sum(variant & ~baseline)), int(np.sum(~variant & baseline))
    more, less = (gained + 1) / (images + 2), (lost + 1) / (images + 2)
    error = math.sqrt((more + less - (more - less) ** 2) / (images + 2))
    half = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * error
    low, high = max(-1.0, more - less - half), min(1.0, more - less + half)
    return NetworkDifference(images, gained, lost, (gained - lost) / images, low, high, _mid_p(gained, lost))


def _mid_p(gained: int, lost: int) -> float:
    if gained == lost:
        return 1.0  # the paper takes half of the point's probability off here: 0.5 where nothing differs
    total, fewer = gained + lost, min(gained, lost)
    return float(2 * stats.binom.cdf(fewer, total, 0.5) - stats.binom.pmf(fewer, total, 0.5))


@dataclass(frozen=True)
class SeedNoise:
    """How much the accuracy of one variant scatters between seeds, and how much it would by independent errors.

    Attributes:
        observed: standard deviation of the accuracies.
        expected: of accuracies whose errors are independent from image to image and seed to seed.
        p: of Cochran's Q, the test that all seeds are equally accurate.
    """

    seeds: int
    images: int
    observed: float
    expected: float
    p: float

    @property
    def settled(self) -> bool:
        """Whether the seeds differ no more than independent errors would make them, as far as this test shows."""
        return self.p >= 1 - CONFIDENCE


def seed_noise(right: Bool[np.ndarray, "seeds images"]) -> SeedNoise:
    """Whether the scatter between seeds of one variant is that of independent errors on a finite test set.

    `expected` is sqrt(sum over images of p(1 - p)) / images, with p the image's chance of being classified correctly
    and p(1 - p) estimated without bias over the seeds (Jordan, ICLR 2024, arXiv:2304.01910). The squared ratio of
    `observed` to it, times the seeds less one, is Cochran's Q (Biometrika 1950). Where training has not settled, the
    ratio is well above one, and McNemar's test finds "differences" between two seeds of the same recipe.

    Raises:
        ValueError: below three seeds, or without images.
    """
    seeds, images = right.shape
    if seeds < FEWEST or not images:
        raise ValueError(
            f"{seeds} seeds on {images} images show no scatter; give at least {FEWEST} seeds and one image"
        )
    observed = float(right.mean(axis=1).std(ddof=1))
    expected = math.sqrt(float(right.var(axis=0, ddof=1).sum())) / images
    p = float(cochrans_q(right.T).pvalue) if expected else 1.0
    return SeedNoise(seeds, images, observed, expected, p)


def by_class(
    variant: Bool[np.ndarray, "seeds images"],
    baseline: Bool[np.ndarray, "seeds images"],
    labels: Int64[np.ndarray, "images"],
    classes: Sequence[str],
) -> pd.DataFrame:
    """One row per class: where the variants' accuracies differ, from which images are classified correctly.

    Columns: `class`, `images`, `seeds`, the accuracies `baseline` and `variant`, `difference`, its 95 % interval `low`
    and `high` (each for itself, not adjusted), `p`, `p_holm` (adjusted for the number of classes), `shown` (`p_holm`
    below 5 %) and `about`. From three seeds that is "the method", and the numbers those of `paired_difference`; with
    one seed "these two networks", and those of `mcnemar`; with two "no statement", without interval and p.
    """
    rows = [
        {"class": name} | _class_row(variant[:, labels == number], baseline[:, labels == number])
        for number, name in enumerate(classes)
    ]
    table = pd.DataFrame(rows).astype({"low": float, "high": float, "p": float})
    adjusted = holm(table["p"].to_numpy())
    return table.assign(p_holm=adjusted, shown=adjusted < 1 - CONFIDENCE, about=_about(len(variant)))


def _class_row(variant: np.ndarray, baseline: np.ndarray) -> dict[str, object]:
    seeds, images = variant.shape
    sizes: dict[str, object] = {"images": images, "seeds": seeds}
    if not images:
        return sizes | dict.fromkeys(("baseline", "variant", "difference", "low", "high", "p"), math.nan)
    after, before = variant.mean(axis=1), baseline.mean(axis=1)
    found = mcnemar(variant[0], baseline[0]) if seeds == 1 else paired_difference(after, before)
    accuracies = {"baseline": float(before.mean()), "variant": float(after.mean())}
    return sizes | accuracies | {"difference": found.mean, "low": found.low, "high": found.high, "p": found.p}


def _about(seeds: int) -> str:
    if seeds == 1:
        return "these two networks"
    return "the method" if seeds >= FEWEST else "no statement"


@dataclass(frozen=True)
class Resampled:
    """A mean difference and its 95 % interval by resampling."""

    mean: float
    low: float
    high: float


def two_way_bootstrap(
    variant: Float[np.ndarray, "seeds images"],
    baseline: Float[np.ndarray, "seeds images"],
    generator: np.random.Generator,
    draws: int = 2000,
) -> Resampled:
    """The mean difference, variant minus baseline, with an interval from drawing seeds and images anew.

    Images are averaged within a seed, then seeds; an image without a value (NaN) in either variant is left out of that
    seed. Every draw takes seeds and images with replacement, the same images in all seeds (the pigeonhole bootstrap,
    Owen, Ann. Appl. Stat. 2007, 1:386). A check beside `paired_difference`, which speaks of these images alone: a much
    wider interval here shows that the images matter. It never replaces Student's t: with a handful of seeds their own
    share comes out too small, and errors independent between seeds and images count twice.

    Raises:
        ValueError: below three seeds, or where a seed has no image with both values.
    """
    differences = variant.astype(float) - baseline
    present = ~np.isnan(differences)
    seeds, images = differences.shape
    if seeds < FEWEST or not present.any(axis=1).all():
        raise ValueError(f"{seeds} seeds cannot be resampled; give at least {FEWEST}, each with an image both measured")
    filled = np.where(present, differences, 0.0)
    means = []
    chunk = max(1, 2**22 // images)  # bounds the memory
    for start in range(0, draws, chunk):
        counts = _draw_counts(generator, min(chunk, draws - start), images)
        found = counts @ present.T.astype(float)
        per_seed = np.divide(counts @ filled.T, found, out=np.full(found.shape, np.nan), where=found > 0)
        drawn = generator.integers(seeds, size=found.shape)
        means.append(_mean_of_present(np.take_along_axis(per_seed, drawn, axis=1)))
    low, high = np.nanpercentile(np.concatenate(means), [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return Resampled(float((filled.sum(axis=1) / present.sum(axis=1)).mean()), float(low), float(high))


def _draw_counts(generator: np.random.Generator, draws: int, images: int) -> Float64[np.ndarray, "draws images"]:
    """How often each image is drawn when as many are drawn as there are."""
    drawn = generator.integers(images, size=(draws, images)) + images * np.arange(draws)[:, None]
    return np.bincount(drawn.ravel(), minlength=draws * images).reshape(draws, images).astype(float)


def _mean_of_present(values: Float64[np.ndarray, "draws seeds"]) -> Float64[np.ndarray, "draws"]:
    """The mean of each row's finite values, NaN where it has none."""
    counts = np.sum(~np.isnan(values), axis=1)
    return np.divide(np.nansum(values, axis=1), counts, out=np.full(len(values), np.nan), where=counts > 0)


def sentence(
    name: str, baseline: str, difference: Difference, quantity: Quantity = ACCURACY, p_holm: float | None = None
) -> str:
    """What may be concluded about the method: better, worse (or larger, smaller), or that nothing is shown.

    `p_holm` is the adjusted p value where the sentence is one of several answers; a difference is then shown only
    where that too is below 5 %.
    """
    n = len(difference.per_seed)
    if difference.low is None or difference.high is None:
        about = "only about these two networks" if n == 1 else "only about these networks; three seeds give an interval"
        amount = _written(difference.mean, quantity, difference, "+")
        start = f"{name} against {baseline}: {quantity.name} {amount} with {_seeds(n)}"
        return f"{start}: no statement about the method, {about}."
    if difference.equal:
        return _sentence_without_spread(name, baseline, difference, quantity)
    if difference.shown and (p_holm is None or p_holm < 1 - CONFIDENCE):
        return _sentence_shown(name, baseline, difference, quantity, p_holm)
    return _sentence_not_shown(name, baseline, difference, quantity, p_holm)


def _sentence_not_shown(
    name: str, baseline: str, difference: Difference, quantity: Quantity, p_holm: float | None
) -> str:
    bounds = [bound for bound in (difference.low, difference.high) if bound is not None]
    low, high = (_number(bound, quantity, difference, "+") for bound in bounds)
    hidden = _written(max(map(abs, bounds)), quantity, difference)
    why = f"leaves zero out, but Holm-adjusted {p_text(p_holm)}"
    if not difference.shown:
        why = f"would hide one of up to {hidden}"
    amount = _written(difference.mean, quantity, difference, "+")
    interval = f"the 95 % interval {low} to {high} {why}, {_seeds(len(difference.per_seed))}"
    return f"{name} against {baseline}: no difference in {quantity.name} shown ({amount}; {interval})."


def _sentence_without_spread(name: str, baseline: str, difference: Difference, quantity: Quantity) -> str:
    seeds = _seeds(len(difference.per_seed))
    if not difference.mean:
        return f"{name} against {baseline}: {quantity.name} is the same in each of {seeds}."
    amount = _written(difference.mean, quantity, difference, "+")
    start = f"{name} against {baseline}: {quantity.name} {amount} in each of {seeds}"
    return f"{start}, without any spread that an interval could be made of."


def _sentence_shown(name: str, baseline: str, difference: Difference, quantity: Quantity, p_holm: float | None) -> str:
    bounds = sorted(abs(bound) for bound in (difference.low, difference.high) if bound is not None)
    low, high = (_number(bound, quantity, difference) for bound in bounds)
    corrected = "" if p_holm is None else f", Holm-adjusted {p_text(p_holm)}"
    interval = f"95 % interval {low} to {high}, {_seeds(len(difference.per_seed))}{corrected}"
    amount = _written(abs(difference.mean), quantity, difference)
    verdict = "better" if (difference.mean > 0) == (quantity.better == "higher") else "worse"
    if quantity.better == "higher":
        of = "of" if quantity.share else "in"
        return f"{name} is {verdict} than {baseline} by {amount} {of} {quantity.name} ({interval})."
    start = f"{name} against {baseline}" if quantity.better == "neither" else f"{name} is {verdict} than {baseline}"
    change = "larger" if difference.mean > 0 else "smaller"
    return f"{start}: {quantity.name} is {change} by {amount} ({interval})."


def wins_text(difference: Difference, better: Better = "higher") -> str:
    """In how many seeds the variant is ahead, with ties where there are any: "better in 4 of 5 seeds, 1 tie"."""
    ahead = difference.smaller if better == "lower" else difference.larger
    word = "larger" if better == "neither" else "better"
    ties = f", {difference.ties} tie{'' if difference.ties == 1 else 's'}" if difference.ties else ""
    n = len(difference.per_seed)
    return f"{word} in {ahead} of {n} seed{'' if n == 1 else 's'}{ties}"


def network_sentence(name: str, baseline: str, seed: int, difference: NetworkDifference) -> str:
    """What may be concluded about the two networks of one seed."""
    mean, low, high = (f"{value * 100:+z.2f}" for value in (difference.mean, difference.low, difference.high))
    alone = (
        f"{difference.only_variant:,} are right only with {name} and {difference.only_baseline:,} only with {baseline}"
    )
    return (
        f"{name} against {baseline}, seed {seed}: of {difference.images:,} images {alone}: {mean} points "
        f"(95 % interval {low} to {high}, McNemar mid-{p_text(difference.p)}). "
        "About these two networks, not about the method."
    )


def noise_sentence(name: str, noise: SeedNoise) -> str:
    """Whether McNemar's test of single networks can say anything about the variant."""
    observed, expected = f"{noise.observed * 100:.2f} points", f"{noise.expected * 100:.2f}"
    numbers = f"standard deviation {observed}, {expected} expected, {p_text(noise.p)}"
    if noise.settled:
        return (
            f"{name}: that its {noise.seeds} seeds differ more than independent errors would make them is not shown "
            f"({numbers}); so few seeds could hide it, and a test of two networks stays one of these two."
        )
    return (
        f"{name}: its {noise.seeds} seeds differ more than independent errors would make them ({numbers}): "
        "a test of two networks says nothing about the method."
    )


def p_text(p: float | None) -> str:
    """The p value with three decimals, as "p = 0.024" or "p < 0.001"; "no p" where there is none."""
    if p is None or math.isnan(p):
        return "no p"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _seeds(n: int) -> str:
    return "one seed" if n == 1 else f"{n} seeds"


def _written(value: float, quantity: Quantity, difference: Difference, sign: str = "") -> str:
    unit = " points" if quantity.share else ""
    return _number(value, quantity, difference, sign) + unit


def _number(value: float, quantity: Quantity, difference: Difference, sign: str = "") -> str:
    """The value, with as many decimals as the interval's bound next to zero needs to differ from it, up to six."""
    scale, decimals = (100, 2) if quantity.share else (1, 3)
    bounds = [abs(bound) * scale for bound in (difference.low, difference.high) if bound]
    while decimals < 6 and any(bound < 0.5 * 10**-decimals for bound in bounds):
        decimals += 1
    return f"{value * scale:{sign}z.{decimals}f}"

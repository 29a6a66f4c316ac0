"""Comparisons of single networks on the same images, and the noise between seeds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float64, Int64
from scipy import stats
from statsmodels.stats.contingency_tables import cochrans_q

from .differences import CONFIDENCE, FEWEST, holm, paired_difference


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

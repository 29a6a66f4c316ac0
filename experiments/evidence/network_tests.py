"""Single networks: compared on the same images, the noise between seeds, and whether their confidence is right."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float64, Int64
from scipy import stats
from statsmodels.stats.contingency_tables import cochrans_q

from ..training.predictions import Predictions
from .differences import CONFIDENCE, FEWEST, holm, mean_of_present, paired_difference


@dataclass(frozen=True)
class NetworkDifference:
    """The difference between two trained networks on the same images. It is no statement about how they were trained.

    Attributes:
        images: number of images that both classified.
        only_variant, only_baseline: number of images that only this network classified correctly.
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
    """The difference between two networks, from the images that each of them classifies correctly.

    The p value is McNemar's mid-p (Fagerland, Lydersen and Laake, BMC Med. Res. Methodol. 2013, 13:91). The interval is
    Wald's with one image added to each kind of disagreement (Bonett and Price, J. Educ. Behav. Stat. 2012, 37:479). It
    has a width even if the networks never disagree.

    Raises:
        ValueError: there are no images.
    """
    images = len(variant)
    if not images:
        raise ValueError("two networks cannot be compared without images; give at least one")
    gained, lost = int(np.sum(variant & ~baseline)), int(np.sum(~variant & baseline))
    more, less = (gained + 1) / (images + 2), (lost + 1) / (images + 2)
    error = math.sqrt((more + less - (more - less) ** 2) / (images + 2))
    half = float(stats.norm.ppf((1 + CONFIDENCE) / 2)) * error
    low, high = max(-1.0, more - less - half), min(1.0, more - less + half)
    return NetworkDifference(images, gained, lost, (gained - lost) / images, low, high, _mid_p(gained, lost))


def _mid_p(gained: int, lost: int) -> float:
    if gained == lost:
        return 1.0  # the paper subtracts half of the point's probability, which gives 0.5 if nothing differs
    total, fewer = gained + lost, min(gained, lost)
    return float(2 * stats.binom.cdf(fewer, total, 0.5) - stats.binom.pmf(fewer, total, 0.5))


@dataclass(frozen=True)
class SeedNoise:
    """How much the accuracy of one variant varies between seeds, and how much it would with independent errors.

    Attributes:
        observed: standard deviation of the accuracies.
        expected: the same, if errors were independent between images and between seeds.
        p: p value of Cochran's Q, which tests whether all seeds are equally accurate.
    """

    seeds: int
    images: int
    observed: float
    expected: float
    p: float

    @property
    def settled(self) -> bool:
        """Whether this test finds no more variation between seeds than independent errors explain."""
        return self.p >= 1 - CONFIDENCE


def seed_noise(right: Bool[np.ndarray, "seeds images"]) -> SeedNoise:
    """Compares the variation between seeds of one variant with that of independent errors on a finite test set.

    `expected` is sqrt(sum over images of p(1 - p)) / images, where p is the probability that the image is classified
    correctly, and p(1 - p) is estimated without bias over the seeds (Jordan, ICLR 2024, arXiv:2304.01910). Cochran's Q
    is (seeds - 1) * (observed / expected)^2 (Biometrika 1950). If the training has not settled, the ratio is well above
    one, and McNemar's test finds "differences" between two seeds of the same recipe.

    Raises:
        ValueError: there are fewer than three seeds, or no images.
    """
    seeds, images = right.shape
    if seeds < FEWEST or not images:
        raise ValueError(
            f"{seeds} seeds and {images} images are too few for this test; give at least {FEWEST} seeds and one image"
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
    """One row per class: the difference between the variants' accuracies in this class.

    Columns: `class`, `images`, `seeds`, the accuracies `baseline` and `variant`, `difference`, its 95 % interval `low`
    and `high` (not adjusted for the number of classes), `p`, `p_holm` (adjusted), `shown` (`p_holm` below 5 %) and
    `about`. With three seeds or more, `about` is "the method", and the numbers come from `paired_difference`. With one
    seed it is "these two networks", and they come from `mcnemar`. With two seeds it is "no statement", without interval
    and p.
    """
    rows = [
        {"class": name} | _class_row(variant[:, labels == number], baseline[:, labels == number])
        for number, name in enumerate(classes)
    ]
    seeds = len(variant)
    about = "the method" if seeds >= FEWEST else "these two networks" if seeds == 1 else "no statement"
    table = pd.DataFrame(rows).astype({"low": float, "high": float, "p": float})
    adjusted = holm(table["p"].to_numpy())
    return table.assign(p_holm=adjusted, shown=adjusted < 1 - CONFIDENCE, about=about)


def _class_row(variant: np.ndarray, baseline: np.ndarray) -> dict[str, object]:
    seeds, images = variant.shape
    sizes: dict[str, object] = {"images": images, "seeds": seeds}
    if not images:
        return sizes | dict.fromkeys(("baseline", "variant", "difference", "low", "high", "p"), math.nan)
    after, before = variant.mean(axis=1), baseline.mean(axis=1)
    found = mcnemar(variant[0], baseline[0]) if seeds == 1 else paired_difference(after, before)
    accuracies = {"baseline": float(before.mean()), "variant": float(after.mean())}
    return sizes | accuracies | {"difference": found.mean, "low": found.low, "high": found.high, "p": found.p}


@dataclass(frozen=True)
class Resampled:
    """A mean difference and its 95 % interval, found by resampling."""

    mean: float
    low: float
    high: float


def two_way_bootstrap(
    variant: Float[np.ndarray, "seeds images"],
    baseline: Float[np.ndarray, "seeds images"],
    generator: np.random.Generator,
    draws: int = 2000,
) -> Resampled:
    """The mean difference, variant minus baseline, with an interval from resampled seeds and images.

    Images are averaged within each seed, then the seeds are averaged. An image without a value (NaN) in either variant
    is left out of that seed. Every draw takes seeds and images with replacement, and the same images in all seeds (the
    pigeonhole bootstrap, Owen, Ann. Appl. Stat. 2007, 1:386).

    Use it as a check of `paired_difference`, which is valid for these images only: a much wider interval here shows
    that the choice of images matters. It never replaces Student's t: with few seeds it underestimates the variation
    between seeds, and it counts errors that are independent between seeds and images twice.

    Raises:
        ValueError: there are fewer than three seeds, or a seed has no image with both values.
    """
    differences = variant.astype(float) - baseline
    present = ~np.isnan(differences)
    seeds, images = differences.shape
    if seeds < FEWEST or not present.any(axis=1).all():
        raise ValueError(
            f"{seeds} seeds cannot be resampled; give at least {FEWEST}, each with an image that has both values"
        )
    filled = np.where(present, differences, 0.0)
    means = []
    chunk = max(1, 2**22 // images)  # bounds the memory
    for start in range(0, draws, chunk):
        counts = _draw_counts(generator, min(chunk, draws - start), images)
        found = counts @ present.T.astype(float)
        per_seed = np.divide(counts @ filled.T, found, out=np.full(found.shape, np.nan), where=found > 0)
        drawn = generator.integers(seeds, size=found.shape)
        means.append(mean_of_present(np.take_along_axis(per_seed, drawn, axis=1), axis=1))
    low, high = np.nanpercentile(np.concatenate(means), [50 * (1 - CONFIDENCE), 50 * (1 + CONFIDENCE)])
    return Resampled(float((filled.sum(axis=1) / present.sum(axis=1)).mean()), float(low), float(high))


def _draw_counts(generator: np.random.Generator, draws: int, images: int) -> Float64[np.ndarray, "draws images"]:
    """How often each image is drawn, in samples as large as the set of images."""
    drawn = generator.integers(images, size=(draws, images)) + images * np.arange(draws)[:, None]
    return np.bincount(drawn.ravel(), minlength=draws * images).reshape(draws, images).astype(float)


@dataclass(frozen=True)
class Calibration:
    """How well the confidence (the probability of the predicted class) matches the accuracy.

    Attributes:
        ece: expected calibration error: the mean distance between confidence and accuracy over the bins, weighted by
            the number of images; in [0, 1], 0 is best.
        brier: Brier score, the squared error of the probabilities summed over classes; in [0, 2], 0 is best.
        edges: the edges of the bins, from 0 to 1; a bin includes its upper edge.
        confidence, accuracy: the mean of each bin; NaN for an empty bin.
        count: number of images in each bin.
    """

    ece: float
    brier: float
    edges: Float64[np.ndarray, "edges"]
    confidence: Float64[np.ndarray, "bins"]
    accuracy: Float64[np.ndarray, "bins"]
    count: Int64[np.ndarray, "bins"]


def calibration(predictions: Predictions, bins: int = 15) -> Calibration:
    """Compares confidence and accuracy, in bins of equal width over the confidence.

    Expected calibration error: Guo et al., *On Calibration of Modern Neural Networks* (ICML 2017). Brier score:
    Brier, *Verification of Forecasts Expressed in Terms of Probability* (1950).

    Raises:
        ValueError: there are no images or no bins.
    """
    images = len(predictions.labels)
    if not images or bins < 1:
        raise ValueError(f"{images} images in {bins} bins have no calibration; give at least one image and one bin")
    probabilities = predictions.probabilities.astype(float)
    confidence, right = probabilities.max(axis=1), predictions.right
    edges = np.linspace(0, 1, bins + 1)
    where = np.digitize(confidence, edges[1:-1], right=True)
    count, sure, hits = (np.bincount(where, weights, bins) for weights in (None, confidence, right.astype(float)))
    truth = np.eye(probabilities.shape[1])[predictions.labels]
    with np.errstate(invalid="ignore"):  # 0 / 0 is NaN: an empty bin has no mean
        confidence_of_bin, accuracy_of_bin = sure / count, hits / count
    return Calibration(
        ece=float(np.abs(sure - hits).sum() / images),
        brier=float(((probabilities - truth) ** 2).sum(axis=1).mean()),
        edges=edges,
        confidence=confidence_of_bin,
        accuracy=accuracy_of_bin,
        count=count.astype(np.int64),
    )

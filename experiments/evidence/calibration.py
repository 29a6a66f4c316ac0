"""Checks whether predicted probabilities match the share of correct predictions."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from ..training.predictions import Predictions


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

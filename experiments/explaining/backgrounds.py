"""The effect of the background on predictions: the same objects of the scenes on other backgrounds."""

from collections.abc import Mapping

from ..training.predictions import Predictions


def background_shift(found: Mapping[str, Predictions]) -> dict[str, float]:
    """The effect of the background, by metric; the splits `own` and `other` show the same objects in the same order.

    The accuracy of each split, the gap between own and other backgrounds, and the share of predictions that differ.
    """
    accuracy = {f"shift/{name}_accuracy": predictions.accuracy for name, predictions in found.items()}
    own, other = found["own"], found["other"]
    return accuracy | {
        "shift/background_gap": own.accuracy - other.accuracy,
        "shift/background_flips": float((own.classes != other.classes).mean()),
    }


BACKGROUNDS = ("own", "other", "background_only", "object_only")
"""Splits of the scenes that show the objects of the test images on backgrounds of all kinds."""

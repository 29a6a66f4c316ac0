"""Predictions are counted right and leave the model alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.metrics import balanced_accuracy_score, brier_score_loss
from torch import nn

from experiments.evidence.network_tests import calibration
from experiments.training.predictions import Predictions, confusion_matrix, predict, prediction_table, predictions_of

LOGITS = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 5.0]], np.float32)
FOUR = Predictions(LOGITS, np.array([0, 0, 1, 2]))


def test_accuracy_and_loss_by_hand() -> None:
    assert FOUR.classes.tolist() == [0, 1, 0, 2]  # the first of equals in the third
    assert FOUR.right.tolist() == [True, False, False, True]
    assert FOUR.accuracy == 0.5
    e = np.exp
    terms = [e(2) / (e(2) + e(1) + 1), 1 / (2 + e(3)), e(1) / (2 * e(1) + 1), e(5) / (2 + e(5))]
    assert pytest.approx(-np.log(terms).mean(), rel=1e-6) == FOUR.loss


def test_the_accuracy_of_each_class_and_group_by_hand() -> None:
    assert FOUR.accuracy_by(FOUR.labels).tolist() == [0.5, 0, 1]
    assert np.nanmean(FOUR.accuracy_by(FOUR.labels)) == balanced_accuracy_score(FOUR.labels, FOUR.classes) == 0.5
    assert np.array_equal(FOUR.accuracy_by(np.array([3, 1, 1, 3])), [np.nan, 0, np.nan, 1], equal_nan=True)


@pytest.mark.parametrize(("right", "is_near"), [(50, True), (60, True), (61, False), (100, False), (0, True)])
def test_near_chance_is_what_the_largest_class_reaches_too(right: int, is_near: bool) -> None:
    """Of 100 images 50 are of one class. With 60 right the exact interval begins at 49.7 %, with 61 at 50.7 %."""
    labels = np.repeat([0, 1, 2], [50, 30, 20])
    said = np.where(np.arange(100) < right, labels, (labels + 1) % 3)
    doubt = Predictions(np.eye(3, dtype=np.float32)[said], labels).near_chance
    assert bool(doubt) == is_near
    assert not is_near or f"test accuracy {right:.1f}% (95 % interval" in doubt
    assert not is_near or doubt.endswith("the largest class has 50.0% of the images; the maps explain nothing")


def test_confusion_matrix_by_hand() -> None:
    assert confusion_matrix(FOUR, 3).tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 1]]


def test_prediction_table_has_a_row_per_image_and_probabilities_that_add_up() -> None:
    table = prediction_table(FOUR, ("cat", "dog", "a b"))
    assert list(table.columns) == ["index", "label", "prediction", "p_cat", "p_dog", "p_a b"]
    assert table["index"].tolist() == [0, 1, 2, 3]
    assert np.allclose(table[["p_cat", "p_dog", "p_a b"]].sum(axis=1), 1)


def test_predictions_come_back_from_their_table() -> None:
    back = predictions_of(prediction_table(FOUR, ("cat", "dog", "a b")), ("cat", "dog", "a b"))
    assert np.allclose(back.probabilities, FOUR.probabilities, atol=1e-6)
    assert back.labels.tolist() == FOUR.labels.tolist()
    assert back.right.tolist() == FOUR.right.tolist()


def predictions_with(probabilities: list[list[float]], labels: list[int]) -> Predictions:
    with np.errstate(divide="ignore"):
        return Predictions(np.log(np.array(probabilities, np.float32)), np.array(labels))


def test_calibration_by_hand() -> None:
    # Confidences 0.6 and 0.7 (one right) share the bin up to 3/4, 0.9 and 1.0 (both right) the last one.
    found = calibration(predictions_with([[0.6, 0.4], [0.3, 0.7], [0.9, 0.1], [0, 1]], [0, 0, 0, 1]), bins=4)
    assert found.edges.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert found.count.tolist() == [0, 0, 2, 2]
    assert found.confidence.tolist() == pytest.approx([np.nan, np.nan, 0.65, 0.95], nan_ok=True)
    assert found.accuracy.tolist() == pytest.approx([np.nan, np.nan, 0.5, 1], nan_ok=True)
    assert found.ece == pytest.approx(2 / 4 * 0.15 + 2 / 4 * 0.05)
    # Each of two classes is off by 0.4, 0.7, 0.1, 0.
    assert found.brier == pytest.approx(2 * (0.16 + 0.49 + 0.01) / 4)


def test_a_perfectly_calibrated_network_has_no_calibration_error() -> None:
    # Of ten images with confidence 0.8 eight are right, of five with 0.6 three.
    rows = [[0.8, 0.1, 0.1]] * 10 + [[0.2, 0.6, 0.2]] * 5
    labels = [0] * 8 + [1, 2] + [1] * 3 + [0, 2]
    assert calibration(predictions_with(rows, labels)).ece == pytest.approx(0, abs=1e-7)


def test_a_certain_network_is_as_wrong_as_it_is_inaccurate() -> None:
    found = calibration(predictions_with([[1, 0], [1, 0], [1, 0], [0, 1]], [0, 1, 1, 1]))
    assert found.ece == 0.5
    assert found.brier == 2 * 0.5


@given(st.integers(0, 1000), st.integers(1, 20))
def test_calibration_is_that_of_scikit_learn(seed: int, bins: int) -> None:
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, 3, (200, 4)).astype(np.float32)
    predictions = Predictions(logits, generator.integers(4, size=200))
    found = calibration(predictions, bins)
    confidence = predictions.probabilities.max(axis=1).astype(float)
    accuracies, confidences = calibration_curve(predictions.right, confidence, n_bins=bins)
    filled = found.count > 0
    assert found.accuracy[filled].tolist() == pytest.approx(accuracies.tolist())
    assert found.confidence[filled].tolist() == pytest.approx(confidences.tolist())
    assert found.count.sum() == 200
    expected = brier_score_loss(predictions.labels, predictions.probabilities, labels=range(4), scale_by_half=False)
    assert found.brier == pytest.approx(expected, rel=1e-5)
    assert found.ece == pytest.approx(np.nansum(found.count * np.abs(found.accuracy - found.confidence)) / 200)
    assert 0 <= found.ece <= 1


def test_one_bin_measures_confidence_against_accuracy() -> None:
    found = calibration(FOUR, bins=1)
    assert found.ece == pytest.approx(abs(FOUR.probabilities.max(axis=1).mean() - 0.5))


def test_no_images_and_no_bins_are_refused() -> None:
    with pytest.raises(ValueError, match="4 images in 0 bins have no calibration"):
        calibration(FOUR, bins=0)
    with pytest.raises(ValueError, match="0 images in 15 bins"):
        calibration(Predictions(np.zeros((0, 3), np.float32), np.zeros(0, np.int64)))


class _Mean(nn.Module):
    """Logit of class c: the mean of channel c."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.BatchNorm2d(3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.inner(images).mean((2, 3))


def test_predict_goes_through_all_chunks_in_order_and_leaves_the_model_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("experiments.training.predictions._CHUNK_PIXELS", 5 * 4 * 4)
    model = _Mean().train()
    model.inner.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    labels = np.arange(5 + 5 + 2) % 3
    images = np.zeros((len(labels), 4, 4, 3), np.uint8)
    images[np.arange(len(labels)), :, :, labels] = 255
    sizes: list[int] = []
    model.inner.register_forward_pre_hook(lambda module, given: sizes.append(len(given[0])))
    assert predict(model, images, labels, "cpu").accuracy == 1
    assert sizes == [5, 5, 2]
    assert (model.training, model.inner.training) == (True, False)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())

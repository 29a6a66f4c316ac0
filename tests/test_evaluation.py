"""Predictions are counted right and leave the model alone."""

import numpy as np
import pytest
import torch
from torch import nn

from experiments.evaluation import CHUNK, Predictions, confusion_matrix, predict, prediction_table, predictions_of

LOGITS = np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 5.0]], np.float32)
FOUR = Predictions(LOGITS, np.array([0, 0, 1, 2]))


def test_accuracy_and_loss_by_hand() -> None:
    assert FOUR.classes.tolist() == [0, 1, 0, 2]  # the first of equals in the third
    assert FOUR.right.tolist() == [True, False, False, True]
    assert FOUR.accuracy == 0.5
    e = np.exp
    terms = [e(2) / (e(2) + e(1) + 1), 1 / (2 + e(3)), e(1) / (2 * e(1) + 1), e(5) / (2 + e(5))]
    assert pytest.approx(-np.log(terms).mean(), rel=1e-6) == FOUR.loss


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


class _Mean(nn.Module):
    """Logit of class c: the mean of channel c."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.BatchNorm2d(3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.inner(images).mean((2, 3))


def test_predict_goes_through_all_chunks_in_order_and_leaves_the_model_as_it_was() -> None:
    model = _Mean().train()
    model.inner.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    labels = np.arange(CHUNK + 7) % 3
    images = np.zeros((len(labels), 4, 4, 3), np.uint8)
    images[np.arange(len(labels)), :, :, labels] = 255
    assert predict(model, images, labels, "cpu").accuracy == 1
    assert (model.training, model.inner.training) == (True, False)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())

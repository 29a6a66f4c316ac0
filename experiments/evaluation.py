"""What a network predicts, and how good that is."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, Float64, Int64, UInt8
from torch import nn

from experiments.augment import to_tensor

_CHUNK_PIXELS = 500 * 32**2  # of the images of a forward pass


@dataclass(frozen=True)
class Predictions:
    """Logits `(n, classes)` and true labels `(n,)` of the same images in the same order."""

    logits: Float32[np.ndarray, "n classes"]
    labels: Int64[np.ndarray, "n"]

    @property
    def probabilities(self) -> Float32[np.ndarray, "n classes"]:
        """Softmax of the logits."""
        return torch.from_numpy(self.logits).softmax(1).numpy()

    @property
    def classes(self) -> Int64[np.ndarray, "n"]:
        """The predicted class, the first of equals."""
        return self.logits.argmax(1).astype(np.int64)

    @property
    def right(self) -> np.ndarray:
        """Which images are classified correctly, bool `(n,)`."""
        return self.classes == self.labels

    @property
    def accuracy(self) -> float:
        """Share of correct predictions, in [0, 1]."""
        return float(self.right.mean())

    @property
    def loss(self) -> float:
        """Mean cross entropy in nats, without label smoothing."""
        return float(nn.functional.cross_entropy(torch.from_numpy(self.logits), torch.from_numpy(self.labels)))


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Switches every module to evaluation and back to what it was."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def predict(
    model: nn.Module,
    images: UInt8[np.ndarray, "n h w 3"],
    labels: Int64[np.ndarray, "n"],
    device: str,
    precision: str = "fp32",
) -> Predictions:
    """The model's predictions in chunks, computed in `precision`, fp32 or bf16; the model is left as it was."""
    chunks = []
    size = max(1, _CHUNK_PIXELS // (images.shape[1] * images.shape[2]))
    autocast = torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")
    with eval_mode(model), torch.inference_mode(), autocast:
        for start in range(0, len(images), size):
            batch = to_tensor(images[start : start + size]).to(device, memory_format=torch.channels_last)
            chunks.append(model(batch).float().cpu())
    return Predictions(torch.cat(chunks).numpy(), labels)


def predict_with_mirrors(
    model: nn.Module, images: UInt8[np.ndarray, "n h w 3"], labels: Int64[np.ndarray, "n"], device: str
) -> Predictions:
    """The mean logits of each image and of its mirror image, as CIFAR-10 speed records are evaluated."""
    return with_mirrors(predict(model, images, labels, device), model, images, device)


def with_mirrors(
    plain: Predictions, model: nn.Module, images: UInt8[np.ndarray, "n h w 3"], device: str
) -> Predictions:
    """The same where the predictions of the images themselves are there already."""
    mirrored = predict(model, np.ascontiguousarray(images[:, :, ::-1]), plain.labels, device)
    return Predictions((plain.logits + mirrored.logits) / 2, plain.labels)


def confusion_matrix(predictions: Predictions, classes: int) -> Int64[np.ndarray, "k k"]:
    """Counts: rows are true classes, columns are predicted ones."""
    cells = predictions.labels * classes + predictions.classes
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True)
class Calibration:
    """How well the confidence, the probability of the predicted class, says how often the prediction is right.

    Attributes:
        ece: expected calibration error, the mean distance of confidence and accuracy over bins, weighted by their
            images; in [0, 1], 0 is best.
        brier: Brier score, the squared error of the probabilities summed over classes; in [0, 2], 0 is best.
        edges: of the bins, from 0 to 1; a bin holds its upper edge.
        confidence, accuracy: the mean of each bin, NaN where it is empty.
        count: images in each bin.
    """

    ece: float
    brier: float
    edges: Float64[np.ndarray, "edges"]
    confidence: Float64[np.ndarray, "bins"]
    accuracy: Float64[np.ndarray, "bins"]
    count: Int64[np.ndarray, "bins"]


def calibration(predictions: Predictions, bins: int = 15) -> Calibration:
    """How far confidence and accuracy agree, in bins of the confidence of equal width.

    Expected calibration error after Guo et al., *On Calibration of Modern Neural Networks* (ICML 2017), score after
    Brier, *Verification of Forecasts Expressed in Terms of Probability* (1950).

    Raises:
        ValueError: where there are no images or no bins.
    """
    images = len(predictions.labels)
    if not images or bins < 1:
        raise ValueError(f"{images} images in {bins} bins have no calibration; give at least one of both")
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


def shift(found: Mapping[str, Predictions]) -> dict[str, float]:
    """What the background does, named as it is logged; the splits `own` and `other` show the same objects in order.

    The accuracy of each split, the gap between own and other backgrounds, and the share of predictions that differ.
    """
    accuracy = {f"shift/{name}_accuracy": predictions.accuracy for name, predictions in found.items()}
    own, other = found["own"], found["other"]
    return accuracy | {
        "shift/background_gap": own.accuracy - other.accuracy,
        "shift/background_flips": float((own.classes != other.classes).mean()),
    }


def prediction_table(predictions: Predictions, classes: tuple[str, ...]) -> pd.DataFrame:
    """One row per image: `index`, `label`, `prediction`, and the probability of each class as `p_<class>`."""
    table = pd.DataFrame({"label": predictions.labels, "prediction": predictions.classes})
    probabilities = pd.DataFrame(predictions.probabilities, columns=[f"p_{name}" for name in classes])
    return pd.concat([table, probabilities], axis=1).rename_axis("index").reset_index()


def predictions_of(table: pd.DataFrame, classes: tuple[str, ...]) -> Predictions:
    """The predictions that `prediction_table` was made of; the logits are the logarithms of the probabilities."""
    probabilities = table[[f"p_{name}" for name in classes]].to_numpy(np.float32)
    with np.errstate(divide="ignore"):  # a probability may be 0
        return Predictions(np.log(probabilities), table["label"].to_numpy(np.int64))

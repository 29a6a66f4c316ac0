"""The predictions of a network for a split: logits, classes, accuracy, loss."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, Float64, Int64, UInt8
from torch import nn

from ..data.tensors import to_tensor
from .machine import autocast

_CHUNK_PIXELS = 500 * 32**2  # pixels of all images of a forward pass


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
        """The predicted class; the first one if several are equal."""
        return self.logits.argmax(1).astype(np.int64)

    @property
    def right(self) -> np.ndarray:
        """Whether each image is classified correctly, bool `(n,)`."""
        return self.classes == self.labels

    @property
    def accuracy(self) -> float:
        """Share of correct predictions, in [0, 1]."""
        return float(self.right.mean())

    def accuracy_by(self, members: Int64[np.ndarray, "n"]) -> Float64[np.ndarray, "_"]:
        """The accuracy among the images with each number in `members`, such as their labels; NaN without images."""
        counts = np.bincount(members)
        return np.divide(np.bincount(members, self.right), counts, out=np.full(len(counts), np.nan), where=counts > 0)

    @cached_property
    def near_chance(self) -> str:
        """A sentence if the accuracy is not surely above the share of the largest class, which needs no network.

        The interval is exact (Clopper & Pearson 1934). Empty if its lower end is above that share.
        """
        from scipy.stats import binomtest  # half a second, which a training need not wait for at its start

        n, share = len(self.labels), float(np.bincount(self.labels).max() / len(self.labels))
        low, high = binomtest(int(self.right.sum()), n).proportion_ci()
        if low > share:
            return ""
        return (
            f"near chance: test accuracy {self.accuracy:.1%} (95 % interval {low:.1%} to {high:.1%}, {n} images), "
            f"the largest class has {share:.1%} of the images; the maps explain nothing"
        )

    @property
    def loss(self) -> float:
        """Mean cross entropy in nats, without label smoothing."""
        return float(nn.functional.cross_entropy(torch.from_numpy(self.logits), torch.from_numpy(self.labels)))


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Switches every module to evaluation mode, and at the end back to its previous mode."""
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
    """The model's predictions, computed in chunks with `precision`, fp32, bf16 or fp16; the model is left unchanged."""
    chunks = []
    size = max(1, _CHUNK_PIXELS // (images.shape[1] * images.shape[2]))
    with eval_mode(model), torch.inference_mode(), autocast(device, precision):
        for start in range(0, len(images), size):
            batch = to_tensor(images[start : start + size]).to(device, memory_format=torch.channels_last)
            chunks.append(model(batch).float().cpu())
    return Predictions(torch.cat(chunks).numpy(), labels)


def predict_with_mirrors(
    model: nn.Module, images: UInt8[np.ndarray, "n h w 3"], labels: Int64[np.ndarray, "n"], device: str
) -> Predictions:
    """The mean logits of each image and its mirror image, as in the evaluation of CIFAR-10 speed records."""
    return with_mirrors(predict(model, images, labels, device), model, images, device)


def with_mirrors(
    plain: Predictions, model: nn.Module, images: UInt8[np.ndarray, "n h w 3"], device: str
) -> Predictions:
    """The same, if the predictions for the images themselves are already known."""
    mirrored = predict(model, images[:, :, ::-1], plain.labels, device)
    return Predictions((plain.logits + mirrored.logits) / 2, plain.labels)


def confusion_matrix(predictions: Predictions, classes: int) -> Int64[np.ndarray, "k k"]:
    """Counts: rows are true classes, columns are predicted ones."""
    cells = predictions.labels * classes + predictions.classes
    return np.bincount(cells, minlength=classes**2).reshape(classes, classes)


def prediction_table(predictions: Predictions, classes: tuple[str, ...]) -> pd.DataFrame:
    """One row per image: `index`, `label`, `prediction`, and the probability of each class as `p_<class>`."""
    table = pd.DataFrame({"label": predictions.labels, "prediction": predictions.classes})
    probabilities = pd.DataFrame(predictions.probabilities, columns=[f"p_{name}" for name in classes])
    return pd.concat([table, probabilities], axis=1).rename_axis("index").reset_index()


def predictions_of(table: pd.DataFrame, classes: tuple[str, ...]) -> Predictions:
    """The predictions in a `prediction_table`; the logits are the logarithms of the probabilities."""
    probabilities = table[[f"p_{name}" for name in classes]].to_numpy(np.float32)
    with np.errstate(divide="ignore"):  # a probability may be 0
        return Predictions(np.log(probabilities), table["label"].to_numpy(np.int64))

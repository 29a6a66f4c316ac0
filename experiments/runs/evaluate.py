"""Evaluates and explains a trained network on the test images; yields records."""

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import pandas as pd
import torch
from torch import nn

from cam_core import Cams, cams_of_methods

from ..data.tensors import to_tensor
from ..explaining import measuring
from ..explaining.backgrounds import BACKGROUNDS, background_shift
from ..explaining.probes import SPLIT, Probes, probes
from ..models.foreign import network_of, normalisation
from ..pictures.curves import confusion, curves
from ..settings.base import AUTO
from ..tracking.records import Metrics, Model, Record
from ..training.predictions import (
    Predictions,
    confusion_matrix,
    predict,
    predict_with_mirrors,
    with_mirrors,
)
from .contents import (
    CONFUSION,
    CURVES,
    RunMaps,
    faithfulness_record,
    map_measures_record,
    maps_record,
    picture,
    predictions_record,
)
from .illustrate import iter_galleries, iter_probe_records
from .prepare import Prepared


def iter_findings(prepared: Prepared, model: nn.Module, history: pd.DataFrame) -> Iterator[list[Record]]:
    """All results of the trained network, in portions; the clock measures the time of each."""
    clock, dataset, explaining = prepared.clock, prepared.dataset, prepared.explaining
    split, epoch = dataset.splits[SPLIT], int(history.index[-1])
    with clock.measuring("evaluate"):
        predictions = predict(model, split.images, split.labels, prepared.machine.device)
        evaluated = [*iter_evaluation(prepared, model, predictions, epoch), *iter_best_epoch(history)]
    yield evaluated
    with clock.measuring("cam"):
        chosen = probes(dataset)
        maps = cams_of_methods(
            model,
            to_tensor(chosen.images),
            explaining.layers,
            torch.from_numpy(chosen.labels),
            methods=explaining.all_methods,
        )
        looked = list(iter_looks(prepared, model, chosen, maps[explaining.method], predictions, epoch))
    yield looked
    with clock.measuring("faithfulness"):
        asked = list(iter_faithfulness(prepared, model, epoch))
    yield asked
    with clock.measuring("pictures"):
        pictures = [
            *iter_probe_records(prepared, chosen, maps, predictions, epoch),
            *iter_galleries(prepared, model, predictions),
            picture(CURVES, lambda: curves(history, curves_title(prepared, history))),
        ]
    yield pictures


def model_record(prepared: Prepared, model: nn.Module) -> Model:
    """The trained network, with two test images and its logits for them."""
    split = prepared.dataset.splits[SPLIT]
    said = predict(model, split.images[:2], split.labels[:2], prepared.machine.device)
    images = to_tensor(split.images[:2]).numpy()
    return Model(model, images, said.logits, prepared.settings.epochs, declaration(prepared))


def declaration(prepared: Prepared) -> dict[str, Any]:
    """The network in values of JSON: with them and its weights it can be built again without pickle."""
    settings, dataset, network = prepared.settings, prepared.dataset, network_of(prepared.settings)
    mean, std = normalisation(settings, *(each.tolist() for each in dataset.statistics))
    return {
        **{name: getattr(settings, name) for name in ("model", "small_stem", "dropout")},
        **{"weights": network.weights, "classes": dataset.classes, "layers": prepared.explaining.layers},
        **{"image_size": settings.side, "interpolation": settings.interpolation.replace(AUTO, "bicubic")},
        **{"mean": mean, "std": std},
        "libraries": {name: version(name) for name in ("torch", *network.libraries)},
        "sources": network.sources,
    }


def iter_evaluation(prepared: Prepared, model: nn.Module, predictions: Predictions, epoch: int) -> Iterator[Record]:
    """Test accuracy, all predictions, the confusion matrix; for the scenes also the effect of the background."""
    dataset = prepared.dataset
    if not prepared.settings.track_test:  # otherwise the last epoch has logged them
        yield Metrics({"test/loss": predictions.loss, "test/accuracy": predictions.accuracy}, epoch)
    if prepared.settings.test_flip:
        yield Metrics(dict(_accuracies_with_mirrors(prepared, model, predictions)), epoch)
    yield predictions_record(predictions, dataset.classes)
    counts = confusion_matrix(predictions, len(dataset.classes))
    yield picture(CONFUSION, lambda: confusion(counts, dataset.classes))
    found = {
        name: predict(model, dataset.splits[name].images, dataset.splits[name].labels, prepared.machine.device)
        for name in BACKGROUNDS
        if name in dataset.splits
    }
    if found:
        yield Metrics(background_shift(found), epoch)


def _accuracies_with_mirrors(
    prepared: Prepared, model: nn.Module, predictions: Predictions
) -> Iterator[tuple[str, float]]:
    splits, device = prepared.dataset.splits, prepared.machine.device
    found = {SPLIT: with_mirrors(predictions, model, splits[SPLIT].images, device)}
    if val := splits.get("val"):
        found["val"] = predict_with_mirrors(model, val.images, val.labels, device)
    for name, averaged in found.items():
        yield f"{name}/accuracy_with_mirrors", averaged.accuracy


def iter_best_epoch(history: pd.DataFrame) -> Iterator[Metrics]:
    """The best epoch on the tracked test images. Some sources report it; it is no unbiased estimate."""
    if "test/accuracy" in history:
        best, accuracy = _best_epoch(history)
        found = {"test/best_accuracy": accuracy, "test/best_epoch": float(best)}
        yield Metrics(found, int(history.index[-1]))


def _best_epoch(history: pd.DataFrame) -> tuple[int, float]:
    """The epoch with the highest test accuracy, the first of equals, and that accuracy."""
    curve = history["test/accuracy"]
    return int(curve.index[int(curve.argmax())]), float(curve.max())


def curves_title(prepared: Prepared, history: pd.DataFrame) -> str:
    """The run's name, its last and best test accuracy if they were tracked, and what the train curves are."""
    smoothing = prepared.settings.label_smoothing
    smoothed = f", labels smoothed by {smoothing:g}" if smoothing else ""
    what = f"train: mean over the epoch's steps, on augmented images{smoothed}"
    if "test/accuracy" not in history:
        return f"{prepared.name}\n{what}"
    (best, accuracy), last = _best_epoch(history), history["test/accuracy"].iloc[-1]
    found = f"{accuracy:.2%} in epoch {best}"
    reached = f"test accuracy {last:.2%} after the last epoch; best of {len(history)}: {found}"
    return f"{prepared.name}: {reached}\n{what}"


def iter_looks(
    prepared: Prepared, model: nn.Module, chosen: Probes, own: Cams, predictions: Predictions, epoch: int
) -> Iterator[Record]:
    """The measures and maps of a sample of the test images, and the maps of the images in `chosen`."""
    explaining, split = prepared.explaining, prepared.dataset.splits[SPLIT]
    looks = measuring.measure(model, explaining.layers, split, predictions, explaining.method, prepared.machine.device)
    yield Metrics(measuring.summary(looks.table), epoch)
    yield map_measures_record(looks.table)
    maps, strength = own.maps.cpu().numpy(), own.strength.cpu().numpy()
    yield maps_record(RunMaps(own.layers, maps, strength, chosen.indices, chosen.labels, looks.indices, looks.maps))


def iter_faithfulness(prepared: Prepared, model: nn.Module, epoch: int) -> Iterator[Record]:
    """How faithful the last layer's maps are, measured on fewer images."""
    explaining, split = prepared.explaining, prepared.dataset.splits[SPLIT]
    last = explaining.layers[-1]
    table = measuring.faithfulness(model, last, split, explaining.method, prepared.machine.device)
    yield Metrics(measuring.faithfulness_summary(table, last), epoch)
    yield faithfulness_record(table)

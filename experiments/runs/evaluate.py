"""Evaluates and explains a trained network on the test images, and draws its pictures; yields records."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32, Int64
from torch import nn

from cam_core import Cams, cams, cams_of_methods, relative_to_mean

from ..data.cifar10 import CORRUPTED, SEVERITIES
from ..data.dataset import Dataset
from ..data.tensors import to_tensor
from ..explaining import measuring
from ..explaining.probes import SPLIT, Probes, in_turn, probes
from ..models.foreign import network_of, normalisation
from ..pictures import sheets, style
from ..pictures.sheets import confusion, curves
from ..pictures.style import drawn_or_explained, method_name
from ..settings.base import AUTO
from ..tracking.records import KeyedPicture, Metrics, Model, Record, Table, Tag
from ..training.predictions import Predictions, confusion_matrix, predict, predict_with_mirrors, with_mirrors
from . import contents
from .prepare import Prepared

UNEQUAL = 1.1  # how many times as many images as another a class must have, for the balanced accuracy to be shown


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
        images, labels = to_tensor(chosen.images), torch.from_numpy(chosen.labels)
        methods, chunk = explaining.all_methods, measuring.at_a_time(chosen.images)
        maps = cams_of_methods(model, images, explaining.layers, labels, methods=methods, chunk=chunk)
        looked = list(iter_looks(prepared, model, chosen, maps[explaining.method], predictions, epoch))
    yield looked
    with clock.measuring("faithfulness"):
        asked = list(iter_faithfulness(prepared, model, epoch))
    yield asked
    with clock.measuring("pictures"):
        pictures = [
            *iter_probe_records(prepared, chosen, maps, predictions, epoch),
            *iter_galleries(prepared, model, predictions),
            contents.picture(contents.CURVES, lambda: curves(history, curves_title(prepared, history))),
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
        "centre_crop": 1.0 if settings.centre_crop == AUTO else settings.centre_crop,
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
    yield from iter_groups(dataset, predictions, epoch)
    if doubt := predictions.near_chance:
        yield Tag(contents.NEAR_CHANCE, doubt)
    yield contents.predictions_record(predictions, dataset.classes)
    counts = confusion_matrix(predictions, len(dataset.classes))
    yield contents.picture(contents.CONFUSION, lambda: confusion(counts, dataset.classes))
    found = {
        name: predict(model, dataset.splits[name].images, dataset.splits[name].labels, prepared.machine.device)
        for name in measuring.BACKGROUNDS
        if name in dataset.splits
    }
    if found:
        yield Metrics(measuring.background_shift(found), epoch)
    yield from iter_corrupted(dataset, model, prepared.machine.device, epoch)


def iter_groups(dataset: Dataset, predictions: Predictions, epoch: int) -> Iterator[Record]:
    """If classes are unequal, the mean of their accuracies; if there are groups, the lowest of theirs and a table."""
    sizes = np.bincount(predictions.labels)
    if sizes.max() > UNEQUAL * sizes[sizes > 0].min():
        balanced = float(np.nanmean(predictions.accuracy_by(predictions.labels)))
        yield Metrics({"test/balanced_accuracy": balanced}, epoch)
    groups = dataset.splits[SPLIT].groups
    if groups is not None:
        table = pd.DataFrame(index=range(len(dataset.groups)), data={"group": dataset.groups})
        for name, split in dataset.splits.items():
            if split.groups is not None:
                table[name] = np.bincount(split.groups, minlength=len(table))
        table["test accuracy"] = pd.Series(predictions.accuracy_by(groups))
        yield Metrics({"test/worst_group_accuracy": float(table["test accuracy"].min())}, epoch)
        yield Table("groups.csv", table)


def iter_corrupted(dataset: Dataset, model: nn.Module, device: str, epoch: int) -> Iterator[Record]:
    """The accuracy on each corruption and severity of `cifar10_c`, and the mean of them."""
    rows = {}
    for name, split in dataset.splits.items():
        if name.startswith(CORRUPTED):
            severities = np.repeat(np.arange(SEVERITIES), len(split) // SEVERITIES)
            said = predict(model, split.images, split.labels, device)
            rows[name.removeprefix(CORRUPTED)] = said.accuracy_by(severities)
    if rows:
        table = pd.DataFrame(rows, index=[f"severity {n + 1}" for n in range(SEVERITIES)]).T
        yield Metrics({"shift/corrupted_accuracy": float(table.to_numpy().mean())}, epoch)
        yield Table("corruptions.csv", table.rename_axis("corruption").reset_index())


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
    yield contents.map_measures_record(looks.table)
    maps, strength = own.maps.cpu().numpy(), own.strength.cpu().numpy()
    yield contents.maps_record(
        contents.RunMaps(own.layers, maps, strength, chosen.indices, chosen.labels, looks.indices, looks.maps)
    )


def iter_faithfulness(prepared: Prepared, model: nn.Module, epoch: int) -> Iterator[Record]:
    """How faithful the last layer's maps are, measured on fewer images."""
    explaining, split = prepared.explaining, prepared.dataset.splits[SPLIT]
    last = explaining.layers[-1]
    table = measuring.faithfulness(model, last, split, explaining.method, prepared.machine.device)
    yield Metrics(measuring.faithfulness_summary(table, last), epoch)
    yield contents.faithfulness_record(table)


def iter_probe_records(
    prepared: Prepared, chosen: Probes, maps: Mapping[str, Cams], predictions: Predictions, epoch: int
) -> Iterator[Record]:
    """The pictures of the images that every run explains."""
    classes, method, methods = prepared.dataset.classes, prepared.explaining.method, prepared.explaining.methods
    said = sheets.verdicts(predictions, chosen.indices, classes)
    own = maps[method]
    drawn = relative_to_mean(own.maps).cpu().numpy()
    yield from iter_keyed(chosen, drawn[-1], said, epoch)
    network = _network(prepared, predictions)
    title = f"{network}: {method_name(method)} of the images that every run explains"
    shown = partial(sheets.layer_sheet, chosen.images, labels=chosen.labels, said=said, classes=classes)
    yield contents.picture(contents.LAYERS, partial(shown, drawn, own.layers, title=title))
    last = np.stack([relative_to_mean(maps[name].maps[-1]).cpu().numpy() for name in methods])
    title = f"{network}: CAM methods at {own.layers[-1]}"
    names = [method_name(name) for name in methods]
    yield contents.picture(contents.METHODS, partial(shown, last, names, title=title))


def iter_keyed(
    chosen: Probes, maps: Float32[np.ndarray, "n h w"], said: Sequence[sheets.Verdict], step: int
) -> Iterator[KeyedPicture]:
    """The cells of MLflow's image grid; `maps` are relative to their mean."""
    for i, key in enumerate(chosen.keys):
        masks = None if chosen.masks is None else chosen.masks[i]
        draw = partial(sheets.cell, chosen.images[i], maps[i], said[i], masks)
        yield KeyedPicture(key, drawn_or_explained(key, draw), step)


def iter_galleries(prepared: Prepared, model: nn.Module, predictions: Predictions) -> Iterator[Record]:
    """Misclassified and correct test images, and their maps at every layer; of the correct ones maps of only half."""
    split, classes, size = prepared.dataset.splits[SPLIT], prepared.dataset.classes, prepared.settings.gallery_size
    groups = {"misclassified": (~predictions.right, size), "correct": (predictions.right, (size + 1) // 2)}
    for name, (chosen, explained) in groups.items():
        indices = in_turn(split.labels, chosen, size)
        if not len(indices):
            continue
        title = f"{prepared.name}: {len(indices)} of {int(chosen.sum()):,} {name} test images"
        draw = partial(sheets.gallery, split.images, indices, predictions, classes, title)
        yield contents.picture(contents.gallery(name), draw)
        indices = indices[:explained]
        title = f"{_network(prepared, predictions)}: {len(indices)} of {int(chosen.sum()):,} {name} test images"
        sheet = _sheet_of(prepared, model, predictions, indices, split.labels[indices])
        yield contents.picture(contents.explained(name), partial(sheet, title=title))
        heats = partial(sheet, title=f"{title}, the maps alone", tiles=sheets.heat_tiles)
        yield contents.picture(contents.explained(name, alone=True), heats)
        if name == "misclassified":
            sheet = _sheet_of(prepared, model, predictions, indices, predictions.classes[indices])
            draw = partial(sheet, title=title, footer=sheets.PREDICTED_EXPLAINED)
            yield contents.picture(contents.PREDICTED_EXPLAINED, draw)


def _network(prepared: Prepared, predictions: Predictions) -> str:
    """What titles of maps call the network."""
    return f"{prepared.name} (near chance: its maps explain nothing)" if predictions.near_chance else prepared.name


def _sheet_of(
    prepared: Prepared,
    model: nn.Module,
    predictions: Predictions,
    indices: Int64[np.ndarray, "m"],
    explained: Int64[np.ndarray, "m"],
) -> Callable[..., style.Pixels]:
    """Draws the maps of some test images at every layer, each for its class in `explained`; they are computed now."""
    split, classes = prepared.dataset.splits[SPLIT], prepared.dataset.classes
    images, labels, layers = split.images[indices], split.labels[indices], prepared.explaining.layers
    method, chunk = prepared.explaining.method, measuring.at_a_time(images)
    found = cams(model, to_tensor(images), layers, torch.from_numpy(explained), method=method, chunk=chunk)
    drawn, said = relative_to_mean(found.maps).cpu().numpy(), sheets.verdicts(predictions, indices, classes)
    return partial(sheets.layer_sheet, images, drawn, found.layers, labels=labels, said=said, classes=classes)

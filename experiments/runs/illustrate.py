"""The pictures of a run."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import nn

from cam_core import Cams, cams, relative_to_mean

from ..data.tensors import to_tensor
from ..explaining.probes import SPLIT, Probes, in_turn
from ..pictures import sheets, style
from ..pictures.style import drawn_or_explained, method_name
from ..tracking.records import KeyedPicture, Record
from ..training.predictions import Predictions
from . import contents
from .prepare import Prepared


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
    found = cams(model, to_tensor(images), layers, torch.from_numpy(explained), method=prepared.explaining.method)
    drawn, said = relative_to_mean(found.maps).cpu().numpy(), sheets.verdicts(predictions, indices, classes)
    return partial(sheets.layer_sheet, images, drawn, found.layers, labels=labels, said=said, classes=classes)

"""The pictures of a run."""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from jaxtyping import Int64
from torch import nn

from cam_core import Cams, cams, relative_to_mean
from cam_core.sheets import map_tiles

from ..data.tensors import to_tensor
from ..explaining.probes import SPLIT, Probes, in_turn
from ..pictures import sheets, style
from ..pictures.style import method_name
from ..tracking.records import KeyedPicture, Picture, Record
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
    for key, picture in zip(chosen.keys, sheets.keyed(chosen.images, drawn[-1], said, chosen.masks), strict=True):
        yield KeyedPicture(key, picture, epoch)
    title = f"{prepared.name}: {method_name(method)} of the images that every run explains"
    yield Picture(
        contents.LAYERS,
        sheets.layer_sheet(chosen.images, drawn, own.layers, chosen.labels, said, classes, title),
    )
    last = np.stack([relative_to_mean(maps[name].maps[-1]).cpu().numpy() for name in methods])
    title = f"{prepared.name}: CAM methods at {own.layers[-1]}"
    yield Picture(
        contents.METHODS,
        sheets.layer_sheet(
            chosen.images, last, [method_name(name) for name in methods], chosen.labels, said, classes, title
        ),
    )


def iter_galleries(prepared: Prepared, model: nn.Module, predictions: Predictions) -> Iterator[Record]:
    """Misclassified and correct test images, and their maps at every layer; of the correct ones maps of only half."""
    split, classes, size = prepared.dataset.splits[SPLIT], prepared.dataset.classes, prepared.settings.gallery_size
    explained = {"misclassified": size, "correct": (size + 1) // 2}
    for name, chosen in (("misclassified", ~predictions.right), ("correct", predictions.right)):
        indices = in_turn(split.labels, chosen, size)
        if not len(indices):
            continue
        title = f"{prepared.name}: {len(indices)} of {int(chosen.sum()):,} {name} test images"
        yield Picture(contents.gallery(name), sheets.gallery(split.images, indices, predictions, classes, title))
        indices = indices[: explained[name]]
        title = f"{prepared.name}: {len(indices)} of {int(chosen.sum()):,} {name} test images"
        labels = split.labels[indices]
        found = _maps(prepared, model, indices, labels)
        yield Picture(contents.explained(name), _sheet(prepared, predictions, indices, found, title))
        heats = _sheet(prepared, predictions, indices, found, f"{title}, the maps alone", tiles=sheets.heat_tiles)
        yield Picture(contents.explained(name, alone=True), heats)
        if name == "misclassified":
            found = _maps(prepared, model, indices, predictions.classes[indices])
            footer = sheets.PREDICTED_EXPLAINED
            sheet = _sheet(prepared, predictions, indices, found, title, footer)
            yield Picture(contents.PREDICTED_EXPLAINED, sheet)


def _maps(
    prepared: Prepared, model: nn.Module, indices: Int64[np.ndarray, "m"], explained: Int64[np.ndarray, "m"]
) -> Cams:
    """The maps of some test images at every layer, each for its class in `explained`."""
    images = to_tensor(prepared.dataset.splits[SPLIT].images[indices])
    layers, method = prepared.explaining.layers, prepared.explaining.method
    return cams(model, images, layers, torch.from_numpy(explained), method=method)


def _sheet(
    prepared: Prepared,
    predictions: Predictions,
    indices: Int64[np.ndarray, "m"],
    found: Cams,
    title: str,
    footer: str = sheets.EXPLAINED,
    tiles: sheets.Tiles = map_tiles,
) -> style.Pixels:
    """The maps, drawn by `tiles`, next to their images."""
    split, classes = prepared.dataset.splits[SPLIT], prepared.dataset.classes
    said, drawn = sheets.verdicts(predictions, indices, classes), relative_to_mean(found.maps).cpu().numpy()
    images, labels = split.images[indices], split.labels[indices]
    return sheets.layer_sheet(images, drawn, found.layers, labels, said, classes, title, footer, tiles)

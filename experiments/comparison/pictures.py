"""The pictures of a comparison."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
import torch

from cam_core import relative_to_mean

from ..explaining.probes import SPLIT
from ..pictures import changes, charts, sheets, style
from ..tracking.reading import FinishedRun
from ..tracking.records import KeyedPicture
from ..training.predictions import Predictions
from .findings import Findings, Pair


def iter_pictures(findings: Findings) -> Iterator[tuple[str, style.Pixels]]:
    """Path and picture: maps side by side at every layer that all variants have, what changed, means, and charts."""
    yield from iter_sheets(findings)
    for pair in findings.pairs:
        yield f"changed/{pair.variant}.png", _changed(findings, pair)
    yield from iter_means(findings)
    yield from iter_charts(findings)


def iter_sheets(findings: Findings) -> Iterator[tuple[str, style.Pixels]]:
    """The maps of each variant's first seed beside each other, at the last layer and at each that all variants have."""
    runs = findings.first_seed
    arrays = {name: run.read_arrays("maps.npz") for name, run in runs.items()}
    said = {name: verdicts_of(findings, run) for name, run in runs.items()}
    layers = [[str(layer) for layer in maps["layers"]] for maps in arrays.values()]
    deepest = " / ".join(dict.fromkeys(findings.last_layers))
    last = {name: maps["maps"][-1] for name, maps in arrays.items()}
    yield "side_by_side.png", _sheet(findings, last, said, f"{deepest}, the last layer")
    for layer in layers[0]:
        if all(layer in others for others in layers):
            at_layer = {name: maps["maps"][list(maps["layers"]).index(layer)] for name, maps in arrays.items()}
            yield f"side_by_side/{layer}.png", _sheet(findings, at_layer, said, layer)


def _sheet(
    findings: Findings, maps: Mapping[str, np.ndarray], said: Mapping[str, list[sheets.Verdict]], where: str
) -> style.Pixels:
    chosen = findings.probes
    drawn = {name: _relative(values) for name, values in maps.items()}
    title = f"Maps at {where}, {findings.seeds_shown}"
    return sheets.side_by_side(chosen.images, drawn, said, chosen.masks, findings.probe_labels, title)


def _relative(maps: np.ndarray) -> np.ndarray:
    return relative_to_mean(torch.from_numpy(maps.astype(np.float32))).numpy()


def verdicts_of(findings: Findings, run: FinishedRun) -> list[sheets.Verdict]:
    """What the finished run said of each probe image."""
    return sheets.verdicts(findings.predictions(run), findings.probes.indices, findings.dataset.classes)


def _changed(findings: Findings, pair: Pair) -> style.Pixels:
    """The page of what changed between the pair's first seeds."""
    networks, split = {}, findings.dataset.splits[SPLIT]
    for name in (pair.against, pair.variant):
        run = findings.first_seed[name]
        arrays, said = run.read_arrays("maps.npz"), findings.predictions(run)
        indices = arrays["sample_indices"]
        predictions = Predictions(said.logits[indices], said.labels[indices])
        networks[name] = changes.NetworkOutputs(predictions, arrays["sample_maps"].astype(np.float32))
    masks = None if split.masks is None else split.masks[indices]
    title = f"{pair.variant} against {pair.against}, {findings.seeds_shown}: what changed"
    return changes.changed(split.images[indices], networks, masks, findings.dataset.classes, title)


def iter_means(findings: Findings) -> Iterator[tuple[str, style.Pixels]]:
    """What the maps of all seeds have in common: on the images that every run explains, and class by class."""
    chosen, split = findings.probes, findings.dataset.splits[SPLIT]
    arrays = {name: [member.run.read_arrays("maps.npz") for member in findings.of(name)] for name in findings.variants}
    seeds = max(len(some) for some in arrays.values())
    if seeds > 1:
        maps = {name: np.stack([_relative(own["maps"][-1]) for own in some]) for name, some in arrays.items()}
        title = "Maps at the last layer, mean and spread over seeds"
        yield "over_seeds.png", changes.over_seeds(chosen.images, maps, chosen.masks, findings.probe_labels, title)
    indices = next(iter(arrays.values()))[0]["sample_indices"]
    maps_of = {name: [own["sample_maps"].astype(np.float32) for own in some] for name, some in arrays.items()}
    title = f"Mean map of {len(indices):,} test images at the last layer"
    images, labels = split.images[indices], split.labels[indices]
    yield "mean_maps.png", changes.mean_maps(images, labels, maps_of, findings.dataset.classes, title)


def iter_charts(findings: Findings) -> Iterator[tuple[str, style.Pixels]]:
    """Differences with their intervals, every run, curves, reliability, classes, and how alike maps are."""
    quantities = {measure.metric: measure.quantity for measure in findings.measures}
    if len(findings.differences):
        yield "charts/forest.png", charts.forest(findings.differences, quantities)
    yield "charts/seeds.png", charts.seeds(findings.runs, quantities)
    yield "charts/curves.png", charts.curves(histories(findings))
    yield "charts/reliability.png", charts.reliability(findings.calibrations)
    yield "charts/classes.png", charts.per_class(findings.classes)
    if len(findings.agreement):
        yield "charts/agreement.png", charts.agreement(findings.agreement)


def histories(findings: Findings) -> dict[str, list[pd.DataFrame]]:
    """Loss and accuracy per epoch of every run, by variant."""
    keys = [f"{split}/{measure}" for split in ("train", followed(findings)) for measure in ("loss", "accuracy")]
    return {
        name: [
            pd.DataFrame({key: dict(member.run.metric_history(key)) for key in keys}) for member in findings.of(name)
        ]
        for name in findings.variants
    }


def followed(findings: Findings) -> str:
    """The split whose curves are drawn: test where no run kept validation images apart."""
    return "val" if any("val/accuracy" in member.run.metrics for member in findings.members) else "test"


def iter_keyed(findings: Findings, run: FinishedRun, step: int) -> Iterator[KeyedPicture]:
    """The run's pictures for MLflow's image grid, as they were at its end, at another step."""
    chosen = findings.probes
    drawn = _relative(run.read_arrays("maps.npz")["maps"][-1])
    pictures = sheets.keyed(chosen.images, drawn, verdicts_of(findings, run), chosen.masks)
    for key, picture in zip(chosen.keys, pictures, strict=True):
        yield KeyedPicture(key, picture, step)

"""The pictures of a comparison."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
import pandas as pd
import torch

from cam_core import relative_to_mean

from ..explaining.probes import SPLIT
from ..pictures import changes, charts, sheets, style
from ..pictures.failsafe import drawn_or_explained
from ..runs import contents, illustrate
from ..tracking.reading import FinishedRun
from ..tracking.records import KeyedPicture
from ..training.predictions import Predictions
from .findings import Findings
from .members import Pair

Drawing = tuple[str, Callable[[], style.Pixels]]
"""The path of a picture, and what draws it."""


def iter_pictures(findings: Findings) -> Iterator[tuple[str, style.Pixels]]:
    """Path and pixels: maps side by side at each layer that all variants have, what changed, mean maps, charts."""
    for path, draw in iter_drawings(findings):
        yield path, drawn_or_explained(path, draw)


def iter_drawings(findings: Findings) -> Iterator[Drawing]:
    """The path of each picture, and what draws it."""
    yield from iter_sheets(findings)
    for pair in findings.pairs:
        yield f"changed/{pair.variant}.png", partial(_changed, findings, pair)
    yield from iter_means(findings)
    yield from iter_charts(findings)


def iter_sheets(findings: Findings) -> Iterator[Drawing]:
    """The maps of the first seeds side by side, at the last layer and at each layer that all variants have."""
    runs = findings.first_seed
    found = {name: contents.maps(run) for name, run in runs.items()}
    said = {name: verdicts_of(findings, run) for name, run in runs.items()}
    deepest = " / ".join(dict.fromkeys(findings.last_layers))
    last = {name: own.maps[-1] for name, own in found.items()}
    yield "side_by_side.png", partial(_sheet, findings, last, said, f"{deepest}, the last layer")
    for layer in next(iter(found.values())).layers:
        if all(layer in own.layers for own in found.values()):
            at_layer = {name: own.maps[own.layers.index(layer)] for name, own in found.items()}
            yield f"side_by_side/{layer}.png", partial(_sheet, findings, at_layer, said, layer)


def _sheet(
    findings: Findings, maps: Mapping[str, np.ndarray], said: Mapping[str, list[sheets.Verdict]], where: str
) -> style.Pixels:
    chosen = findings.probes
    drawn = {name: _relative(values) for name, values in maps.items()}
    title = f"Maps at {where}, {_seeds_shown(findings)}"
    return sheets.side_by_side(chosen.images, drawn, said, chosen.masks, findings.probe_labels, title)


def _seeds_shown(findings: Findings) -> str:
    """The seeds of `first_seed`, in words."""
    seeds = dict.fromkeys(findings.of(name)[0].seed for name in findings.variants)
    return f"seed{'s' if len(seeds) > 1 else ''} {' / '.join(map(str, seeds))}"


def _relative(maps: np.ndarray) -> np.ndarray:
    return relative_to_mean(torch.from_numpy(maps)).numpy()


def last_maps(run: FinishedRun) -> np.ndarray:
    """The run's maps of the probe images at its last layer, `(n, h, w)`, relative to their mean."""
    return _relative(contents.maps(run).maps[-1])


def verdicts_of(findings: Findings, run: FinishedRun) -> list[sheets.Verdict]:
    """The run's predictions for the probe images."""
    classes = findings.dataset.classes
    return sheets.verdicts(contents.predictions(run, classes), findings.probes.indices, classes)


def _changed(findings: Findings, pair: Pair) -> style.Pixels:
    """The images that changed between the first seeds of the pair."""
    networks, split = {}, findings.dataset.splits[SPLIT]
    for name in (pair.against, pair.variant):
        run = findings.first_seed[name]
        maps, said = contents.maps(run), contents.predictions(run, findings.dataset.classes)
        indices = maps.sample_indices
        predictions = Predictions(said.logits[indices], said.labels[indices])
        networks[name] = changes.NetworkOutputs(predictions, maps.sample_maps)
    masks = None if split.masks is None else split.masks[indices]
    title = f"{pair.variant} against {pair.against}, {_seeds_shown(findings)}: what changed"
    return changes.changed(split.images[indices], networks, masks, findings.dataset.classes, title)


def iter_means(findings: Findings) -> Iterator[Drawing]:
    """Mean maps: over seeds on the images that every run explains, and over the images of each class."""
    chosen, split = findings.probes, findings.dataset.splits[SPLIT]
    found = {name: [contents.maps(member.run) for member in findings.of(name)] for name in findings.variants}
    if any(len(some) > 1 for some in found.values()):
        maps = {name: np.stack([_relative(own.maps[-1]) for own in some]) for name, some in found.items()}
        title = "Maps at the last layer, mean and spread over seeds"
        shown = chosen.images, maps, chosen.masks, findings.probe_labels, title
        yield "over_seeds.png", partial(changes.over_seeds, *shown)
    indices = next(iter(found.values()))[0].sample_indices
    maps_of = {name: [own.sample_maps for own in some] for name, some in found.items()}
    title = f"Mean map of {len(indices):,} test images at the last layer"
    images, labels = split.images[indices], split.labels[indices]
    yield "mean_maps.png", partial(changes.mean_maps, images, labels, maps_of, findings.dataset.classes, title)


def iter_charts(findings: Findings) -> Iterator[Drawing]:
    """Charts: differences with their intervals, all runs, curves, reliability, classes, agreement of maps."""
    quantities = {measure.metric: measure.quantity for measure in findings.measures}
    if len(findings.differences):
        yield "charts/forest.png", partial(charts.forest, findings.differences, quantities)
    yield "charts/seeds.png", partial(charts.seeds, findings.runs, quantities)
    yield "charts/curves.png", partial(charts.curves, histories(findings))
    yield "charts/reliability.png", partial(charts.reliability, findings.calibrations)
    yield "charts/classes.png", partial(charts.per_class, findings.classes)
    if len(findings.agreement):
        yield "charts/agreement.png", partial(charts.agreement, findings.agreement)


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
    """The split whose curves are drawn: `val`, or `test` if no run has validation images."""
    return "val" if any("val/accuracy" in member.run.metrics for member in findings.members) else "test"


def iter_keyed(findings: Findings, run: FinishedRun, step: int) -> Iterator[KeyedPicture]:
    """The final pictures of the run for MLflow's image grid, at another step."""
    yield from illustrate.iter_keyed(findings.probes, last_maps(run), verdicts_of(findings, run), step)

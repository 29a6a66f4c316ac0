"""The pictures of a comparison, and the saved view in MLflow that shows those of its runs side by side."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain

import numpy as np
import pandas as pd
import torch

from cam_core import relative_to_mean

from ..explaining.probes import SPLIT
from ..pictures import changes, charts, sheets, style
from ..pictures.style import drawn_or_explained
from ..runs import contents
from ..runs.evaluate import iter_keyed
from ..tracking import views
from ..tracking.reading import FinishedRun
from ..tracking.records import KeyedPicture
from ..tracking.ui import save_view
from ..tracking.writing import Run, append_records
from ..training.predictions import Predictions
from .findings import Findings, Member, Pair
from .measures import IN_VIEW

FEWEST_LINES = 4  # runs from which parallel coordinates show more than the table does
AXES = 6  # settings, and measures, in the view's parallel coordinates: more cannot be told apart

Drawing = tuple[str, Callable[[], style.Pixels]]
"""The path of a picture, and what draws it."""


def iter_pictures(findings: Findings) -> Iterator[tuple[str, style.Pixels]]:
    """Path and pixels: maps side by side at each layer that all variants have, what changed, mean maps, charts."""
    changed: list[Drawing] = [(f"changed/{p.variant}.png", partial(_changed, findings, p)) for p in findings.pairs]
    for path, draw in chain(iter_sheets(findings), changed, iter_means(findings), iter_charts(findings)):
        yield path, drawn_or_explained(path, draw)


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


def write_view(findings: Findings, run: Run, name: str) -> str:
    """Saves a view of the runs in MLflow, of too many one per variant, and returns the last part of its link.

    Its first column are the images without maps, which the comparison's own `run` logs.
    """
    shown_runs = shown_in_grid(findings, views.MAX_RUNS_IN_GRID - 1)
    runs = [member.run for member in shown_runs]
    step = max(map(_last_epoch, runs))
    for one in runs:
        # MLflow's grid shows one step, so a shorter training needs its pictures at that step too.
        if step not in one.picture_steps():
            said = verdicts_of(findings, one)
            append_records(one.id, iter_keyed(findings.probes, last_maps(one), said, step))
    run.log(iter_originals(findings, step))
    split = followed(findings)
    curves = [f"{split}/accuracy", f"{split}/loss", "train/loss"]
    bars = list(dict.fromkeys(one.key(each) for one in IN_VIEW if one in findings.measures for each in runs))
    own = {key for one in findings.measures for variant in findings.variants for key in one.logged_as(variant)}
    colours = dict(zip(findings.variants, style.COLOURS, strict=False))
    view = views.comparison_view(
        name if len(shown_runs) == len(findings.members) else f"{name} (the run of median accuracy of each)",
        [one.id for one in runs],
        list(findings.probes.keys),
        step,
        curves=curves,
        bars=bars,
        columns=[
            "metrics.`test/accuracy`",
            *(["metrics.`val/accuracy`"] if split == "val" else []),
            "params.`resolved.cutout`",
            "params.`resolved.seed`",
        ],
        hidden_metrics=sorted({key for one in runs for key in one.metrics} - {*curves, *bars} | own),
        colours=[colours[member.variant] for member in shown_runs],  # as in the charts
        parallel=(_varied(runs), bars[:AXES]) if len(runs) >= FEWEST_LINES else ((), ()),
        before=run.id,
    )
    return save_view(run.experiment_id, view)


def iter_originals(findings: Findings, step: int) -> Iterator[KeyedPicture]:
    """The images without maps, as cells of MLflow's grid."""
    for key, image, name in zip(findings.probes.keys, findings.probes.images, findings.probe_labels, strict=True):
        yield KeyedPicture(key, drawn_or_explained(key, partial(sheets.original, image, name)), step)


def _varied(runs: Sequence[FinishedRun]) -> list[str]:
    """The settings in which the runs differ."""
    names = [name for name in runs[0].params if name.startswith("resolved.")]
    return [name for name in names if len({run.params.get(name) for run in runs}) > 1][:AXES]


def _last_epoch(run: FinishedRun) -> int:
    return run.metric_history("test/accuracy")[-1][0]


def shown_in_grid(findings: Findings, most: int) -> list[Member]:
    """All runs, seed by seed, if there are at most `most`; otherwise the run of median accuracy of each variant.

    Of an even number of runs it is the lower of the two in the middle.
    """
    groups = [findings.of(name) for name in findings.variants]
    if len(findings.members) <= most:
        return [member for paired in zip(*groups, strict=True) for member in paired]
    ranked = (sorted(group, key=lambda member: member.run.metrics["test/accuracy"]) for group in groups)
    return [group[(len(group) - 1) // 2] for group in ranked]

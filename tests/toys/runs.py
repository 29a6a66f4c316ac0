"""Finished runs made up without training: what their networks said and where they looked is drawn at random."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from cam_core import quality
from cam_core.maps import normalise, relative_to_mean, resize
from experiments.comparison.findings import Findings, Member
from experiments.data.dataset import Dataset
from experiments.explaining import measuring
from experiments.explaining.probes import probes, spread
from experiments.runs.contents import (
    RunConfig,
    RunMaps,
    UsedData,
    config_records,
    faithfulness_record,
    map_measures_record,
    maps_record,
    predictions_record,
)
from experiments.settings.train import TrainSettings
from experiments.tracking.reading import FinishedRun
from experiments.tracking.records import Arrays, Table, Text
from experiments.training.machine import Machine
from experiments.training.predictions import Predictions
from tests.toys.networks import toy_dataset

LAYERS = {"stem": 8, "layer3": 4}
"""The layers that a made-up run explains, shallow to deep, and the side of each one's grid."""


@dataclass(frozen=True)
class ToyRun(FinishedRun):
    """A finished run whose files are in memory, as the records that would write them."""

    files: Mapping[str, Text | Table | Arrays]

    def read_text(self, path: str) -> str:
        record = self.files[path]
        assert isinstance(record, Text)
        return record.text

    def read_table(self, path: str) -> pd.DataFrame:
        record = self.files[path]
        assert isinstance(record, Table)
        return record.frame.copy()

    def read_arrays(self, path: str) -> dict[str, np.ndarray]:
        record = self.files[path]
        assert isinstance(record, Arrays)
        return dict(record.arrays)

    def with_files(self, *changed: Text | Table | Arrays) -> "ToyRun":
        """The same run with some files in the place of its own."""
        return replace(self, files=by_path(*self.files.values(), *changed))


def by_path(*records: Text | Table | Arrays) -> dict[str, Text | Table | Arrays]:
    """The files by their names, the last of each name."""
    return {record.path: record for record in records}


def toy_config(dataset: Dataset, layers: Sequence[str], /, **options: object) -> RunConfig:
    """What a training with these options would record of itself."""
    settings = TrainSettings.of(**options)
    sizes = {name: len(split) for name, split in dataset.splits.items()}
    used = UsedData(dataset.name, dataset.digest, dataset.source, tuple(dataset.classes), settings.side, sizes)
    machine = Machine("cpu", "fp32", True, 1)
    return RunConfig("toy", "0" * 20, settings.given, settings, machine, 1, tuple(layers), used, {}, ("gradcam",))


def toy_findings(
    variants: Sequence[str] = ("baseline", "cutout"),
    seeds: int = 3,
    dataset: Dataset | None = None,
    layers: Mapping[str, int] = LAYERS,
    sample: int = 20,
) -> Findings:
    """A comparison of made-up runs: each further variant is somewhat better and looks somewhat more at the object."""
    dataset = dataset or toy_dataset()
    members = [
        Member(name, seed, toy_run(name, place, seed, dataset, layers, sample), reused=seed > 0)
        for place, name in enumerate(variants)
        for seed in range(seeds)
    ]
    return Findings(tuple(members), dataset)


def toy_run(name: str, place: int, seed: int, dataset: Dataset, layers: Mapping[str, int], sample: int) -> ToyRun:
    """One made-up run of the variant at that place among the variants."""
    random = np.random.default_rng([seed, place])
    split, chosen = dataset.splits["test"], probes(dataset).indices
    predictions = _predictions(split.labels, len(dataset.classes), 1 + 0.4 * place, random)
    measured = spread(len(split), sample)
    maps = {layer: _maps(dataset, side, place, random) for layer, side in layers.items()}
    table = pd.concat(
        _measures(maps[layer][measured], dataset, measured, side).assign(
            index=measured, layer=layer, right=predictions.right[measured]
        )
        for layer, side in layers.items()
    )
    last = list(layers)[-1]
    explained = np.stack([values[chosen].numpy() for values in maps.values()])
    strength = explained.max((2, 3))
    sampled = _sampled(maps[last][measured], layers[last])
    means = table[table["layer"] == last].drop(columns=["index", "layer"]).mean()
    metrics = {f"cam/{last}/{measure}": float(value) for measure, value in means.items() if np.isfinite(value)}
    metrics |= {"test/accuracy": predictions.accuracy, "val/accuracy": predictions.accuracy - 0.01}
    if split.groups is not None:
        metrics["test/worst_group_accuracy"] = float(np.nanmin(predictions.accuracy_by(split.groups)))
    faithfulness = _faithfulness(measured, random)
    metrics |= measuring.faithfulness_summary(faithfulness, last)
    config = toy_config(dataset, list(layers), epochs=20, cutout=place > 0, seed=seed, image_size=16)
    files = by_path(
        *config_records(config),
        predictions_record(predictions, dataset.classes),
        map_measures_record(table),
        faithfulness_record(faithfulness),
        maps_record(RunMaps(tuple(layers), explained, strength, chosen, split.labels[chosen], measured, sampled)),
    )
    return ToyRun(f"{place:016x}{seed:016x}", f"{name}, seed {seed}", "7", {}, {}, metrics, files)


def _predictions(labels: np.ndarray, classes: int, skill: float, random: np.random.Generator) -> Predictions:
    logits = random.normal(size=(len(labels), classes)).astype(np.float32)
    logits[np.arange(len(labels)), labels] += np.float32(1 + skill)
    return Predictions(logits, labels)


def _maps(dataset: Dataset, side: int, place: int, random: np.random.Generator) -> torch.Tensor:
    """Noise at the grid of a layer, more of it on the object the later the variant; the second image's map is dead."""
    split = dataset.splits["test"]
    size = split.images.shape[1:3]
    grid = random.random((len(split), side, side))
    if split.masks is not None:
        seen = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(split.masks).float(), side)
        grid += (1 + 0.5 * place) * seen.numpy()
    maps = normalise(resize(torch.from_numpy(grid).float(), size))
    maps[1] = 0
    return maps


def _measures(maps: torch.Tensor, dataset: Dataset, measured: np.ndarray, side: int) -> pd.DataFrame:
    values = {
        "spread": quality.spread(maps),
        "coverage": quality.coverage(maps),
        "entropy": quality.entropy(maps),
        "border": quality.border_share(maps),
        "dead": quality.dead_rate(maps),
    }
    all_masks = dataset.splits["test"].masks
    if all_masks is not None:
        masks = torch.from_numpy(all_masks[measured])
        values |= {
            "energy": quality.energy_inside(maps, masks),
            "lift": quality.lift(maps, masks),
            "focus": quality.focus_index(maps, masks, (side, side)),
            "pointing": quality.pointing_game(maps, masks),
            "auc": quality.pixel_auc(maps, masks),
            "iou": quality.object_iou(maps, masks),
            "recall": quality.object_recall(maps, masks),
            "precision": quality.object_precision(maps, masks),
        }
    return pd.DataFrame({name: value.numpy() for name, value in values.items()})


def _faithfulness(measured: np.ndarray, random: np.random.Generator) -> pd.DataFrame:
    """Made up for every other measured image."""
    some = measured[::2]
    margin, consistency = 0.1 + 0.01 * random.random(len(some)), random.random(len(some))
    return pd.DataFrame({"deletion_margin": margin, "flip_consistency": consistency, "index": some})


def _sampled(maps: torch.Tensor, side: int) -> np.ndarray:
    pooled = torch.nn.functional.adaptive_avg_pool2d(maps, side)
    return relative_to_mean(pooled).numpy().astype(np.float16)

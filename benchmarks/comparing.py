"""The time to compare finished runs, and whether it grows with the number of runs. Prints markdown.

python -m benchmarks.comparing

The runs are artificial. They have the size of real runs (2,000 test images, ten classes, five layers) and are logged
like real runs. The measured time includes reading, computing, drawing, logging and reporting, but not the choice of
the runs.
"""

import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from experiments.comparison.compare import conclude
from experiments.comparison.findings import Findings, Member
from experiments.data import load as loading
from experiments.data.dataset import Dataset
from experiments.explaining import measuring
from experiments.explaining.map_measures import MAP_MEASURES
from experiments.explaining.probes import SPLIT, probes
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
from experiments.tracking.lifetime import open_run
from experiments.tracking.reading import finished_run
from experiments.tracking.records import Metrics
from experiments.tracking.store import prepare_store
from experiments.training.machine import Machine
from experiments.training.predictions import Predictions

LAYERS = ("stem", "layer1", "layer2", "layer3", "layer4")
GRIDS = (32, 32, 16, 8, 4)
RUNS = (2, 8, 10, 32)  # runs in total, of two variants
EPOCHS = 6


def main() -> None:
    """Makes the runs, compares increasing numbers of them, and prints the table."""
    with tempfile.TemporaryDirectory() as folder:
        images = load(Path("data").resolve())
        os.chdir(folder)
        prepare_store(Path(folder))
        members = [made_up(name, seed, images) for seed in range(max(RUNS) // 2) for name in ("baseline", "cutout")]
        print(f"{len(images.splits[SPLIT]):,} test images, {len(LAYERS)} layers, {torch.get_num_threads()} threads\n")
        print("| runs | seconds | per run | peak memory, MiB |\n|---|---|---|---|")
        for count in RUNS:
            print(row(members[:count], images), flush=True)
        os.chdir("/")


def load(data_dir: Path) -> Dataset:
    """The scenes."""
    return loading.load(
        "scenes",
        data_dir=str(data_dir),
        image_size=32,
        background_bias=0.5,
        train_images=2000,
        progress=lambda text: None,
    )


def row(members: list[Member], images: Dataset) -> str:
    """The seconds of one comparison, from reading the runs to logging the results."""
    started = time.perf_counter()
    findings = Findings(tuple(sorted(members, key=lambda member: member.variant)), images)
    with open_run(kind="compare", name=f"{len(members)} runs") as run:
        conclude(run, findings, f"{len(members)} runs", {})
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return f"| {len(members)} | {seconds:.1f} | {seconds / len(members):.2f} | {peak:,.0f} |"


def made_up(variant: str, seed: int, images: Dataset) -> Member:
    """A finished run with random predictions and maps."""
    random = np.random.default_rng([seed, variant == "cutout"])
    split, chosen = images.splits[SPLIT], probes(images)
    logits = random.normal(size=(len(split), len(images.classes))).astype(np.float32)
    logits[np.arange(len(split)), split.labels] += 2
    predictions = Predictions(logits, split.labels)
    with open_run(kind="train", name=f"{variant}, seed {seed}") as run:
        run.log(config_records(made_up_config(variant, seed, images)))
        for epoch in range(1, EPOCHS + 1):
            run.log(
                [
                    Metrics(
                        {f"{part}/{of}": random.random() for part in ("train", "val") for of in ("loss", "accuracy")},
                        epoch,
                    )
                ]
            )
        run.log([predictions_record(predictions, images.classes)])
        looks = looked(random, predictions)
        numbers = {"test/accuracy": predictions.accuracy, "faith/deletion_margin": random.random()}
        run.log([Metrics(numbers | measuring.summary(looks), EPOCHS), map_measures_record(looks)])
        sample = random.random((len(split), GRIDS[-1], GRIDS[-1])).astype(np.float16)
        maps = random.random((len(LAYERS), *chosen.images.shape[:3])).astype(np.float32)
        places = chosen.indices, chosen.labels, np.arange(len(split))
        run.log([maps_record(RunMaps(LAYERS, maps, maps.max((2, 3)), *places, sample))])
        run.log([faithfulness_record(pd.DataFrame({"deletion_margin": random.random(measuring.EXPENSIVE)}))])
    return Member(variant, seed, finished_run(run.id), reused=True)


def made_up_config(variant: str, seed: int, images: Dataset) -> RunConfig:
    """What a training would record of its settings."""
    settings = TrainSettings.of(seed=seed, epochs=EPOCHS, cutout=variant == "cutout")
    sizes = {name: len(part) for name, part in images.splits.items()}
    used = UsedData(images.name, images.digest, images.source, images.classes, settings.side, sizes)
    machine = Machine("cpu", "fp32", channels_last=True, threads=1)
    return RunConfig(variant, f"{variant}{seed}", settings.given, settings, machine, 1, LAYERS, used, {})


def looked(random: np.random.Generator, predictions: Predictions) -> pd.DataFrame:
    """Measures of every test image at every layer."""
    count = len(predictions.labels)
    tables = [
        pd.DataFrame(random.random((count, len(MAP_MEASURES))), columns=list(MAP_MEASURES)).assign(
            index=np.arange(count), layer=layer, right=predictions.right
        )
        for layer in LAYERS
    ]
    return pd.concat(tables, ignore_index=True)


if __name__ == "__main__":
    main()

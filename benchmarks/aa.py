"""Does the comparison raise false alarms, and does it find real effects? Prints markdown.

python -m benchmarks.aa             about fifteen minutes on two cores
python -m benchmarks.aa --quick     two minutes, with too few networks for a conclusion

A/A: networks that differ only in the seed are divided into two "variants" many times; about 5 % of the comparisons may
find a difference, for each measure. Planted effect: networks trained with `background_bias` 0.8 against 0.0, three
seeds each, many times; the accuracy on other backgrounds and the energy inside the object must differ. The networks are
tiny, so that there can be hundreds of them; how good they are does not matter.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Float64
from rich.progress import track
from scipy import stats
from torch import Tensor, nn

from experiments.augmentation.whole_batches import Augmentation
from experiments.comparison.images import paired_means
from experiments.data.dataset import Dataset, Split
from experiments.data.load import load
from experiments.evidence.differences import CONFIDENCE, paired_difference
from experiments.explaining import measuring
from experiments.explaining.map_measures import MAP_MEASURES
from experiments.models.layers import conv_bn_relu
from experiments.settings.train import TrainSettings
from experiments.training.loop import fit
from experiments.training.machine import resolve_machine
from experiments.training.predictions import predict

LAYER = "features"
TRAIN = 4000
IMAGES = 500  # images of each measured split
MEASURES = ("accuracy", *MAP_MEASURES)
BOTH = "focus, on images both get right"
PLANTED = ("accuracy, other background", "energy")
SIZES = (3, 5)  # seeds a side
DIVISIONS = 2000


class TinyNet(nn.Module):
    """Three convolutions and a linear layer, about two hundred times less work than a ResNet-18."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(conv_bn_relu(3, 16, 2), conv_bn_relu(16, 48, 2), conv_bn_relu(48, 96))
        self.linear = nn.Linear(96, classes)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n classes"]:
        return self.linear(self.features(4 * images - 2).mean((2, 3)))


def main() -> None:
    """Trains the networks, compares them in all ways, and prints both tables."""
    options = parser().parse_args()
    if options.quick:
        options.networks, options.planted = 30, 2
    started = time.perf_counter()
    settings = training_settings(options.epochs)
    pool = networks(settings, dataset(0.5, options.data_dir), options.networks, "A/A")
    print(f"\n{options.networks} networks, {options.epochs} epochs of {settings.train_images} images each\n")
    for line in false_alarms(pool):
        print(line)
    sides = [
        networks(settings, dataset(bias, options.data_dir), 3 * options.planted, f"bias {bias}") for bias in (0.0, 0.8)
    ]
    print()
    for line in detections(*sides):
        print(line)
    print(f"\n{time.perf_counter() - started:,.0f} s, {torch.get_num_threads()} threads, torch {torch.__version__}")


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    found.add_argument("--networks", type=int, default=300, help="networks in the A/A pool (default %(default)s)")
    found.add_argument(
        "--planted", type=int, default=10, help="comparisons with a planted effect (default %(default)s)"
    )
    found.add_argument("--epochs", type=int, default=3, help="epochs of each network (default %(default)s)")
    found.add_argument("--data-dir", default="data", help="folder for the scenes (default %(default)s)")
    found.add_argument("--quick", action="store_true", help="30 networks and two comparisons with a planted effect")
    return found


def training_settings(epochs: int) -> TrainSettings:
    """The settings of a plain training, as in the suite."""
    sgd = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "batch_size": 64}
    schedule = {"schedule": "onecycle", "lr_warmup": 0.25, "label_smoothing": 0.1, "sides": "none"}
    images = {"dataset": "scenes", "train_images": TRAIN, "hflip_mode": "random", "border": "black"}
    return TrainSettings.of(epochs=epochs, device="cpu", precision="fp32", **sgd, **schedule, **images)


def dataset(background_bias: float, data_dir: str) -> Dataset:
    """The scenes, with few images for validation and test."""
    found = load(
        "scenes",
        data_dir=data_dir,
        image_size=32,
        background_bias=background_bias,
        train_images=TRAIN,
        progress=lambda text: None,
    )
    keep = {"train": TRAIN, "val": 100, "test": IMAGES, "other": IMAGES}
    return replace(found, splits={name: first(found.splits[name], count) for name, count in keep.items()})


def first(split: Split, count: int) -> Split:
    """The first images of a split."""
    masks = None if split.masks is None else split.masks[:count]
    return replace(split, images=split.images[:count], labels=split.labels[:count], masks=masks)


@dataclass(frozen=True)
class Pool:
    """Networks of one kind: a row of numbers for each, and the focus index and correctness of each image."""

    numbers: pd.DataFrame
    focus: Float64[np.ndarray, "networks images"]
    right: Bool[np.ndarray, "networks images"]


def networks(settings: TrainSettings, images: Dataset, count: int, what: str) -> Pool:
    """Networks with this number of seeds, trained and measured as in the suite."""
    mean, _ = images.statistics
    rows, focused, rights = [], [], []
    for seed in track(range(count), what):
        seeded = settings.model_copy(update={"seed": seed})
        torch.manual_seed(seed)
        model = TinyNet(len(images.classes))
        for _ in fit(model, images, Augmentation(seeded, seeded.side, mean), seeded, resolve_machine(seeded)):
            pass
        row, table = measured(model, images)
        rows.append(row)
        focused.append(table["focus"].to_numpy(float))
        rights.append(table["right"].to_numpy())
    return Pool(pd.DataFrame(rows), np.stack(focused), np.stack(rights))


def measured(model: nn.Module, images: Dataset) -> tuple[dict[str, float], pd.DataFrame]:
    """Accuracy, also on other backgrounds, and the means of the map measures; and a table of these for each image."""
    test, other = (predict(model, s.images, s.labels, "cpu") for s in (images.splits["test"], images.splits["other"]))
    looks = measuring.measure(model, (LAYER,), images.splits["test"], test, "gradcam", "cpu")
    maps = {name.rpartition("/")[2]: value for name, value in measuring.summary(looks.table).items()}
    return {"accuracy": test.accuracy, "accuracy, other background": other.accuracy} | maps, looks.table


def false_alarms(pool: Pool) -> Iterator[str]:
    """How often two groups without a true difference are declared different, for each measure.

    First every network is in only one group, so the comparisons are independent and have an interval. Then many random
    divisions of the same networks give the same result with less noise.
    """
    yield "| measure | " + " | ".join(f"{n} against {n} seeds | 95 % interval | divided anew" for n in SIZES) + " |"
    yield "|---|" + "---|---|---|" * len(SIZES)
    for measure in (*MEASURES, BOTH):
        cells = []
        for seeds in SIZES:
            alarms = [alarm(pool, measure, *sides) for sides in disjoint(len(pool.right), seeds)]
            again = [alarm(pool, measure, *sides) for sides in divisions(len(pool.right), seeds)]
            cells.append(f"{rate(alarms)} | {np.mean(again):.1%} of {len(again):,}")
        yield f"| {measure} | " + " | ".join(cells) + " |"


def alarm(pool: Pool, measure: str, one: np.ndarray, other: np.ndarray) -> bool:
    """Whether the suite concludes that these two groups of networks differ in the measure."""
    if measure == BOTH:
        sides = paired_means(pool.focus[one], pool.focus[other], pool.right[one] & pool.right[other])
        return sides is not None and declared(*sides)
    values = pool.numbers[measure].to_numpy()
    return declared(values[one], values[other])


def disjoint(count: int, seeds: int) -> list[np.ndarray]:
    """Pairs of groups of `seeds` networks; no network is in two groups."""
    pairs = count // (2 * seeds)
    return list(np.arange(pairs * 2 * seeds).reshape(pairs, 2, seeds))


def divisions(count: int, seeds: int) -> list[np.ndarray]:
    """Pairs of groups of `seeds` networks, drawn many times from all networks."""
    generator = np.random.default_rng(0)
    return [generator.choice(count, (2, seeds), replace=False) for _ in range(DIVISIONS)]


def declared(variant: np.ndarray, baseline: np.ndarray) -> bool:
    """Whether the suite concludes that the variants differ."""
    return paired_difference(variant, baseline).shown


def rate(outcomes: Sequence[bool]) -> str:
    """k of n and the share, with its exact interval, which must contain the allowed 5 %."""
    found = stats.binomtest(sum(outcomes), len(outcomes), 1 - CONFIDENCE)
    low, high = found.proportion_ci(CONFIDENCE)
    outside = "" if low <= 1 - CONFIDENCE <= high else " (outside)"
    return (
        f"{sum(outcomes)} of {len(outcomes)} = {sum(outcomes) / len(outcomes):.1%} | {low:.1%} to {high:.1%}{outside}"
    )


def detections(without: Pool, biased: Pool) -> Iterator[str]:
    """How often three seeds find that the background reveals the class."""
    yield "| measure | bias 0.0 | bias 0.8 | found with 3 seeds |"
    yield "|---|---|---|---|"
    for measure in PLANTED:
        values = [pool.numbers[measure].to_numpy() for pool in (without, biased)]
        found = [declared(b, a) for a, b in zip(*(side.reshape(-1, 3) for side in values), strict=True)]
        means = [f"{side.mean():.3f} ± {side.std(ddof=1):.3f}" for side in values]
        yield f"| {measure} | {means[0]} | {means[1]} | {sum(found)} of {len(found)} |"


if __name__ == "__main__":
    main()

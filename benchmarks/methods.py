"""Which method is worth using, and at which layer? Compares maps on the scenes, and prints markdown.

python -m benchmarks.methods            about half an hour on two cores
python -m benchmarks.methods --quick    a minute, with too few images and seeds for a conclusion

The recipe fast trains two networks on few scenes, five times each. The maps of every method and layer explain the true
class of test scenes, whose masks are known. Every network and seed is one part, a file in `--parts`. A part that is
there is not computed again, so the benchmark goes on where it was ended. It measures no time: anything may run beside.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rich.progress import track
from scipy import stats
from torch import Tensor, nn

import cam_core
from benchmarks.aa import first
from cam_core import Cams
from cam_core.fusion import FUSIONS
from cam_core.perturbation import PERTURBATION_METHODS
from experiments.augmentation.whole_batches import Augmentation
from experiments.data.dataset import Dataset
from experiments.data.load import load
from experiments.data.tensors import to_tensor
from experiments.evidence.differences import CONFIDENCE, Difference, paired_difference
from experiments.models.fastnet import FastNet
from experiments.models.resnet18 import ResNet18
from experiments.settings.train import TrainSettings
from experiments.training.loop import fit
from experiments.training.machine import resolve_machine
from experiments.training.predictions import predict

TRAIN, EPOCHS, SEEDS = 4000, 8, 5
IMAGES = 64  # test scenes
FEW = 16  # of them, for the maps of random networks
STEPS = 5  # of deletion and insertion
WINDOW = 8  # pixels, of occlusion
WIDTH = 16  # channels in the first layers of the ResNet-18, a quarter of the published width
FUSED = ("gradcam", "hirescam", "layercam")
DEFAULT = "gradcam"
CHANCE = "a random map"
NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    "fastnet": FastNet,
    "resnet18": partial(ResNet18, width=WIDTH),
}
MEASURES = {
    "focus": "focus index",
    "auc": "pixel AUC",
    "deletion": "deletion margin",
    "insertion": "insertion margin",
    "random": "like random weights",
    "dead": "dead maps",
}
RANKED = ("focus", "auc", "deletion", "insertion")


@dataclass(frozen=True)
class Size:
    """How much is computed."""

    train: int = TRAIN
    epochs: int = EPOCHS
    seeds: int = SEEDS
    images: int = IMAGES
    few: int = FEW


QUICK = Size(train=400, epochs=1, seeds=2, images=8, few=4)


@dataclass(frozen=True)
class Scenes:
    """Test scenes with their classes and the masks of their objects."""

    images: Tensor
    classes: Tensor
    masks: Tensor


def main() -> None:
    """Computes the parts that are missing, then prints the tables."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--quick", action="store_true", help="too few images and seeds for a conclusion")
    options.add_argument(
        "--parts", type=Path, default=Path("methods-parts"), help="folder of parts (default: ./%(default)s)"
    )
    options.add_argument("--data-dir", default="data", help="where scenes are kept (default: ./%(default)s)")
    given = options.parse_args()
    size = QUICK if given.quick else Size()
    for line in report(parts(size, given.parts, given.data_dir), size):
        print(line, flush=True)


def parts(size: Size, folder: Path, data_dir: str) -> pd.DataFrame:
    """A row for each network, seed, layer and method, with the mean of each measure over the images."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted = [(name, seed) for seed in range(size.seeds) for name in NETWORKS]
    files = {(name, seed): folder / f"{name}-{seed}-{size.train}-{size.images}.csv" for name, seed in wanted}
    missing = [part for part, file in files.items() if not file.exists()]
    data = dataset(size, data_dir) if missing else None
    for name, seed in track(missing, "networks", disable=not missing):
        assert data is not None
        found = part(name, seed, data, size)
        unfinished = files[name, seed].with_suffix(".new")
        found.to_csv(unfinished, index=False)
        unfinished.replace(files[name, seed])
    return pd.concat([pd.read_csv(file) for file in files.values()], ignore_index=True)


def dataset(size: Size, data_dir: str) -> Dataset:
    """The scenes, with as many images as are used."""
    found = load(
        "scenes",
        data_dir=data_dir,
        image_size=32,
        background_bias=0.0,
        train_images=size.train,
        progress=lambda text: None,
    )
    keep = {"train": size.train, "val": 100, "test": size.images}
    return replace(found, splits={name: first(found.splits[name], count) for name, count in keep.items()})


def part(name: str, seed: int, data: Dataset, size: Size) -> pd.DataFrame:
    """One network: trained, then all its maps measured."""
    settings = TrainSettings.of(
        recipe="fast",
        dataset="scenes",
        train_images=size.train,
        epochs=size.epochs,
        seed=seed,
        batch_size=100,
        device="cpu",
    )
    torch.manual_seed(seed)
    model = NETWORKS[name](len(data.classes), *data.statistics)
    for _ in fit(
        model, data, Augmentation(settings, settings.side, data.statistics[0]), settings, resolve_machine(settings)
    ):
        pass
    test = data.splits["test"]
    accuracy = predict(model, test.images, test.labels, "cpu").accuracy
    assert test.masks is not None
    scenes = Scenes(to_tensor(test.images), torch.from_numpy(test.labels), torch.from_numpy(test.masks))
    rows = pd.DataFrame(measured(model, scenes, size))
    return rows.assign(network=name, seed=seed, accuracy=accuracy)


def measured(model: nn.Module, scenes: Scenes, size: Size) -> Iterator[dict[str, object]]:
    """The measures of every method and layer, of fused layers, of occlusion and of a blob in the middle."""
    layers: tuple[str, ...] = model.cam_layers  # type: ignore[assignment]
    by_method = cam_core.cams_of_methods(model, scenes.images, layers, scenes.classes, methods=list(cam_core.METHODS))
    for method, found in by_method.items():
        unlike = random_weights(model, scenes, layers, method, size.few)
        for index, layer in enumerate(layers):
            values = of_maps(model, scenes, found.maps[index], found.grids[index])
            yield {"layer": layer, "method": method, "random": unlike[index], **values}
    slow = {method: perturbed(model, scenes, layers[-1], method) for method in PERTURBATION_METHODS}
    slow |= {f"{way} of {method}": fused(by_method[method], way) for method in FUSED for way in FUSIONS}
    for method, found in slow.items():
        values = of_maps(model, scenes, found.maps[0], found.grids[0])
        yield {"layer": found.layers[0], "method": method, **values}
    drops = cam_core.occlusion(model, scenes.images, scenes.classes, window=WINDOW).relu()
    grid = by_method[DEFAULT].grids[-1]
    blind = {
        "occlusion": drops,
        "a blob in the middle": cam_core.centre_blob(32, 32).expand_as(drops),
        CHANCE: cam_core.random_maps(len(drops), grid, (32, 32), torch.Generator().manual_seed(0)),
    }
    for method, maps in blind.items():
        yield {"layer": "image", "method": method, **of_maps(model, scenes, maps, (8, 8))}


def perturbed(model: nn.Module, scenes: Scenes, layer: str, method: str) -> Cams:
    """A method with one pass per channel."""
    return cam_core.cams(model, scenes.images, [layer], scenes.classes, method=method)


def fused(found: Cams, way: str) -> Cams:
    """One map of the last three layers."""
    some = replace(found, maps=found.maps[-3:], layers=found.layers[-3:], grids=found.grids[-3:])
    return replace(cam_core.fused(some, way), layers=("last three",))


def of_maps(model: nn.Module, scenes: Scenes, maps: Tensor, grid: tuple[int, ...]) -> dict[str, float]:
    """The mean of each measure; of deletion and insertion, the areas under the curves."""
    given = (model, scenes.images, maps, scenes.classes)
    values = {
        "focus": cam_core.focus_index(maps, scenes.masks, grid),
        "auc": cam_core.pixel_auc(maps, scenes.masks),
        "deletion": cam_core.deletion(*given, steps=STEPS).auc,
        "insertion": cam_core.insertion(*given, steps=STEPS).auc,
        "dead": cam_core.dead_rate(maps).float(),
    }
    return {name: float(value.nanmean()) for name, value in values.items()}


def random_weights(model: nn.Module, scenes: Scenes, layers: tuple[str, ...], method: str, few: int) -> list[float]:
    """How similar maps are to those of the network with random weights, by rank correlation, at each layer."""
    found = cam_core.cascade(
        model,
        scenes.images[:few],
        layers,
        scenes.classes[:few],
        method=method,
        generator=torch.Generator().manual_seed(0),
    )
    return [float(value) for value in found.similarity[-1].nanmean(1)]


def report(rows: pd.DataFrame, size: Size) -> Iterator[str]:
    """A table for each network, with the best rows first, and what is certainly better than the default."""
    rows = with_margins(rows)
    yield f"{size.train:,} scenes, {size.epochs} epochs; {size.images} test scenes, {size.few} for random weights."
    yield f"Means over {size.seeds} seeds, ± half of the {CONFIDENCE:.0%} interval."
    for network, of_network in rows.groupby("network", sort=False):
        accuracy = of_network.groupby("seed")["accuracy"].first()
        yield from ("", f"### {network}, accuracy {interval(accuracy)}", "")
        yield "| layer | method | " + " | ".join(MEASURES.values()) + " | mean rank |"
        yield "|---|---|" + "---|" * (len(MEASURES) + 1)
        for (layer, method), some in by_rank(of_network):
            cells = [interval(some[measure]) for measure in MEASURES]
            yield f"| {layer} | {method} | {' | '.join(cells)} | {interval(some['rank'])} |"
        yield from ("", *against_the_default(of_network))


def with_margins(rows: pd.DataFrame) -> pd.DataFrame:
    """Areas under curves as margins over one random map, the same for all rows of a network: higher is better."""
    chance = rows[rows["method"] == CHANCE].set_index(["network", "seed"])[["deletion", "insertion"]]
    areas = rows.join(chance.add_suffix("_of_chance"), on=["network", "seed"])
    return rows.assign(
        deletion=areas["deletion_of_chance"] - areas["deletion"],
        insertion=areas["insertion"] - areas["insertion_of_chance"],
    )


def by_rank(rows: pd.DataFrame) -> list[tuple[Any, pd.DataFrame]]:
    """The rows of each layer and method, the best mean rank first; ranks are among all rows of one seed."""
    ranks = rows.groupby("seed")[list(RANKED)].rank(ascending=False, na_option="bottom").mean(axis=1)
    groups = list(rows.assign(rank=ranks).groupby(["layer", "method"], sort=False))
    return sorted(groups, key=lambda group: group[1]["rank"].mean())


def against_the_default(rows: pd.DataFrame) -> Iterator[str]:
    """The layers and methods that differ in a measure from the default method at the last layer, paired by seed."""
    by_place = {place: some.set_index("seed") for place, some in rows.groupby(["layer", "method"], sort=False)}
    layer = [layer for layer, method in by_place if method == DEFAULT][-1]
    base = by_place[layer, DEFAULT]
    yield f"Against {DEFAULT} at {layer}, with the {CONFIDENCE:.0%} interval of the difference:"
    yield ""
    for measure in RANKED:
        shown: list[tuple[str, Difference]] = []
        for place, some in by_place.items():
            both = pd.concat([some[measure], base[measure]], axis=1).dropna().to_numpy()
            difference = paired_difference(both[:, 0], both[:, 1])
            if difference.shown:
                shown.append((" ".join(map(str, place)), difference))
        better = sorted((one for one in shown if one[1].mean > 0), key=lambda one: -one[1].mean)
        named = [f"{name} ({one.mean:+.3f}, {one.low:+.3f} to {one.high:+.3f})" for name, one in better[:3]]
        counts = f"{len(better)} better, {len(shown) - len(better)} worse"
        yield f"* {MEASURES[measure]}: {counts}. Best: {', '.join(named) or 'none'}."


def interval(values: pd.Series) -> str:
    """The mean and half of its interval; a dash without values."""
    known = values.dropna().to_numpy(float)
    if len(known) == 0:
        return "-"
    if len(known) < 2:
        return f"{known.mean():.3f}"
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(known) - 1) * known.std(ddof=1) / np.sqrt(len(known))
    return f"{known.mean():.3f} ± {half:.3f}"


if __name__ == "__main__":
    main()

"""How much narrower is the interval of a difference because variants of one seed share their random values?

python -m benchmarks.paired_randomness             about ten minutes on two cores; prints markdown

Trains the variants on the scenes with the recipe `fast`. "Paired" are the differences of runs with one seed, as
`compare` computes them. "Not paired" are the differences of runs with different seeds, for every shift of the seeds.
"""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
from rich.progress import track

from experiments.evidence.differences import paired_difference
from experiments.runs.prepare import load_dataset, prepare
from experiments.settings.train import TrainSettings
from experiments.settings.variants import parse_variants
from experiments.system.progress import Reporter
from experiments.training.loop import build_model, fit
from experiments.training.predictions import predict

MEASURES = {"test": "test accuracy", "other": "accuracy on other backgrounds"}


def main(argv: Sequence[str] | None = None) -> None:
    """Trains all networks and prints the table."""
    given = options().parse_args(argv)
    common = {"dataset": "scenes", "data_dir": given.data_dir, "train_images": given.images, "epochs": given.epochs}
    common |= {"threads": given.threads, "holdout": False, "checkpoint": "none", "resume": "none"}
    variants = {variant.name: variant.options for variant in parse_variants(given.variants)}
    found = {name: trained({**common, **own}, given.seeds, name) for name, own in variants.items()}
    print(f"recipe fast, {given.epochs} epochs, {given.images:,} training images, {given.seeds} seeds each\n")
    print("\n".join(report(found)))


def options() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--variants", default="baseline; cutout; mixup: mixup=0.2", help="as in compare (%(default)s)")
    found.add_argument("--seeds", type=int, default=10, help="seeds of each variant (default %(default)s)")
    found.add_argument("--images", type=int, default=2000, help="training images (default %(default)s)")
    found.add_argument("--epochs", type=int, default=8, help="epochs of each network (default %(default)s)")
    found.add_argument("--threads", type=int, default=2, help="CPU threads (default %(default)s)")
    found.add_argument("--data-dir", default="data", help="folder for the scenes (default %(default)s)")
    return found


def trained(given: Mapping[str, object], seeds: int, name: str) -> dict[str, list[float]]:
    """The accuracies of the networks of one variant, a value for each seed."""
    found: dict[str, list[float]] = {measure: [] for measure in MEASURES}
    dataset = load_dataset(TrainSettings.of(**given), Reporter())
    for seed in track(range(seeds), name):
        ready = prepare(TrainSettings.of(**{**given, "seed": seed}), dataset=dataset)
        model = build_model(ready.settings, len(dataset.classes), *dataset.statistics)
        for _ in fit(model, dataset, ready.augmentation, ready.settings, ready.machine):
            pass
        for measure in MEASURES:
            split = dataset.splits[measure]
            found[measure].append(predict(model, split.images, split.labels, ready.machine.device).accuracy)
    return found


def report(found: Mapping[str, Mapping[str, Sequence[float]]]) -> Iterator[str]:
    """A row for each measure and pair of variants; half the width of the 95 % interval in points."""
    yield "| measure | pair | correlation of the seeds | paired | not paired | ratio |"
    yield "|---|---|---|---|---|---|"
    for measure, words in MEASURES.items():
        for first, second in combinations(found, 2):
            one, other = (np.array(found[name][measure]) for name in (first, second))
            paired, apart = halves(one, other)
            correlation = np.corrcoef(one, other)[0, 1]
            widths = f"±{100 * paired:.2f} | ±{100 * apart:.2f} | {paired / apart:.2f}"
            yield f"| {words} | {first}, {second} | {correlation:+.2f} | {widths} |"


def halves(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Half the width of the interval of the difference: paired by seed; and paired with other seeds, the mean over all
    shifts."""
    shifted = [paired_difference(np.roll(other, shift), one).smallest_shown for shift in range(len(one))]
    widths = [width or 0.0 for width in shifted]
    return widths[0], float(np.mean(widths[1:]))


if __name__ == "__main__":
    main()

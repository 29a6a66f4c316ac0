"""What augmentations by name and image by image cost. Prints markdown.

python -m benchmarks.augmentation_speed            about ten minutes on two cores
python -m benchmarks.augmentation_speed --quick    two minutes: few images and rounds

First, epochs of the recipe `fast` at 32 pixels with one more option, against the recipe itself. Then the batches of a
pipeline of your own, against a DataLoader that applies the same pipeline with as many workers. All runs of a table
take turns, each in its own process; a ratio is the median of the ratios within the rounds.
"""

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import albumentations as A
import torch
from albumentations.pytorch import ToTensorV2

from benchmarks import training_runs
from benchmarks.timing import WARM_UP, Aim, Run, Timing, aim_row, cpu_name, preload, take_turns
from benchmarks.training_runs import WORKERS, Case, Images, case

RECIPE, OWN, LOADER = "the recipe", "own pipeline, ours", f"own pipeline, DataLoader with {WORKERS} workers"
OPTIONS: Mapping[str, Mapping[str, object]] = {
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
    "random_erasing": {"random_erasing": 0.25},
    "random_resized_crop": {"random_resized_crop": 0.3},
    "grayscale": {"grayscale": 0.2},
    "gaussian_noise": {"gaussian_noise": 0.05},
}
AIMS = [
    *(Aim(name, RECIPE, at_most=1.05) for name in ("mixup", "cutmix", "random_erasing")),
    Aim(OWN, LOADER, at_most=1),
]
PIPELINE = """import albumentations as A

train = A.Compose([A.HorizontalFlip(p=0.5), A.Affine(rotate=(-15, 15), p=0.5), A.RandomBrightnessContrast(p=0.5)])
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Measures and prints the tables."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--quick", action="store_true", help="few images and rounds")
    quick = found.parse_args(argv).quick
    images, rounds = (2000, 5) if quick else (10_000, 9)
    preload(training_runs.__name__)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "own.py")
        path.write_text(PIPELINE)
        print(f"{cpu_name()}, torch {torch.__version__}, {images:,} images, {rounds} rounds\n")
        timings = take_turns(steps(images, rounds), rounds) | take_turns(inputs(path, images, rounds), rounds)
        print("\n".join(report(timings)))


def steps(images: int, rounds: int) -> dict[str, Run]:
    """Epochs of the recipe, and of the recipe with one more option."""
    every = {RECIPE: {}, **OPTIONS}
    return {
        name: partial(training_runs.ours, case("fast", images, WARM_UP + rounds, **options))
        for name, options in every.items()
    }


def inputs(path: Path, images: int, rounds: int) -> dict[str, Run]:
    """The batches of an epoch, which are not used: ours and those of a DataLoader."""
    own = case("fast", images, WARM_UP + rounds, augmentation=f"{path}:train", augment_workers=WORKERS)
    return {OWN: partial(training_runs.our_input, own), LOADER: partial(training_runs.loader_input, own, loader)}


def loader(case: Case) -> training_runs.Loader:
    """A DataLoader that applies the pipeline and gives uint8 tensors, which are then divided by 255 as ours are."""
    content: dict[str, A.Compose] = {}
    exec(PIPELINE, content)
    transform = A.Compose([*content["train"].transforms, ToTensorV2()])
    split = training_runs.made_up(case.images, case.settings.side).splits["train"]
    return torch.utils.data.DataLoader(
        Images(split, transform), batch_size=case.settings.batch_size, shuffle=True, num_workers=WORKERS
    )


def report(timings: Mapping[str, Timing]) -> Iterator[str]:
    """A row for each target, and one for each other option."""
    yield "| | target | wall time | CPU time |"
    yield "|---|---|---|---|"
    others = [Aim(name, RECIPE) for name in OPTIONS if name not in {aim.run for aim in AIMS}]
    yield from (aim_row(aim, timings).replace("at least None", "none") for aim in (*AIMS, *others))


if __name__ == "__main__":
    main()

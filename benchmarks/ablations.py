"""The effect of each part of a speed recipe: compares the recipe without one part to the recipe. Prints markdown.

python -m benchmarks.ablations parts --recipe fast --dataset cifar10 --epochs 5
                               Muon, whitening, label smoothing, alternating flips, small images first, kept memory
python -m benchmarks.ablations path --recipe fast --dataset cifar10 --epochs 4 --seeds 3
                               bf16 on whole batches against float32 on images that albumentations augments one by one

Any other option of experiments.train applies to all rows. Accuracies are on the validation images; seconds are for
training steps with their input. Each training runs in its own process, and the rows of one seed run one after another.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from statistics import fmean, stdev

from torch import nn

from experiments.data.dataset import DataError
from experiments.evidence.differences import Quantity, paired_difference
from experiments.evidence.sentences import sentence
from experiments.models.fastnet import FastNet
from experiments.runs.prepare import Prepared, load_dataset, prepare
from experiments.settings.base import SettingsError
from experiments.settings.command_line import fail, typed
from experiments.settings.train import TrainSettings
from experiments.system.allocator import keep_freed_memory
from experiments.system.progress import Printer, Reporter
from experiments.training import loop
from experiments.training.predictions import predict_with_mirrors

COMMAND = "python -m benchmarks.ablations"
THE_RECIPE = "the recipe"
ACCURACY = Quantity("validation accuracy", "higher")


@dataclass(frozen=True)
class Part:
    """A row: options that differ from the recipe, and changes for which there is no option.

    Attributes:
        change: applied to the new network.
        keep_memory: whether the process keeps freed memory, as in every entry point.
    """

    options: Mapping[str, object]
    change: Callable[[nn.Module], None] = lambda model: None
    keep_memory: bool = True


@dataclass(frozen=True)
class Outcome:
    """The result of one training: validation accuracy, without and with mirror images, and seconds of its steps."""

    accuracy: float
    mirrored: float
    seconds: float


def ordinary_stem(model: nn.Module) -> None:
    """Makes the first convolution like any other: its filters start at random and are trained."""
    if isinstance(model, FastNet):
        model.stem.get_parameter("0.weight").requires_grad_(True)
        model.whiten = lambda images: None  # type: ignore[method-assign]


SGD = {"optimizer": "sgd", "momentum": 0.85, "weight_decay": 5e-4}
PARTS = {
    THE_RECIPE: Part({}),
    # The SGD of airbench94 has a learning rate of 1.5 for a mean loss; also three times smaller and larger.
    **{f"SGD at rate {lr} for all parameters instead of Muon": Part(SGD | {"lr": lr}) for lr in (0.5, 1.5, 4.5)},
    "filters of the stem at random and trained": Part({}, ordinary_stem),
    "no label smoothing": Part({"label_smoothing": 0}),
    "flips at random": Part({"hflip_mode": "random"}),
    "full size throughout": Part({"sides": "none"}),
    "memory given back after every use": Part({}, keep_memory=False),
}
PATHS = {
    THE_RECIPE: PARTS[THE_RECIPE],
    "float32, albumentations image by image": Part(
        {"precision": "fp32", "augment_by": "albumentations", "channels_last": "false"}, keep_memory=False
    ),
}
TABLES = {"parts": PARTS, "path": PATHS}


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table and the conclusions."""
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=(__doc__ or "").splitlines()[0], epilog="and every option of experiments.train"
    )
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--seeds", type=int, default=1, help="trainings per row (default %(default)s)")
    options, rest = parser.parse_known_args(argv)
    given = typed(TrainSettings, rest) | {"checkpoint": "none", "resume": "none"}
    parts = TABLES[options.table]
    try:
        for part in parts.values():
            settings = TrainSettings.of(**given | dict(part.options))
        if not settings.holdout:
            raise SettingsError(["holdout=false: leaves no validation images for the accuracy; add --holdout true"])
        load_dataset(settings, Printer())
    except (SettingsError, DataError) as error:
        fail(COMMAND, str(error).splitlines())
    for line in report(parts, outcomes(parts, given, range(options.seeds))):
        print(line, flush=True)


def outcomes(
    parts: Mapping[str, Part], given: Mapping[str, object], seeds: Iterable[int]
) -> Iterator[tuple[str, Outcome]]:
    """Every row with every seed, each in a new process, because a setting of the allocator cannot be undone."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, max_tasks_per_child=1) as pool:
        for seed in seeds:
            for name in parts:
                print(f"seed {seed}: {name}", file=sys.stderr)
                yield name, pool.submit(trained, name, dict(given) | {"seed": seed}).result()


def trained(name: str, given: Mapping[str, object]) -> Outcome:
    """One training of the row, as in `experiments.train` except for the change of the row."""
    part = (PARTS | PATHS)[name]
    if part.keep_memory:
        keep_freed_memory()
    options = dict(given) | dict(part.options)
    return outcome(prepare(TrainSettings.of(**options), reporter=Reporter()), part.change)


def outcome(prepared: Prepared, change: Callable[[nn.Module], None]) -> Outcome:
    """The outcome of the training, with the change applied to the new network."""
    settings, dataset = prepared.settings, prepared.dataset
    model = loop.build_model(settings, len(dataset.classes), *dataset.statistics)
    change(model)
    results = list(loop.fit(model, dataset, prepared.augmentation, settings, prepared.machine))
    val, device = dataset.splits["val"], prepared.machine.device
    return Outcome(
        results[-1].metrics["val/accuracy"],
        predict_with_mirrors(model, val.images, val.labels, device).accuracy,
        sum(result.metrics["train/epoch_s"] for result in results),
    )


def report(parts: Mapping[str, Part], found: Iterable[tuple[str, Outcome]]) -> Iterator[str]:
    """A row for each part, with means over the seeds and their spread; then the conclusions about the differences."""
    by_name: dict[str, list[Outcome]] = {name: [] for name in parts}
    for name, outcome in found:
        by_name[name].append(outcome)
    yield "| | validation accuracy | with mirror images | n | seconds |"
    yield "|---|---|---|---|---|"
    for name, some in by_name.items():
        accuracies = [percent([getattr(one, measure) for one in some]) for measure in ("accuracy", "mirrored")]
        yield f"| {name} | {' | '.join(accuracies)} | {len(some)} | {fmean(one.seconds for one in some):.1f} |"
    yield ""
    base = [one.accuracy for one in by_name[THE_RECIPE]]
    for name in list(by_name)[1:]:
        difference = paired_difference([one.accuracy for one in by_name[name]], base)
        yield f"* {sentence(name, THE_RECIPE, difference, ACCURACY)}"


def percent(values: Sequence[float]) -> str:
    """The mean and, with two values or more, the standard deviation."""
    spread = f" ± {100 * stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * fmean(values):.2f}{spread} %"


if __name__ == "__main__":
    main()

"""The time of training: compares this project with a plain loop, torchvision and Lightning. Prints markdown.

python -m benchmarks.training            about half an hour on two cores
python -m benchmarks.training --quick    a few minutes: one short round of each
python -m benchmarks.training --only training
                                         only the tables of trainings, or of input
python -m benchmarks.training reach --target 0.8895 --recipe fast --dataset cifar10
                                         seconds of training until that accuracy; takes all options of experiments.train

All runs of a table take turns, each in its own process, in an order that is reversed every other round; a ratio is the
median of the ratios within the rounds. A round is an epoch of artificial images, without evaluation. CPU time is that
of all threads and DataLoader workers. Needs the dev extra.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from platform import python_version
from statistics import median

import torch
from torch import nn

from benchmarks import training_runs
from benchmarks.timing import (
    WARM_UP,
    Aim,
    Timing,
    aim_row,
    cpu_name,
    preload,
    ratio,
    ratios,
    synchronise,
    take_turns,
)
from benchmarks.training_runs import Case, case
from experiments.data.dataset import DataError
from experiments.runs.prepare import Prepared, prepare
from experiments.settings.base import SettingsError
from experiments.settings.command_line import fail, typed
from experiments.settings.train import TrainSettings
from experiments.system.allocator import keep_freed_memory
from experiments.system.progress import Printer
from experiments.training import loop
from experiments.training.predictions import predict_with_mirrors

LIBRARIES = ("torch", "torchvision", "albumentations", "pytorch-lightning", "numpy")
INPUT_RECIPES = ("fast", "resnet18", "resnet18_steplr", "resnet18_onecycle", "resnet18_cutout")
LOOPS_AIM = {"resnet18": 2.2, "fastnet": 4}
"""Targets on a CPU, by network: the time of the plain loop divided by ours."""
INPUT_AIM = 3
"""The same for a DataLoader with albumentations, compared with our whole batches."""


@dataclass(frozen=True)
class Scale:
    """The work of one round: images of each training, by network, and of each input; sides of the matrices."""

    rounds: int
    training: Mapping[str, int]
    input: int
    side: int


def scale(device: str, quick: bool) -> Scale:
    """A few seconds per run and round; on a GPU epochs as long as CIFAR-10; with `quick` as little as possible."""
    if quick:
        return Scale(1, {"resnet18": 256, "fastnet": 2000}, 2000, 512)
    if device == "cuda":
        return Scale(5, {"resnet18": 50_000, "fastnet": 50_000}, 50_000, 8192)
    return Scale(5, {"resnet18": 1280, "fastnet": 24_000}, 20_000, 2048)


def main() -> None:
    """Prints the machine, a table per training and per input, and the target ratios; or the time to an accuracy."""
    if sys.argv[1:2] == ["reach"]:
        reach(sys.argv[2:])
        return
    options = parser().parse_args()
    preload(training_runs.__name__)
    common: dict[str, object] = {"threads": options.threads, "device": options.device}
    device = case("fast", 1, 1, **common).machine.device
    torch.set_num_threads(options.threads)
    size = scale(device, options.quick)
    rounds = options.rounds or size.rounds
    trainings = [
        case(recipe, size.training[network], WARM_UP + rounds, **options_, **common)
        for recipe, network, options_ in (
            ("resnet18_steplr", "resnet18", {"batch_size": 64}),
            ("resnet18_steplr", "resnet18", {"batch_size": 128}),
            ("fast", "fastnet", {}),
        )
    ]
    inputs = [case(recipe, size.input, WARM_UP + rounds, **common) for recipe in INPUT_RECIPES]
    if options.only:
        trainings, inputs = (trainings, []) if options.only == "training" else ([], inputs)
    print(machine(device))
    for line in report(trainings, inputs, rounds, size.side):
        print(line, flush=True)


def parser() -> argparse.ArgumentParser:
    """The options."""
    found = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    found.add_argument("--threads", type=int, default=torch.get_num_threads(), help="CPU threads (default %(default)s)")
    found.add_argument("--rounds", type=int, help="rounds of each table (default 5)")
    found.add_argument("--only", choices=("training", "input"), help="print the tables of one kind (default both)")
    found.add_argument("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")
    found.add_argument("--quick", action="store_true", help="one round with few images")
    return found


def report(trainings: list[Case], inputs: list[Case], rounds: int, side: int) -> Iterator[str]:
    """The lines of all tables, as soon as they are measured; matrices have sides of `side`."""
    device = (trainings or inputs)[0].machine.device
    peaks = {precision: measured_peaks(device, precision, side) for precision in ("fp32", "bf16")}
    yield from peak_table(peaks)
    if not find_spec("pytorch_lightning"):
        yield from ("", "pytorch-lightning is not installed (it is in the dev extra): its rows are missing.")
    aims: list[str] = []
    for one in trainings:
        timings = take_turns(training_runs.trainings(one), rounds)
        yield from ("", f"### Training: {title(one)} (n = {rounds})", "")
        yield from table(timings, one.images)
        yield from ("", *arithmetic_table(timings, one, peaks))
        if device == "cpu":
            aim = Aim(training_runs.PLAIN, training_runs.OURS, at_least=LOOPS_AIM[family(one)])
            aims.append(f"| {title(one)} {aim_row(aim, timings)}")
    for one in inputs:
        timings = take_turns(training_runs.inputs(one), rounds)
        yield from ("", f"### Input alone: {title(one)} (n = {rounds})", "")
        yield from table(timings, one.images)
        aim = Aim(training_runs.WORKERS_ALBUMENTATIONS, training_runs.WHOLE_BATCH, at_least=INPUT_AIM)
        aims.append(f"| {title(one)} {aim_row(aim, timings)}")
    yield from ("", "### To reach", "", "| | ratio | aim | wall | CPU |", "|---|---|---|---|---|", *aims)


def family(case: Case) -> str:
    """The name of the network without the part for its width."""
    return case.settings.model.partition("_")[0]


def title(case: Case) -> str:
    """The recipe, its network and batch size, and the images of a round."""
    settings = case.settings
    return f"recipe {settings.recipe}, {settings.model}, batch {settings.batch_size}, {case.images:,} images"


def table(timings: Mapping[str, Timing], images: int) -> Iterator[str]:
    """Images per second, CPU time per image, and the time of each run relative to the first row."""
    yield "| run | images/s | from ... to | CPU µs per image | time / ours, wall | from ... to | CPU |"
    yield "|---|---|---|---|---|---|---|"
    base = next(iter(timings.values()))
    for name, timing in timings.items():
        rates = [images / seconds for seconds in timing.wall]
        wall, cpu = ratio(timing, base)
        within = ratios(timing.wall, base.wall)
        yield (
            f"| {name} | {median(rates):,.0f} | {min(rates):,.0f} ... {max(rates):,.0f} "
            f"| {1e6 * median(timing.cpu) / images:,.0f} "
            f"| {wall:.2f} | {min(within):.2f} ... {max(within):.2f} | {cpu:.2f} |"
        )


def measured_peaks(device: str, precision: str, side: int) -> dict[str, float]:
    """The highest number of floating-point operations per second of plain operations, by name of the operation."""
    return {
        operation.name: operation.flops / fastest(operation.work, 1 if device == "cpu" else 20)
        for operation in training_runs.operations(device, precision, side)
    }


def fastest(work: Callable[[], object], calls: int, tries: int = 7) -> float:
    """Seconds per call in a series of `calls`: the fastest of several tries, after one that does not count."""
    found = []
    for _ in range(tries + 1):
        synchronise()
        started = time.perf_counter()
        for _ in range(calls):
            work()
        synchronise()
        found.append((time.perf_counter() - started) / calls)
    return min(found[1:])


def peak_table(peaks: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    """The peak performance of the machine, by number format."""
    yield from ("", "### Peaks: the fastest of seven, GFLOP/s", "", "| operation | fp32 | bf16 |", "|---|---|---|")
    for name in peaks["fp32"]:
        yield f"| {name} | {peaks['fp32'][name] / 1e9:,.0f} | {peaks['bf16'][name] / 1e9:,.0f} |"


def arithmetic_table(
    timings: Mapping[str, Timing], case: Case, peaks: Mapping[str, Mapping[str, float]]
) -> Iterator[str]:
    """The share of the peaks that each run reaches; the time includes the input, the operations do not."""
    flops = {run: training_runs.flops_per_image(run, case) for run in (training_runs.ours, training_runs.plain)}
    names = list(peaks["fp32"])
    yield f"| run | format | GFLOP per image | GFLOP/s | {' | '.join(f'of the peak: {name}' for name in names)} |"
    yield f"|---|---|---|---|{'---|' * len(names)}"
    for name, timing in timings.items():
        by_us = name.startswith(training_runs.OURS)
        precision = case.machine.precision if by_us else "fp32"
        per_image = flops[training_runs.ours if by_us else training_runs.plain]
        reached = per_image * case.images / median(timing.wall)
        shares = " | ".join(f"{reached / peaks[precision][of]:.0%}" for of in names)
        yield f"| {name} | {precision} | {per_image / 1e9:.3f} | {reached / 1e9:,.0f} | {shares} |"


def machine(device: str) -> str:
    """The processor, the device, the threads and the versions in one line."""
    gpu = f", {torch.cuda.get_device_name()}" if device == "cuda" else ""
    there = [name for name in LIBRARIES if find_spec(name.replace("-", "_"))]
    versions = ", ".join(f"{name} {version(name)}" for name in there)
    return f"{cpu_name()}{gpu}, {torch.get_num_threads()} threads; Python {python_version()}, {versions}"


# Time to an accuracy


def reach(argv: list[str]) -> None:
    """Trains and prints a line per epoch: seconds of training so far, and the test accuracy."""
    own = argparse.ArgumentParser(
        prog="python -m benchmarks.training reach", epilog="and every option of python -m experiments.train"
    )
    own.add_argument("--target", type=float, required=True, help="accuracy on the test images, in [0, 1]")
    options, rest = own.parse_known_args(argv)
    given = typed(TrainSettings, rest) | {"track_test": "true", "checkpoint": "none", "resume": "none"}
    keep_freed_memory()  # as every entry point does
    try:
        prepared = prepare(TrainSettings.of(**given), reporter=Printer())
    except (SettingsError, DataError) as error:
        fail("python -m benchmarks.training reach", str(error).splitlines())
    print(f"{machine(prepared.machine.device)}; {prepared.machine.precision}\n")
    for line in progress(prepared, options.target):
        print(line, flush=True)


def progress(prepared: Prepared, target: float) -> Iterator[str]:
    """The table, and the time when `target` was first reached; evaluations do not count as training."""
    settings, dataset = prepared.settings, prepared.dataset
    model = loop.build_model(settings, len(dataset.classes), *dataset.statistics)
    yield f"| epoch of {settings.epochs} | seconds of training | test accuracy | with mirror images |"
    yield "|---|---|---|---|"
    seconds, reached = 0.0, dict[str, str]()
    for result in loop.fit(model, dataset, prepared.augmentation, settings, prepared.machine):
        seconds += result.metrics["train/epoch_s"]
        found = {"test images": result.metrics["test/accuracy"]}
        if settings.test_flip:
            found["with mirror images"] = mirrored_accuracy(model, prepared)
        shown = [f"{accuracy:.2%}" for accuracy in found.values()] + ["-"] * (2 - len(found))
        yield f"| {result.epoch} | {seconds:.1f} | {' | '.join(shown)} |"
        for name in [name for name, accuracy in found.items() if accuracy >= target]:
            reached.setdefault(name, f"after {seconds:.1f} s of training, epoch {result.epoch}")
    yield ""
    for name in found:
        yield f"{target:.2%}, {name}: {reached.get(name, 'not reached')}"


def mirrored_accuracy(model: nn.Module, prepared: Prepared) -> float:
    """The accuracy with logits averaged over every test image and its mirror image, in float32."""
    test = prepared.dataset.splits["test"]
    return predict_with_mirrors(model, test.images, test.labels, prepared.machine.device).accuracy


if __name__ == "__main__":
    main()

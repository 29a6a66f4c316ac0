"""The benchmark of training runs, and those it compares train the same thing."""

import math
import multiprocessing
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event

import albumentations as A
import numpy as np
import pytest
import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import timing, training_runs
from benchmarks import training as benchmark
from benchmarks.timing import Report
from benchmarks.training_runs import Case, case
from experiments.augmentation import declared, transforms
from experiments.models.fastnet import FastNet
from experiments.runs.prepare import prepare
from experiments.training import loop
from tests.toys.networks import toy_dataset

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

TINY = {"batch_size": 16, "threads": 1, "device": "cpu"}
FORMATS = ("fp32", "bf16")
COUNTERPARTS = {
    "HorizontalFlip": "RandomHorizontalFlip",
    "Affine": "RandomAffine",
    "RandomCrop": "RandomCrop",
    "HueSaturationValue": "ColorJitter",
    "CoarseDropout": "RandomErasing",
}


@pytest.fixture(scope="module", autouse=True)
def preloaded() -> None:
    timing.preload(training_runs.__name__)


@pytest.fixture
def sizes() -> Iterator[list[torch.Size]]:
    """The shapes of all batches that a FastNet is given meanwhile."""
    seen: list[torch.Size] = []

    def note(module: torch.nn.Module, given: tuple[torch.Tensor]) -> None:
        if isinstance(module, FastNet):
            seen.append(given[0].shape)

    hook = register_module_forward_pre_hook(note)
    yield seen
    hook.remove()


@pytest.mark.parametrize("run", ["ours", "plain", "torchvision", "lightning"])
def test_every_run_trains_on_as_many_images_a_step_and_learns(run: str, sizes: list[torch.Size]) -> None:
    losses: list[float] = []
    getattr(training_runs, run)(case("fast", 70, 4, **TINY), losses.append)
    assert sizes == [(16, 3, 32, 32)] * 4 * 4
    assert len(losses) == 4
    assert losses[-1] < losses[0] - 0.2


def test_all_start_from_the_same_weights() -> None:
    fast = case("fast", 16, 1, **TINY)
    dataset = training_runs.made_up(16, 32)
    ours = loop.build_model(fast.settings, training_runs.CLASSES, *dataset.statistics).state_dict()
    others = training_runs.network(fast).state_dict()
    assert ours.keys() - others.keys() == {"normalise.mean", "normalise.std"}
    assert all(torch.equal(others[name], ours[name]) for name in others)


@pytest.mark.parametrize("recipe", benchmark.INPUT_RECIPES)
def test_the_others_declare_the_augmentations_of_the_recipe(recipe: str) -> None:
    settings = case(recipe, 16, 1, hflip_mode="random", **TINY).settings
    mean, std = np.float32([0.5, 0.4, 0.3]), np.float32([0.2, 0.2, 0.2])
    ours = [
        ("CoarseDropout" if type(step) is transforms.Cutout else type(step).__name__, step.p)
        for pipeline in (declared.geometry(settings, 32), declared.colour(settings), declared.holes(settings, mean))
        for step in pipeline.transforms
    ]
    theirs = training_runs.albumentations_transform(settings, mean, std).transforms
    affine = [step for step in declared.geometry(settings, 32).transforms if isinstance(step, A.Affine)]
    for step, other in zip(affine, [step for step in theirs if isinstance(step, A.Affine)], strict=True):
        assert step.get_base_init_args() | step.get_transform_init_args() == (
            other.get_base_init_args() | other.get_transform_init_args()
        )
    assert [(type(step).__name__, step.p) for step in theirs[:-2]] == ours
    assert [type(step).__name__ for step in theirs[-2:]] == ["Normalize", "ToTensorV2"]
    steps = training_runs.torchvision_transform(settings, mean, std).transforms
    steps = [(step, 1.0) if not hasattr(step, "p") else (step, step.p) for step in steps]
    inner = [(type(getattr(step, "transforms", [step])[0]).__name__, p) for step, p in steps]
    kept = [(name, p) for name, p in inner if name not in ("ToImage", "ToDtype", "Normalize")]
    assert kept == [(COUNTERPARTS[name], p) for name, p in ours if name != "Pad"]


def test_without_augmentations_both_libraries_give_the_normalised_image() -> None:
    fast = case("fast", 16, 1, **TINY, hflip=0, crop_padding=0)
    dataset = training_runs.made_up(16, 32)
    mean, std = dataset.statistics
    expected = (dataset.splits["train"].images / 255 - mean) / std
    for loader in (training_runs.albumentations_loader(fast), training_runs.torchvision_loader(fast)):
        for index in (0, 7):
            found, label = loader.dataset[index]
            np.testing.assert_allclose(found.permute(1, 2, 0), expected[index], atol=1e-5)
            assert label == index


def test_the_holes_of_both_libraries_are_as_large_and_filled_with_the_mean() -> None:
    cutout = case("resnet18_cutout", 16, 1, **TINY, hflip=0, crop_padding=0)
    for loader in (training_runs.albumentations_loader(cutout), training_runs.torchvision_loader(cutout)):
        for index in range(8):
            # The mean is rounded to whole levels where images are still uint8.
            near = loader.dataset[index][0].abs().amax(0) < 0.02
            holes = torch.nn.functional.avg_pool2d(near.float()[None], 16, 1) == 1
            assert holes.sum() == 1


def test_whole_batches_and_albumentations_are_the_two_paths_of_this_project() -> None:
    runs = training_runs.inputs(case("fast", 16, 1, **TINY))
    paths = [runs[name].args[0] for name in (training_runs.WHOLE_BATCH, training_runs.ONE_BY_ONE)]  # type: ignore[attr-defined]
    assert [path.settings.augment_path for path in paths] == ["batch", "albumentations"]
    assert case("fast", 16, 1, **TINY).settings.augment_path == "batch"


def test_the_operations_of_resnet18_are_those_of_its_source() -> None:
    # 0.5554 GMAC forward (11.17 M parameters) and twice as many backward, but for the gradient of the images: the
    # stem has 3 * 9 * 64 products at each of 32 * 32 places.
    expected = 2 * (3 * 0.5554e9 - 3 * 9 * 64 * 32 * 32)
    found = training_runs.flops_per_image(training_runs.plain, case("resnet18", 2, 2, **(TINY | {"batch_size": 2})))
    assert found == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("precision", FORMATS)
def test_the_peaks_count_the_operations_that_torch_counts(precision: str) -> None:
    for operation in training_runs.operations("cpu", precision, 96):
        with FlopCounterMode(display=False) as counter:
            operation.work()
        assert counter.get_total_flops() == operation.flops, operation.name


def _burn(seconds: float, burnt: Event, end: Event) -> None:
    while time.process_time() < seconds:
        pass
    burnt.set()
    end.wait()


def test_cpu_seconds_are_those_of_living_and_of_ended_workers_too() -> None:
    burnt, end = multiprocessing.Event(), multiprocessing.Event()
    before = timing.cpu_seconds()
    worker = multiprocessing.Process(target=_burn, args=(0.1, burnt, end))
    worker.start()
    burnt.wait()
    alive = timing.cpu_seconds() - before
    end.set()
    worker.join()
    ended = timing.cpu_seconds() - before
    assert 0.08 < alive < 1  # the kernel counts in hundredths
    assert 0.1 <= ended < 1


def _three(report: Report) -> None:
    for loss in (3.0, 2.0, 1.0):
        report(loss)


def _broken(report: Report) -> None:
    raise SystemExit(7)


def test_contenders_take_turns_and_the_order_is_reversed_every_other_round(capsys: pytest.CaptureFixture[str]) -> None:
    timings = timing.take_turns({"a": _three, "b": _three}, rounds=2)
    assert "".join(line[-1] for line in capsys.readouterr().err.splitlines()) == "ba" + "ab" + "ba"
    for of_one in timings.values():
        assert len(of_one.wall) == len(of_one.cpu) == 2


def test_a_contender_that_fails_is_named() -> None:
    with pytest.raises(ChildProcessError, match=r"^b: ended with exit code 7$"):
        timing.take_turns({"b": _broken}, rounds=1)


def test_every_run_and_every_aim_has_a_row_with_finite_numbers() -> None:
    fast = case("fast", 32, 2, **TINY)
    lines = list(benchmark.report([fast], [fast], rounds=1, side=64))
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    named = [row for row in rows if row[0] in training_runs.trainings(fast).keys() | training_runs.inputs(fast).keys()]
    assert len(named) == 4 + 4 + 4
    for row in named:
        numbers = [cell.rstrip("%").replace(",", "") for cell in row[1:] if "..." not in cell and cell not in FORMATS]
        assert len(numbers) >= 4
        assert all(math.isfinite(float(number)) and float(number) >= 0 for number in numbers), row
    aims = rows[-2:]
    assert [aim[1] for aim in aims] == [
        f"{training_runs.PLAIN} / {training_runs.OURS}",
        f"{training_runs.WORKERS_ALBUMENTATIONS} / {training_runs.WHOLE_BATCH}",
    ]


def test_a_target_is_reached_in_the_first_epoch_that_has_it_and_evaluation_is_not_counted() -> None:
    options = {"recipe": "fast", "epochs": 3, "image_size": 16, "track_test": True, "test_flip": True}
    quick = case(images=96, **options, **TINY).settings  # type: ignore[arg-type]
    prepared = prepare(quick, dataset=toy_dataset())
    *rows, _, plain, mirrored = list(benchmark.progress(prepared, 0.0))[2:]
    assert [row.split("|")[1].strip() for row in rows] == ["1", "2", "3"]
    seconds = [float(row.split("|")[2]) for row in rows]
    assert seconds == sorted(seconds)
    assert plain == f"0.00%, test images: after {seconds[0]} s of training, epoch 1"
    assert mirrored == f"0.00%, with mirror images: after {seconds[0]} s of training, epoch 1"
    *_, missed, _ = benchmark.progress(prepared, 1.01)
    assert missed == "101.00%, test images: not reached"


def test_scale_knows_every_network_of_the_recipes_it_trains() -> None:
    for device, quick in (("cpu", False), ("cuda", False), ("cpu", True)):
        size = benchmark.scale(device, quick)
        assert size.training.keys() == benchmark.LOOPS_AIM.keys()
    assert benchmark.family(Case(case("fast", 1, 1, **TINY).settings, 1)) == "fastnet"
    assert benchmark.family(Case(case("fast", 1, 1, **TINY, model="fastnet_wide").settings, 1)) == "fastnet"

"""Everything that a training needs, checked before anything is trained or logged."""

from dataclasses import dataclass

import torch

from ..augmentation.whole_batches import Augmentation
from ..data.dataset import Dataset
from ..data.load import load, resolve_name
from ..explaining.layers_and_methods import Explaining, resolve_explaining
from ..settings.base import AUTO, NONE, spelled
from ..settings.recipes import OFF
from ..settings.train import TrainSettings
from ..system.files import user_path
from ..system.progress import Reporter
from ..training.checkpoints import Checkpoint, check_place
from ..training.machine import Machine, resolve_machine
from .carry_on import find_checkpoint
from .clock import Clock
from .fingerprint import fingerprint


@dataclass(frozen=True)
class Prepared:
    """Everything that a training needs, checked. Nothing has been trained or logged yet."""

    name: str
    settings: TrainSettings
    dataset: Dataset
    machine: Machine
    augmentation: Augmentation
    explaining: Explaining
    fingerprint: str
    checkpoint: Checkpoint | None
    clock: "Clock"


def prepare(
    settings: TrainSettings,
    *,
    name: str | None = None,
    dataset: Dataset | None = None,
    reporter: Reporter | None = None,
) -> Prepared:
    """Loads the data set, unless it is passed, and resolves what `auto` means on this machine.

    Raises:
        SettingsError, DataError, CheckpointError: the training cannot start with these settings.
    """
    clock = Clock()
    machine = resolve_machine(settings)
    torch.set_num_threads(machine.threads)
    explaining = resolve_explaining(settings)
    with clock.measuring("data"):
        if dataset is None:
            dataset = load_dataset(settings, reporter or Reporter())
        mean, _ = dataset.statistics
    augmented = Augmentation(settings, settings.side, mean, machine.device, machine.memory_format)
    identity = fingerprint(settings, dataset, machine, augmented.sources)
    if settings.checkpoint not in (AUTO, NONE):
        check_place(user_path(settings.checkpoint))
    return Prepared(
        name=name or default_name(settings),
        settings=settings,
        dataset=dataset,
        machine=machine,
        augmentation=augmented,
        explaining=explaining,
        fingerprint=identity,
        checkpoint=find_checkpoint(settings, identity, reporter or Reporter()),
        clock=clock,
    )


def load_dataset(settings: TrainSettings, reporter: Reporter) -> Dataset:
    """The data set of the settings; the reporter says which one `auto` became."""
    name = resolve_name(settings.dataset, settings.data_dir, reporter.say)
    dataset = load(
        name,
        data_dir=settings.data_dir,
        image_size=settings.image_size,
        background_bias=settings.background_bias,
        train_images=settings.train_images,
        holdout=settings.holdout,
        progress=reporter.say,
    )
    sizes = ", ".join(
        f"{len(dataset.splits[split]):,} {split}" for split in ("train", "val", "test") if split in dataset.splits
    )
    reporter.say(f"data set {dataset.name}: {sizes} images ({dataset.source})")
    return dataset


def default_name(settings: TrainSettings) -> str:
    """The run's name in MLflow, unless it is given."""
    words = [f"cutout {settings.in_pixels['cutout_size']} px"] if settings.cutout else []
    words += [f"{name} {spelled(value)}" for name in OFF if (value := getattr(settings, name)) != OFF[name]]
    return f"{', '.join(words) or 'baseline'}, seed {settings.seed}"

"""Everything that a training needs, checked before anything is trained or logged."""

from dataclasses import dataclass

import torch

from ..augmentation.augmenters import augmentation
from ..augmentation.declared import Augmentation
from ..data.dataset import Dataset
from ..data.load import load, resolve_name
from ..errors import CannotStart
from ..explaining.layers_and_methods import Explaining, resolve_explaining
from ..explaining.trial import listed, tried
from ..models.foreign import network_of, normalisation
from ..settings.base import AUTO, NONE
from ..settings.command_line import fail
from ..settings.parts import NETWORKS
from ..settings.train import LARGEST_SIDE, T, TrainSettings
from ..system.files import user_path
from ..system.progress import Reporter
from ..training.checkpoints import Checkpoint, check_place
from ..training.machine import Machine, resolve_machine
from .carry_on import find_checkpoint
from .clock import Clock
from .fingerprint import fingerprint


@dataclass(frozen=True)
class Prepared:
    """Everything that a training needs, checked. Nothing has been trained or logged yet.

    `network` says in words how the network begins; empty for one of ours without weights.
    """

    name: str
    settings: TrainSettings
    dataset: Dataset
    machine: Machine
    network: str
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
        SettingsError, NetworkError, DataError, CheckpointError: the training cannot start with these settings.
    """
    clock = Clock()
    machine = resolve_machine(settings)
    torch.set_num_threads(machine.threads)
    settings = suited(settings)
    with clock.measuring("data"):
        if dataset is None:
            dataset = load_dataset(settings, reporter or Reporter())
        mean, _ = dataset.statistics
    explaining = resolve_explaining(settings, len(dataset.classes))
    identity = fingerprint(settings, dataset, machine)
    if settings.checkpoint not in (AUTO, NONE):
        check_place(user_path(settings.checkpoint))
    return Prepared(
        name=name or default_name(settings),
        settings=settings,
        dataset=dataset,
        machine=machine,
        network=network_in_words(settings, dataset),
        augmentation=augmentation(settings, settings.side, mean, machine.device, machine.memory_format),
        explaining=explaining,
        fingerprint=identity,
        checkpoint=find_checkpoint(settings, identity, reporter or Reporter()),
        clock=clock,
    )


def suited(settings: T) -> T:
    """The settings with images as the network's weights were made for, as far as `auto` leaves this to them.

    Raises:
        NetworkError: there is no such network, or its weights cannot be had.
        SettingsError: another option does not fit the size of the images.
    """
    ours = settings.model in NETWORKS and settings.weights == NONE
    if ours or AUTO not in (settings.image_size, settings.interpolation):
        return settings  # of a finished run, whose network may be gone
    _, _, side, interpolation = network_of(settings).images or ((), (), settings.side, "bicubic")
    values = {"image_size": min(side, LARGEST_SIDE), "interpolation": interpolation}
    return settings.with_values(**{name: value for name, value in values.items() if getattr(settings, name) == AUTO})


def print_layers(settings: TrainSettings) -> None:
    """Prints the layers that `cam_layers` can name; exits with code 2 if the network cannot be used."""
    try:
        print(listed(suited(settings)))
    except CannotStart as error:
        fail(settings.command, error.problems)


def network_in_words(settings: TrainSettings, dataset: Dataset) -> str:
    """How the network begins: its weights, what was replaced, and how images are normalised."""
    found = network_of(settings)
    if found.is_plain:
        return ""
    numbers = normalisation(settings, *(each.tolist() for each in dataset.statistics))
    mean, std = (" ".join(f"{number:.3g}" for number in three) for three in numbers)
    begins = f"{found.name}, {'random weights' if found.weights == NONE else f'weights {found.weights}'}"
    _, replaced = tried(settings, len(dataset.classes))
    images = f"images of {settings.side} pixels, normalised by means {mean} and deviations {std}"
    return ", ".join(filter(None, (begins, replaced, images)))


def load_dataset(settings: TrainSettings, reporter: Reporter) -> Dataset:
    """The data set of the settings; the reporter says which one `auto` became."""
    settings = suited(settings)
    name = resolve_name(settings.dataset, settings.data_dir, reporter.say)
    dataset = load(
        name,
        data_dir=settings.data_dir,
        image_size=settings.image_size,
        background_bias=settings.background_bias,
        train_images=settings.train_images,
        holdout=settings.holdout,
        interpolation=settings.interpolation,
        progress=reporter.say,
    )
    sizes = ", ".join(
        f"{len(dataset.splits[split]):,} {split}" for split in ("train", "val", "test") if split in dataset.splits
    )
    reporter.say(f"data set {dataset.name}: {sizes} images ({dataset.source})")
    return dataset


def default_name(settings: TrainSettings) -> str:
    """The run's name in MLflow, unless it is given."""
    variant = f"cutout {settings.cutout_size} px" if settings.cutout else "baseline"
    return f"{variant}, seed {settings.seed}"

"""Everything that a training needs, checked before anything is trained or logged; and its clock and checkpoint."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch

from cam_core.text import legible

from ..augmentation.whole_batches import Augmentation
from ..data.dataset import Dataset
from ..data.load import load, resolve_name, usual_side
from ..errors import CannotStart
from ..explaining.layers_and_methods import Explaining, resolve_explaining
from ..explaining.trial import batch_that_fits, listed, tried
from ..models.foreign import network_of, normalisation
from ..settings.base import AUTO, NONE, spelled
from ..settings.command_line import fail
from ..settings.parts import NETWORKS, is_foreign
from ..settings.recipes import AUGMENTATIONS_OFF, PLAIN, RECIPES, find, side_of
from ..settings.train import T, TrainSettings
from ..settings.train_options import LARGEST_SIDE
from ..system.files import user_path
from ..system.progress import Reporter
from ..training.checkpoints import AUTO_EVERY_S, Checkpoint, CheckpointError, Keeper, check_place, of_this_training
from ..training.machine import Machine, resolve_machine
from ..training.optimisers import check_arguments
from .fingerprint import fingerprint


@dataclass
class Clock:
    """Wall and CPU seconds of each phase."""

    wall: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measuring(self, phase: str) -> Iterator[None]:
        """Adds the time spent inside to `phase`."""
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall[phase] = self.wall.get(phase, 0.0) + time.perf_counter() - wall
        self.cpu[phase] = self.cpu.get(phase, 0.0) + time.process_time() - cpu

    def add(self, before: Mapping[str, Mapping[str, float]]) -> None:
        """Adds the training seconds of the run that this one resumes."""
        for own, earlier in ((self.wall, before["wall"]), (self.cpu, before["cpu"])):
            own["train"] = own.get("train", 0.0) + earlier.get("train", 0.0)

    def metrics(self) -> dict[str, float]:
        """The seconds by metric: `time/<phase>_s` and `time/<phase>_cpu_s`."""
        return {f"time/{phase}_s": seconds for phase, seconds in self.wall.items()} | {
            f"time/{phase}_cpu_s": seconds for phase, seconds in self.cpu.items()
        }


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
    clock: Clock


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
    check_arguments(settings)
    torch.set_num_threads(machine.threads)
    settings = suited(settings)
    with clock.measuring("data"):
        if dataset is None:
            say_batch(settings, reporter or Reporter())
            dataset = load_dataset(settings, reporter or Reporter())
        mean, _ = dataset.statistics
    explaining = resolve_explaining(settings, len(dataset.classes))
    augmented = Augmentation(settings, settings.side, mean, machine.device, machine.memory_format)
    identity = fingerprint(settings, dataset, machine, augmented.sources)
    if settings.checkpoint not in (AUTO, NONE):
        check_place(user_path(settings.checkpoint))
    return Prepared(
        name=name or default_name(settings),
        settings=settings,
        dataset=dataset,
        machine=machine,
        network=network_in_words(settings, dataset),
        augmentation=augmented,
        explaining=explaining,
        fingerprint=identity,
        checkpoint=find_checkpoint(settings, identity, reporter or Reporter()),
        clock=clock,
    )


def suited(settings: T) -> T:
    """The settings with images and a batch that suit the network, as far as `auto` leaves this open.

    Raises:
        NetworkError, DataError, SettingsError: as `with_images`.
    """
    settings = with_images(settings)
    batch = batch_that_fits(settings)
    return settings if batch == settings.batch_size else settings.with_values(batch_size=batch)


def say_batch(settings: TrainSettings, reporter: Reporter) -> None:
    """Says which batch `auto` chose, unless it is that of the recipe."""
    values = find(settings.recipe).values
    if "batch_size" not in settings.given and settings.batch_size != values["batch_size"]:
        reporter.say(
            f"batch_size={settings.batch_size}, chosen for images of {settings.side} pixels; "
            f"the {values['batch_size']} of recipe {settings.recipe} are for {side_of(values)} pixels"
        )


def with_images(settings: T) -> T:
    """The settings with images as the network's weights were made for, as far as `auto` leaves this to them.

    Without such weights, images get a size near that of one's own images, if the network is none of ours.

    Raises:
        NetworkError: there is no such network, or its weights cannot be had.
        SettingsError: another option does not fit the size of the images.
    """
    ours = settings.model in NETWORKS and settings.weights == NONE
    if ours or AUTO not in (settings.image_size, settings.interpolation, settings.centre_crop):
        return settings  # of a finished run, whose network may be gone
    made_for = network_of(settings).images
    side = made_for.image_size if made_for else _usual_side(settings)
    values = {
        "image_size": min(side, LARGEST_SIDE),
        "interpolation": made_for.interpolation if made_for else "bicubic",
        "centre_crop": made_for.centre_crop if made_for else 1.0,
    }
    return settings.with_values(**{name: value for name, value in values.items() if getattr(settings, name) == AUTO})


def _usual_side(settings: TrainSettings) -> int:
    return usual_side(settings.dataset) if is_foreign(settings.model) and settings.image_size == AUTO else settings.side


def print_layers(settings: TrainSettings) -> None:
    """Prints the layers that `cam_layers` can name; exits with code 2 if the network cannot be used."""
    try:
        print(listed(with_images(settings)))
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
    settings = with_images(settings)
    name = resolve_name(settings.dataset, settings.data_dir, reporter.say)
    dataset = load(
        name,
        data_dir=settings.data_dir,
        image_size=settings.image_size,
        background_bias=settings.background_bias,
        train_images=settings.train_images,
        holdout=settings.holdout,
        skip_bad=settings.on_bad == "skip",
        interpolation=settings.interpolation,
        centre_crop=settings.centre_crop,
        progress=reporter.say,
        bar=reporter.bar,
    )
    sizes = ", ".join(
        f"{len(dataset.splits[split]):,} {split}" for split in ("train", "val", "test") if split in dataset.splits
    )
    side = settings.side
    reporter.say(f"data set {dataset.name}: {sizes} images of {side} x {side} pixels ({dataset.source})")
    if unknown := sorted({sign for name in dataset.classes for sign in name if legible(sign) not in (sign, " ")}):
        escape, some = legible(unknown[0]), "".join(unknown[:5])
        reporter.say(
            f"no font here has {some}: pictures show escapes such as {escape}; the Noto fonts have all alphabets"
        )
    return dataset


def default_name(settings: TrainSettings) -> str:
    """The run's name in MLflow, unless it is given."""
    words = [f"cutout {settings.in_pixels['cutout_size']} px"] if settings.cutout else []
    usual = RECIPES[settings.recipe].values if settings.recipe in RECIPES else PLAIN
    words += [
        f"{name} {spelled(value)}" for name in AUGMENTATIONS_OFF if (value := getattr(settings, name)) != usual[name]
    ]
    network = [] if settings.model == usual["model"] else [settings.model.rpartition("/")[2]]
    return f"{', '.join([*network, *(words or ['baseline'])])}, seed {settings.seed}"


def keeper_of(prepared: Prepared) -> Keeper | None:
    """The writer of the checkpoints that the settings ask for, or None."""
    where = prepared.settings.checkpoint
    if where == AUTO:
        return Keeper(_own_checkpoint(prepared.settings, prepared.fingerprint), AUTO_EVERY_S, passing=True)
    return None if where == NONE else Keeper(user_path(where), 0.0, passing=False)


def find_checkpoint(settings: TrainSettings, fingerprint: str, reporter: Reporter) -> Checkpoint | None:
    """The checkpoint from which the settings resume, or None.

    Raises:
        CheckpointError: the named file is no checkpoint of this training.
    """
    if settings.resume == NONE:
        return None
    named = settings.checkpoint if settings.resume == AUTO else settings.resume
    if named not in (AUTO, NONE):
        path = user_path(named)
        if settings.resume == AUTO and not path.exists():
            return None
        return of_this_training(path, fingerprint, settings.as_params())
    own = _own_checkpoint(settings, fingerprint)
    try:
        return of_this_training(own, fingerprint, settings.as_params()) if own.exists() else None
    except CheckpointError as error:
        reporter.say(f"starts over: {error}")
        return None


def _own_checkpoint(settings: TrainSettings, fingerprint: str) -> Path:
    return user_path(settings.data_dir) / "checkpoints" / f"{fingerprint}.pt"

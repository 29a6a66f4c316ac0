"""The settings of finished runs, and whether these runs can be compared."""

import shlex
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from textwrap import shorten

from ..runs.contents import RunConfig, config, maps
from ..settings.base import NONE, SettingsError
from ..settings.command_line import words_of
from ..settings.recipes import RECIPES
from ..settings.train import OF_MACHINE, TrainSettings
from ..settings.trainings import SHARED
from ..tracking.locations import TrackingError
from ..tracking.reading import FinishedRun

LISTED = 3  # runs named in one message
# Options that two runs of one variant may differ in.
NO_VARIANT = {
    *SHARED,
    *OF_MACHINE,
    *("recipe", "gallery_size", "cam_layers", "track_test"),
}


@dataclass(frozen=True)
class Trained:
    """A finished training and its settings."""

    run: FinishedRun
    config: RunConfig

    @property
    def label(self) -> str:
        """Its name in messages."""
        return f"{self.run.id[:8]} ({self.run.name})"

    @property
    def settings(self) -> TrainSettings:
        """Its options, as they were given."""
        return self.config.settings

    @cached_property
    def options(self) -> dict[str, str]:
        """What defines its variant: every option that affects the network, except data and seed."""
        left_out = self.settings.idle().keys() | NO_VARIANT
        texts = self.settings.as_params() | self.settings.in_pixels | {"precision": self.config.machine.precision}
        if self.settings.augmentation != NONE:  # with the digest of its files
            texts["augmentation"] = self.config.augmentation.partition(": ")[0]
        return {name: text for name, text in texts.items() if name not in left_out}

    @property
    def identity(self) -> Hashable:
        """The same for all runs of one variant."""
        return tuple(self.options.items())

    @property
    def unusual(self) -> tuple[bool, int]:
        """A sort key: first the runs without Cutout, then those with the fewest changes to their recipe."""
        recipe = self.settings.recipe if self.settings.recipe in RECIPES else "fast"  # a recipe file may have gone
        known = TrainSettings.of(recipe=recipe, image_size=self.settings.image_size)
        usual = known.as_params() | known.in_pixels
        changed = sum(value != usual[name] for name, value in self.options.items())
        return self.settings.cutout, changed

    @property
    def data(self) -> str:
        """The data it was trained on, in words."""
        used = self.config.dataset
        named = ["image_size", "train_images"] + ["background_bias"] * (used.name == "scenes")
        options = ", ".join(f"{name}={getattr(self.settings, name)}" for name in named)
        return f"{used.name} {used.digest[:8]} ({options})"

    def command(self, seed: int) -> str:
        """The command that trains the same with another seed."""
        recipe, batch = RECIPES.get(self.settings.recipe), self.settings.batch_size
        # A comparison may have chosen the batch for all its variants.
        chosen = {"batch_size": str(batch)} if recipe and recipe.values["batch_size"] != batch else {}
        options = {**chosen, **self.config.given, "seed": str(seed)}
        options = {name: value for name, value in options.items() if name not in ("checkpoint", "resume")}
        return shlex.join(["python", "-m", "experiments.train", *words_of(options)])


def comparable(option: str, runs: Sequence[FinishedRun]) -> list[Trained]:
    """The runs with their settings; checks that they have the same data, images, CAM method and layers.

    Raises:
        SettingsError: they have not.
    """
    trained = [trained_of(option, run) for run in runs]
    words: dict[str, str] = {}  # one for each digest: the same data may be asked for in several ways
    data = [(one, words.setdefault(one.config.dataset.digest, one.data)) for one in trained]
    _refuse_mixed(option, "were trained on different data", data, "compare runs on the same data")
    methods = [(one, one.config.method) for one in trained]
    _refuse_mixed(option, "were explained by different methods", methods, "compare runs of one cam_method")
    for model in dict.fromkeys(one.settings.model for one in trained):
        layers = [(one, " ".join(one.config.layers)) for one in trained if one.settings.model == model]
        _refuse_mixed(option, f"explain different layers of {model}", layers, "compare runs with the same cam_layers")
    arrays = [_explained(option, one) for one in trained]
    for name, what in (("indices", "different probe images"), ("sample_indices", "different samples of test images")):
        images = [(one, chosen[name]) for one, chosen in zip(trained, arrays, strict=True)]
        _refuse_mixed(option, f"explain {what}", images, "train them again with one version of the suite")
    return trained


def trained_of(option: str, run: FinishedRun) -> Trained:
    """Reads the settings of the run.

    Raises:
        SettingsError: another version logged them in a way that this one cannot read.
    """
    with refused_as(option):
        return Trained(run, config(run))


def _explained(option: str, trained: Trained) -> dict[str, str]:
    """The test images that the run's maps explain, as text."""
    with refused_as(option):
        found = maps(trained.run)
    chosen = {"indices": found.indices.tolist(), "sample_indices": found.sample_indices.tolist()}
    return {name: f"{len(indices)} images {joined(indices)}" for name, indices in chosen.items()}


@contextmanager
def refused_as(option: str) -> Iterator[None]:
    """Turns a TrackingError into a SettingsError of the option."""
    try:
        yield
    except TrackingError as error:
        raise SettingsError([f"{option}: {error}"]) from error


def _refuse_mixed(option: str, trouble: str, values: Sequence[tuple[Trained, str]], cure: str) -> None:
    """Checks that all runs have the same value."""
    runs: dict[str, list[str]] = {}
    for trained, value in values:
        runs.setdefault(value, []).append(trained.label)
    if len(runs) > 1:
        found = [f"{shorten(value, 90, placeholder=' ...')}: {listed_runs(labels)}" for value, labels in runs.items()]
        raise SettingsError([f"{option}: these runs {trouble}: {'; '.join(found)}; {cure}"])


def listed_runs(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - LISTED} more" if len(labels) > LISTED else ""
    return ", ".join(labels[:LISTED]) + more


def mixed_settings(name: str, group: Sequence[Trained]) -> Iterator[str]:
    first = group[0]
    for other in group[1:]:
        differing = [
            f"{option}={value} and {other.options[option]}"
            for option, value in first.options.items()
            if other.options.get(option, value) != value
        ]
        if differing:
            yield f"runs: {name!r} mixes {first.label} and {other.label}, which differ in {', '.join(differing)}"


def joined(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))

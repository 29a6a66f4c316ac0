"""What a finished run was trained with, and whether two such runs can be compared."""

import shlex
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from textwrap import shorten
from typing import Any

from ..settings.base import SettingsError
from ..settings.recipes import PLAIN, RECIPES
from ..settings.train import TrainSettings
from ..settings.trainings import SHARED
from ..tracking.locations import TrackingError
from ..tracking.reading import FinishedRun

LISTED = 3  # runs named in one message
# Options that two runs of one variant may differ in.
NO_VARIANT = {
    *SHARED,
    *("recipe", "gallery_size", "cam_layers", "track_test"),
    *("device", "channels_last", "compile", "threads", "checkpoint", "resume"),
}


@dataclass(frozen=True)
class Trained:
    """A finished training and what its `config.json` says of it."""

    run: FinishedRun
    config: Mapping[str, Any]
    settings: TrainSettings

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"{self.run.id[:8]} ({self.run.name})"

    @cached_property
    def options(self) -> dict[str, str]:
        """What makes it this variant: every option with an effect on the network, but for the data and the seed."""
        left_out = self.settings.idle().keys() | NO_VARIANT
        return {name: value for name, value in self.settings.as_params().items() if name not in left_out}

    @property
    def identity(self) -> Hashable:
        """The same for all runs of one variant."""
        return tuple(self.options.items())

    @property
    def unusual(self) -> tuple[bool, int]:
        """Sorts the run without Cutout, nearest to its recipe, to the front."""
        usual = TrainSettings.of(recipe=self.settings.recipe).as_params()  # a recipe file may have gone: see _trained
        changed = sum(value != usual[name] for name, value in self.options.items())
        return self.settings.cutout, changed

    @property
    def data(self) -> str:
        """The data it was trained on, in words."""
        used = self.config["dataset"]
        named = ["image_size", "train_images"] + ["background_bias"] * (used["name"] == "scenes")
        options = ", ".join(f"{name}={getattr(self.settings, name)}" for name in named)
        return f"{used['name']} {used['digest'][:8]} ({options})"

    def command(self, seed: int) -> str:
        """What trains the same with another seed."""
        options = self.config["given"] | {"seed": seed}
        options = {name: value for name, value in options.items() if name not in ("checkpoint", "resume")}
        return shlex.join(["python", "-m", "experiments.train", *_words(options)])


def _words(options: Mapping[str, object]) -> Iterator[str]:
    for name, value in options.items():
        yield from (f"--{name}", str(value))


def comparable(option: str, runs: Sequence[FinishedRun]) -> list[Trained]:
    """The runs, which were trained on the same data and explained the same images in the same way."""
    trained = [trained_of(option, run) for run in runs]
    words: dict[str, str] = {}  # one for each digest: the same data may be asked for in several ways
    data = [(one, words.setdefault(one.config["dataset"]["digest"], one.data)) for one in trained]
    _refuse_mixed(option, "were trained on different data", data, "compare runs on the same data")
    methods = [(one, one.run.params["resolved.cam_method"]) for one in trained]
    _refuse_mixed(option, "were explained by different methods", methods, "compare runs of one cam_method")
    for model in dict.fromkeys(one.settings.model for one in trained):
        layers = [(one, one.run.params["resolved.layers"]) for one in trained if one.settings.model == model]
        _refuse_mixed(option, f"explain different layers of {model}", layers, "compare runs with the same cam_layers")
    arrays = [_explained(option, one) for one in trained]
    for name, what in (("indices", "different probe images"), ("sample_indices", "different samples of test images")):
        images = [(one, chosen[name]) for one, chosen in zip(trained, arrays, strict=True)]
        _refuse_mixed(option, f"explain {what}", images, "train them again with one version of the suite")
    return trained


def trained_of(option: str, run: FinishedRun) -> Trained:
    """The run with its settings as they were resolved; options that came later are off.

    Every option is known, so the recipe decides nothing any more: one of a file stands as `fast`.
    """
    try:
        config = run.read_json("config.json")
        known = {name: value for name, value in config["settings"].items() if name in TrainSettings.model_fields}
        recipe = known.get("recipe") if known.get("recipe") in RECIPES else "fast"
        resolved = {"recipe": recipe, "precision": config["machine"]["precision"]}
        settings = TrainSettings.of(**{**PLAIN, **known, **resolved})
    except (TrackingError, SettingsError, KeyError) as error:
        raise _outdated(option, run, f"config.json: {' '.join(str(error).split())}") from error
    return Trained(run, config, settings)


def _explained(option: str, trained: Trained) -> dict[str, str]:
    """Which test images the run's maps are of, in words."""
    try:
        arrays = trained.run.read_arrays("maps.npz")
        found = {name: arrays[name].tolist() for name in ("indices", "sample_indices")}
    except (TrackingError, KeyError) as error:
        raise _outdated(option, trained.run, f"maps.npz: {error}") from error
    return {name: f"{len(indices)} images {joined(indices)}" for name, indices in found.items()}


def _outdated(option: str, run: FinishedRun, why: str) -> SettingsError:
    return SettingsError(
        [f"{option}: run {run.id[:8]} ({run.name}) was not logged as this version does it ({why}): train it again"]
    )


def _refuse_mixed(option: str, trouble: str, values: Sequence[tuple[Trained, str]], cure: str) -> None:
    """Nothing where all runs have one value."""
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

"""The trainings that a comparison of variants needs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .base import SettingsError
from .compare import CompareSettings
from .train import TrainSettings
from .variants import Variant, parse_variants

# All variants of a comparison must share these options, so that they are judged on the same images.
SHARED = (
    "dataset",
    "data_dir",
    "background_bias",
    "on_bad",
    "image_size",
    "interpolation",
    "centre_crop",
    "train_images",
    "holdout",
    "seed",
    "cam_method",
    "cam_methods",
    "cam_layers",
)


@dataclass(frozen=True)
class Training:
    """One training of a comparison: a variant with one seed."""

    variant: str
    settings: TrainSettings

    @property
    def name(self) -> str:
        """The name of its run."""
        return f"{self.variant}, seed {self.settings.seed}"


def plan(settings: CompareSettings) -> list[Training]:
    """Every training that the comparison needs, variant by variant, seed by seed.

    Raises:
        SettingsError: lists the problems of all variants; also raised if a variant changes an option in `SHARED`, and
            if an option has no effect.
    """
    common = {name: value for name, value in settings.given.items() if name in TrainSettings.model_fields}
    problems, trainings = [], []
    variants = parse_variants(settings.variants)
    for variant in variants:
        shared = [name for name in variant.options if name in SHARED]
        problems += [f"variants: {variant.name}: {name} must be the same in all variants" for name in shared]
        for seed in range(settings.seed, settings.seed + settings.seeds):
            options = {**common, **variant.options, "seed": seed}
            try:
                trainings.append(Training(variant.name, TrainSettings.of(**options)))
            except SettingsError as error:
                problems += [f"variants: {variant.name}: {problem}" for problem in error.problems]
    for name in SHARED:
        found = {str(getattr(training.settings, name)).lower(): training.variant for training in trainings}
        if name != "seed" and len(found) > 1:
            words = ", ".join(f"{value} in {variant}" for value, variant in found.items())
            problems.append(
                f"variants: {name} must be the same in all variants, not {words}; give one {name}=... for all variants"
            )
    if problems := problems or _without_effect(common, variants, trainings):
        raise SettingsError(list(dict.fromkeys(problems)))
    return trainings


def _without_effect(common: Mapping[str, str], variants: Sequence[Variant], trainings: Sequence[Training]) -> list[str]:
    """A line for each option of a variant that has no effect there, and for each common one that has none anywhere."""
    problems = []
    idle = {training.variant: training.settings.without_effect() for training in trainings}
    for variant in variants:
        own = {name: line for name, line in idle[variant.name].items() if name in variant.options}
        problems += [f"variants: {variant.name}: {line}" for line in own.values()]
    for name, text in common.items():
        lines = [idle[variant.name].get(name, "") for variant in variants if name not in variant.options]
        if not lines:
            problems.append(f"{name}={text}: has no effect, because every variant sets {name}; leave it out")
        elif all(lines):
            problems.append(lines[0])
    return problems

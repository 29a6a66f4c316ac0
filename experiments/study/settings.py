"""The options of a study of the Cutout holes: its objectives, space and baselines."""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from ..errors import did_you_mean
from ..explaining.map_measures import MAP_MEASURES
from ..settings.base import AUTO, NONE, SettingsError, read_by
from ..settings.compare import study_name
from ..settings.recipes import PUBLISHED_CUTOUT
from ..settings.train import OF_MACHINE, TrainSettings
from ..settings.variants import OWN, Variant, named_options
from ..system.secrets import without_password
from .addresses import check_storage
from .race import LEAST_TRIALS
from .space import FILL, HOLES, P_STEP, PLACEMENT, PROBABILITY, SIZE, Options, Space

FILLS = ("mean", "black", "random", "noise")
PLACEMENTS = ("published", "inside")
Sampler = Literal["tpe", "gp", "random", "grid", "brute_force", "qmc", "cmaes"]
Pruner = Literal["none", "median", "hyperband", "successive_halving", "patient"]
HOLE_OPTIONS = ("cutout", HOLES, SIZE, PROBABILITY, FILL, PLACEMENT)
"""The options of a training that a study varies. All other options are the same in all trials."""

NO_CUTOUT, PUBLISHED = "no cutout", "published hole"
"""Names of the baselines of every study, apart from `OWN`."""

Direction = Literal["maximize", "minimize"]
SCORES: Mapping[str, Direction] = {"val/accuracy": "maximize", "val/loss": "minimize"}

MEASURES: Mapping[str, Direction] = {
    measure.name: "maximize" if measure.direction == "higher" else "minimize"
    for measure in MAP_MEASURES.values()
    if measure.direction != "neither"
}
"""Measures of maps that can be an objective, with the direction that a study takes for better."""

_CAM = re.compile(r"cam/(?P<layer>[\w.]+)/(?P<measure>\w+)")


def direction(objective: str) -> Direction:
    """`maximize` or `minimize`.

    Raises:
        ValueError: the objective is unknown, of the test images, or no quality.
    """
    if objective in SCORES:
        return SCORES[objective]
    if objective.startswith("test/"):
        raise ValueError(f"{objective!r} is of the test images, on which nothing may be chosen; take val/accuracy")
    match = _CAM.fullmatch(objective)
    if match and match["measure"] in MEASURES:
        return MEASURES[match["measure"]]
    if match and match["measure"] in MAP_MEASURES:
        raise ValueError(
            f"{objective!r} is no objective: {match['measure']} is a size and no quality, neither more nor less of it "
            f"is better; take one of {', '.join(MEASURES)}"
        )
    hint = did_you_mean(match["measure"], list(MEASURES)) if match else did_you_mean(objective, list(SCORES))
    raise ValueError(
        f"{objective!r} is no objective: val/accuracy, val/loss or cam/<layer>/<measure>, "
        f"the measure one of {', '.join(MEASURES)}{hint}"
    )


def _check_objectives(text: str) -> None:
    names = [] if text == NONE else [name.strip() for name in text.split(",")]
    for name in names:
        direction(name)
    if text != NONE and not 2 <= len(set(names)) == len(names) <= 3:
        raise ValueError("must be none, or two or three different ones, such as val/accuracy,cam/layer3/focus")


def _whole_range(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,9})-(\d{1,9})", text)
    if not match or not int(match[1]) <= int(match[2]) <= 64 or not int(match[2]):
        raise ValueError("must be a range such as 0-4, from 0 (no Cutout) to 64")
    return int(match[1]), int(match[2])


def _share_range(text: str) -> tuple[float, float]:
    match = re.fullmatch(r"(\d*\.?\d+)-(\d*\.?\d+)", text)
    if not match or not 0 < float(match[1]) <= float(match[2]) <= 1:
        raise ValueError("must be a range of shares such as 0.125-0.75, above 0 and up to 1")
    return float(match[1]), float(match[2])


def _choices(text: str, known: Sequence[str]) -> tuple[str, ...]:
    words = tuple(text.split(","))
    for word in words:
        if word not in known:
            raise ValueError(f"{word!r} must be one of {', '.join(known)}{did_you_mean(word, known)}")
    if len(set(words)) < len(words):
        raise ValueError("contains a name twice; name each once")
    return words


class TuneSettings(TrainSettings):
    """Search the Cutout holes with Optuna, then compare the best with the baseline on fresh seeds.

    You can also give every option of a training. It is the same for all trials; options of the holes are for the
    baseline. Help for machines that work for a study which was started elsewhere:
    python -m experiments.tune worker --help
    python -m experiments.tune ray --help
    """

    command: ClassVar[str] = "python -m experiments.tune"

    study: Annotated[str, AfterValidator(study_name)] = Field(
        "cutout", description="name of the study; a study with this name continues where it stopped"
    )
    trials: int = Field(
        40,
        ge=1,
        le=100_000,
        description="number of all trainings of the study, those that confirm the winner included: 60 % search, 40 % "
        "confirm; interruptions do not change it",
    )
    hours: Annotated[float, Field(gt=0, le=10_000)] | Literal["none"] = Field(
        "none",
        description="time limit in hours: the search ends after 60 % of it, the rest is for confirming the winner",
    )
    workers: int = Field(1, ge=1, le=256, description="processes on this machine, which share its cores")
    storage: str = Field(
        "sqlite:///studies.db",
        description="where the study is stored: sqlite:///FILE, or postgresql://USER@HOST/DATABASE for many machines "
        "(put the password in PGPASSWORD or ~/.pgpass)",
    )
    confirm: bool = Field(
        True, description="train the best settings again with fresh seeds, and compare the winner with the baseline"
    )
    objective: Annotated[str, read_by(direction)] = Field(
        "val/accuracy",
        description="what the search improves, on validation images: val/accuracy, val/loss or cam/<layer>/<measure>",
    )
    objectives: Annotated[str, read_by(_check_objectives)] = Field(
        NONE,
        description="two or three objectives instead, such as val/accuracy,cam/layer3/focus; they give a Pareto front",
    )
    sampler: Sampler = Field("tpe", description="the method that proposes settings")
    pruner: Pruner = Field(
        "none",
        description="the method that stops bad trials early; this can spoil the result: strong holes learn slowly",
    )
    baselines: str = Field(
        NONE, min_length=1, description="more settings to try first, such as 'small: cutout=true cutout_size=8; ...'"
    )
    space_holes: Annotated[str, read_by(_whole_range)] = Field(
        "0-4", description="number of holes per image, as a range; 0 means no Cutout"
    )
    space_size: Annotated[str, read_by(_share_range)] = Field(
        "0.125-0.75", description="side of a hole as a share of the image's side, as a range"
    )
    space_shape: Literal["square", "rectangle"] = Field(
        "square", description="shape of the holes; with rectangle, height and width differ"
    )
    space_p: Annotated[str, read_by(_share_range)] = Field(
        "0.25-1", description=f"probability that an image gets its holes, as a range, in steps of {P_STEP}"
    )
    space_fill: Annotated[str, read_by(lambda text: _choices(text, FILLS))] = Field(
        ",".join(FILLS), description="the fills to try"
    )
    space_placement: Annotated[str, read_by(lambda text: _choices(text, PLACEMENTS))] = Field(
        ",".join(PLACEMENTS), description="the placements of holes to try"
    )
    trial_models: bool = Field(False, description="keep the model of every trial, not only those of confirmed trials")
    heartbeat: float = Field(
        60.0,
        ge=1,
        le=3600,
        description="seconds between two signs of life of a worker; a worker counts as lost after five times as long",
    )

    @classmethod
    def shown(cls, name: str, value: object) -> str:
        """The value as messages show it: the storage without its password."""
        return without_password(str(value)) if name == "storage" else super().shown(name, value)

    @property
    def goals(self) -> tuple[str, ...]:
        """The objectives; the first one chooses the winner."""
        if self.objectives == NONE:
            return (self.objective,)
        return tuple(name.strip() for name in self.objectives.split(","))

    @property
    def directions(self) -> tuple[Direction, ...]:
        """`maximize` or `minimize`, one for each objective."""
        return tuple(direction(name) for name in self.goals)

    @property
    def space(self) -> Space:
        """The space that is searched."""
        small, large = (max(1, round(share * self.side)) for share in _share_range(self.space_size))
        rare, often = (round(round(share / P_STEP) * P_STEP, 2) or P_STEP for share in _share_range(self.space_p))
        return Space(
            _whole_range(self.space_holes),
            (small, large),
            self.space_shape == "rectangle",
            (rare, often),
            _choices(self.space_fill, FILLS),
            _choices(self.space_placement, PLACEMENTS),
            self.side,
        )

    @property
    def enumerates(self) -> bool:
        """Whether the sampler goes through the points of the space, so that the search has an end."""
        return self.sampler in ("grid", "brute_force")

    @property
    def own_holes(self) -> Options:
        """The holes of the training that you would do without a study. All gains are measured against it."""
        return _holes(self)

    def baseline_options(self) -> dict[str, Options]:
        """The settings that are tried first, by name, each once; the first is `OWN`.

        Raises:
            SettingsError: `baselines` contains a mistake.
        """
        published = _holes(TrainSettings.of(**{**PUBLISHED_CUTOUT, "cutout": True, "image_size": self.image_size}))
        named: dict[str, Options] = {OWN: self.own_holes, NO_CUTOUT: {"cutout": False}, PUBLISHED: published}
        by_hand = [] if self.baselines == NONE else named_options(self.baselines, "baselines")
        found: dict[str, Options] = {}
        for name, options in (named | {variant.name: self._holes_of(variant) for variant in by_hand}).items():
            if options not in found.values():
                found[name] = options
        return found

    def _holes_of(self, variant: Variant) -> Options:
        others = [name for name in variant.options if name not in HOLE_OPTIONS]
        if others:
            wrong = f"baselines: {variant.name}: {others[0]} is the same in all trials"
            raise SettingsError([f"{wrong}; a baseline may set {', '.join(HOLE_OPTIONS)}"])
        given = {name: getattr(self, name) for name in type(self).model_fields if name in TrainSettings.model_fields}
        try:
            settings = TrainSettings.of(**given | dict(variant.options))
            if idle := [line for name, line in settings.without_effect().items() if name in variant.options]:
                raise SettingsError(idle)
        except SettingsError as error:
            raise SettingsError([f"baselines: {variant.name}: {problem}" for problem in error.problems]) from None
        return _holes(settings)

    @model_validator(mode="after")
    def _can_be_kept(self) -> "TuneSettings":
        # Not at the field: its errors would repeat what was typed.
        check_storage(self.storage)
        return self

    @model_validator(mode="after")
    def _makes_a_study(self) -> "TuneSettings":
        if self.study == NONE:
            raise ValueError(f"study={NONE}: means no study in `compare`; give the study another name")
        if self.confirm and self.trials < LEAST_TRIALS:
            raise ValueError(
                f"trials={self.trials}: too few for a search and a confirmation; give {LEAST_TRIALS} or more, "
                "or add confirm=false for a search only"
            )
        if self.objectives != NONE and self.objective != "val/accuracy":
            raise ValueError(f"objective={self.objective}: objectives={self.objectives} is given too; give only one")
        if self.objectives != NONE and self.pruner != "none":
            raise ValueError(f"pruner={self.pruner}: works with one objective only; leave out pruner or objectives")
        if self.pruner != "none" and self.objective.startswith("cam/"):
            raise ValueError(f"pruner={self.pruner}: maps are measured only after the last epoch; leave out pruner")
        if self.sampler == "cmaes" and self.objectives != NONE:
            raise ValueError("sampler=cmaes: works with one objective only; take tpe or gp, or leave out objectives")
        if not self.holdout:
            raise ValueError("holdout=false: leaves no validation images to search on; add holdout=true")
        for name in ("checkpoint", "resume"):
            if getattr(self, name) not in (AUTO, NONE):
                raise ValueError(f"{name}={getattr(self, name)}: a study has many trainings; take auto or none")
        return self

    def without_effect(self) -> dict[str, str]:
        """Empty: an option without effect in the baseline may have one in a trial."""
        return {}

    def definition(self) -> dict[str, str]:
        """The options that make two studies of one name the same: those that decide the trials and their scores."""
        machine = OF_MACHINE | {"precision", "augment_by"}
        own = {"study", "trials", "hours", "workers", "storage", "confirm", "trial_models", "heartbeat", "data_dir"}
        return {name: value for name, value in self.as_params().items() if name not in machine | own}


def _holes(settings: TrainSettings) -> Options:
    """The options of the holes, their sizes in pixels."""
    holes = {name: getattr(settings, name) for name in HOLE_OPTIONS} | {SIZE: settings.in_pixels[SIZE]}
    return holes if settings.cutout else {"cutout": False}


def common_options(settings: TuneSettings) -> dict[str, str]:
    """The options of a training that all trials share, as they were given."""
    names = TrainSettings.model_fields.keys() - {"seed", *HOLE_OPTIONS}
    return {name: text for name, text in settings.given.items() if name in names}

"""The settings of a study of the Cutout holes, and what follows from them before anything is trained."""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from ..errors import did_you_mean
from ..settings.base import AUTO, NONE, SettingsError
from ..settings.compare import study_name
from ..settings.recipes import PUBLISHED_CUTOUT
from ..settings.train import TrainSettings
from ..settings.variants import OWN, Variant, named_options
from .addresses import check_storage, without_password
from .objectives import checked_objective, checked_objectives, direction
from .race import LEAST_TRIALS
from .space import FILL, HOLES, P_STEP, PLACEMENT, PROBABILITY, SIZE, Options, Space

FILLS = ("mean", "black", "random", "noise")
PLACEMENTS = ("published", "inside")
Sampler = Literal["tpe", "gp", "random", "grid", "brute_force", "qmc", "cmaes"]
Pruner = Literal["none", "median", "hyperband", "successive_halving", "patient"]
HOLE_OPTIONS = ("cutout", HOLES, SIZE, PROBABILITY, FILL, PLACEMENT)
"""The options of a training that a study varies; everything else is the same in all of its trials."""


NO_CUTOUT, PUBLISHED = "no cutout", "published 16 px"
"""Names of baselines that every study has beside `OWN`."""


def _whole_range(text: str) -> str:
    match = re.fullmatch(r"(\d+)-(\d+)", text)
    if not match or not int(match[1]) <= int(match[2]) <= 64 or not int(match[2]):
        raise ValueError("must be a range such as 0-4, from 0 (no Cutout) to 64")
    return text


def _share_range(text: str) -> str:
    low, high = _shares(text)
    if not 0 < low <= high <= 1:
        raise ValueError("must be a range of shares such as 0.125-0.75, above 0 and up to 1")
    return text


def _shares(text: str) -> tuple[float, float]:
    match = re.fullmatch(r"(\d*\.?\d+)-(\d*\.?\d+)", text)
    return (float(match[1]), float(match[2])) if match else (0.0, 0.0)


def _choices(known: tuple[str, ...]) -> Any:
    def check(text: str) -> str:
        for word in text.split(","):
            if word not in known:
                raise ValueError(f"{word!r} is none of {', '.join(known)}{did_you_mean(word, list(known))}")
        if len(set(text.split(","))) < len(text.split(",")):
            raise ValueError("names one twice")
        return text

    return AfterValidator(check)


class TuneSettings(TrainSettings):
    """Search the Cutout holes with Optuna, then confirm the best against the baseline on fresh seeds.

    Every option of a training may be given too; it holds for all trials, those of its holes for the baseline.
    To work for a study that runs already: python -m experiments.tune worker --help
    """

    command: ClassVar[str] = "python -m experiments.tune"

    study: Annotated[str, AfterValidator(study_name)] = Field(
        "cutout", description="name; a study of this name carries on where it stopped"
    )
    trials: int = Field(
        40, ge=1, le=100_000, description="trainings in all, whatever stops and starts again; 60 % search, 40 % confirm"
    )
    hours: Annotated[float, Field(gt=0, le=10_000)] | Literal["none"] = Field(
        "none", description="stop searching after 60 % of this time and confirm in the rest"
    )
    workers: int = Field(1, ge=1, le=256, description="processes on this machine, which share its cores")
    storage: str = Field(
        "sqlite:///studies.db",
        description="where the study is kept: sqlite:///FILE, or postgresql://USER@HOST/DATABASE for several machines "
        "(password in PGPASSWORD or ~/.pgpass)",
    )
    confirm: bool = Field(True, description="train the best again with fresh seeds, and judge against the baseline")
    objective: Annotated[str, AfterValidator(checked_objective)] = Field(
        "val/accuracy",
        description="what is searched for, on validation images: val/accuracy, val/loss or cam/<layer>/<measure>",
    )
    objectives: Annotated[str, AfterValidator(checked_objectives)] = Field(
        NONE, description="several instead, such as val/accuracy,cam/layer3/focus: gives a Pareto front"
    )
    sampler: Sampler = Field("tpe", description="what proposes settings")
    pruner: Pruner = Field(
        "none", description="what stops bad trials early, which can destroy the result: strong holes learn slowly"
    )
    baselines: str = Field(
        NONE, min_length=1, description="more settings to try first, such as 'small: cutout=true cutout_size=8; ...'"
    )
    space_holes: Annotated[str, AfterValidator(_whole_range)] = Field(
        "0-4", description="holes of an image; 0: no Cutout"
    )
    space_size: Annotated[str, AfterValidator(_share_range)] = Field(
        "0.125-0.75", description="side of a hole as a share of the image's"
    )
    space_shape: Literal["square", "rectangle"] = Field("square", description="rectangle: height and width apart")
    space_p: Annotated[str, AfterValidator(_share_range)] = Field(
        "0.25-1", description=f"probability that an image gets its holes, in steps of {P_STEP}"
    )
    space_fill: Annotated[str, _choices(FILLS)] = Field(",".join(FILLS), description="what fills a hole")
    space_placement: Annotated[str, _choices(PLACEMENTS)] = Field(",".join(PLACEMENTS), description="where holes lie")
    trial_models: bool = Field(False, description="keep the model of every trial, not of the confirmed ones alone")
    heartbeat: float = Field(
        60.0,
        ge=1,
        le=3600,
        description="seconds between signs of life; who is silent for five times as long counts as dead",
    )

    @classmethod
    def shown(cls, name: str, value: object) -> str:
        """The value as messages may tell it: of the storage without its password."""
        return without_password(str(value)) if name == "storage" else super().shown(name, value)

    @property
    def goals(self) -> tuple[str, ...]:
        """The objectives, the first being the one that winners are chosen by."""
        if self.objectives == NONE:
            return (self.objective,)
        return tuple(name.strip() for name in self.objectives.split(","))

    @property
    def directions(self) -> tuple[str, ...]:
        """`maximize` or `minimize`, one for each objective."""
        return tuple(direction(name) for name in self.goals)

    @property
    def space(self) -> Space:
        """What is searched."""
        holes = tuple(int(part) for part in self.space_holes.split("-"))
        sizes = tuple(max(1, round(share * self.side)) for share in _shares(self.space_size))
        p = tuple(round(round(share / P_STEP) * P_STEP, 2) or P_STEP for share in _shares(self.space_p))
        return Space(
            (holes[0], holes[1]),
            (sizes[0], sizes[1]),
            self.space_shape == "rectangle",
            (p[0], p[1]),
            tuple(self.space_fill.split(",")),
            tuple(self.space_placement.split(",")),
            self.side,
        )

    @property
    def own_holes(self) -> Options:
        """The holes of the training that would be done without a study: what all gains are measured against."""
        return {name: getattr(self, name) for name in HOLE_OPTIONS} if self.cutout else {"cutout": False}

    def baseline_options(self) -> dict[str, Options]:
        """The settings that are tried before the search, by name, each once; the first is `OWN`.

        Raises:
            SettingsError: `baselines` cannot be read.
        """
        published = {**PUBLISHED_CUTOUT, "cutout": True}
        named: dict[str, Options] = {OWN: self.own_holes, NO_CUTOUT: {"cutout": False}}
        if int(str(published[SIZE])) < self.side:
            named[PUBLISHED] = published
        named |= {variant.name: self._holes_of(variant) for variant in self._by_hand()}
        found: dict[str, Options] = {}
        for name, options in named.items():
            if options not in found.values():
                found[name] = options
        return found

    def _by_hand(self) -> list[Variant]:
        return [] if self.baselines == NONE else named_options(self.baselines, "baselines")

    def _holes_of(self, variant: Variant) -> Options:
        others = [name for name in variant.options if name not in HOLE_OPTIONS]
        if others:
            wrong = f"baselines: {variant.name}: {others[0]} is the same in all trials"
            raise SettingsError([f"{wrong}; a baseline has {', '.join(HOLE_OPTIONS)}"])
        given = {name: getattr(self, name) for name in type(self).model_fields if name in TrainSettings.model_fields}
        try:
            settings = TrainSettings.of(**given | dict(variant.options))
            if idle := [line for name, line in settings.without_effect().items() if name in variant.options]:
                raise SettingsError(idle)
        except SettingsError as error:
            raise SettingsError([f"baselines: {variant.name}: {problem}" for problem in error.problems]) from None
        return {name: getattr(settings, name) for name in HOLE_OPTIONS} if settings.cutout else {"cutout": False}

    @model_validator(mode="after")
    def _can_be_kept(self) -> "TuneSettings":
        # Not with the field, whose errors repeat what was typed.
        check_storage(self.storage)
        return self

    @model_validator(mode="after")
    def _makes_a_study(self) -> "TuneSettings":
        if self.confirm and self.trials < LEAST_TRIALS:
            raise ValueError(
                f"trials={self.trials}: too few for a search and a confirmation, which take {LEAST_TRIALS} or more; "
                "add confirm=false for a search alone"
            )
        if self.objectives != NONE and self.objective != "val/accuracy":
            raise ValueError(
                f"objective={self.objective}: objectives={self.objectives} names them; leave one of them out"
            )
        if self.objectives != NONE and self.pruner != "none":
            raise ValueError(f"pruner={self.pruner}: cannot judge several objectives; leave out pruner or objectives")
        if self.pruner != "none" and self.objective.startswith("cam/"):
            raise ValueError(f"pruner={self.pruner}: maps are measured after the last epoch alone; leave out pruner")
        if self.sampler == "cmaes" and self.objectives != NONE:
            raise ValueError("sampler=cmaes: knows one objective alone; take tpe or gp, or leave out objectives")
        if not self.holdout:
            raise ValueError("holdout=false: leaves no validation images to search on; add holdout=true")
        for name in ("checkpoint", "resume"):
            if getattr(self, name) not in (AUTO, NONE):
                raise ValueError(f"{name}={getattr(self, name)}: a study trains several; take auto or none")
        return self

    def without_effect(self) -> dict[str, str]:
        """None: what is idle in the baseline may matter in a trial."""
        return {}

    def definition(self) -> dict[str, str]:
        """What makes two studies of one name the same: everything that decides what a trial is and how it is judged."""
        machine = {"device", "precision", "channels_last", "compile", "threads", "augment", "checkpoint", "resume"}
        own = {"study", "trials", "hours", "workers", "storage", "confirm", "trial_models", "heartbeat", "data_dir"}
        return {name: value for name, value in self.as_params().items() if name not in machine | own}


def common_options(settings: TuneSettings) -> dict[str, str]:
    """The options of a training that all trials share, as they were given."""
    names = TrainSettings.model_fields.keys() - {"seed", *HOLE_OPTIONS}
    return {name: text for name, text in settings.given.items() if name in names}

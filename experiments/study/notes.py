"""The notes on each Optuna trial, and on the Optuna study itself. Every key is the name of a field here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import optuna
from optuna.trial import FrozenTrial

from .space import Options

FINAL = -1
"""The round of the pairs that decide."""

N = TypeVar("N", bound="Noted")


@dataclass(frozen=True)
class Noted:
    """What is noted on a trial or a study of Optuna."""

    @classmethod
    def of(cls: type[N], place: FrozenTrial | optuna.Trial | optuna.Study) -> N:
        """The notes that are there now. A trial or study that is open copies all of them, a `FrozenTrial` does not."""
        return cls(**{name: value for name, value in place.user_attrs.items() if name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Notes(Noted):
    """What is noted on one trial of Optuna, which is one attempt at a training.

    Attributes:
        ticket: number of the training in its part of the study; None: the trial was not made by this suite.
        options: of the holes; None until they are proposed.
        seed: of the training; None until it is decided.
        baseline: name of the known setting, in the search.
        candidate: name of the setting that is confirmed; None in the search.
        stage: number of the confirmation that the training belongs to.
        round: of the race, from 0, or `FINAL`.
        label: name and holes, for people.
        worker: the process that works on the attempt, as `lost_workers.worker_name` writes it.
        attempt: 1 for the first attempt at the training.
        run: id of the MLflow run.
        reused: whether the run was finished before this study asked for it.
        metrics: of the run, those that the table of the study shows.
        near_chance: whether the network is hardly better than guessing.
        error: why the training failed, where its own settings are at fault.
        interrupted: whether the attempt was asked to stop, or failed through no fault of the training.
    """

    ticket: int | None = None
    options: Options | None = None
    seed: int | None = None
    baseline: str | None = None
    candidate: str | None = None
    stage: int | None = None
    round: int | None = None
    label: str | None = None
    worker: str | None = None
    attempt: int = 0
    run: str | None = None
    reused: bool = False
    metrics: Mapping[str, float] = field(default_factory=dict)
    near_chance: bool = False
    error: str | None = None
    interrupted: bool = False

    @property
    def attrs(self) -> dict[str, Any]:
        """As Optuna stores them; what has its default is left out."""
        return {name: value for name, value in vars(self).items() if value != getattr(Notes(), name)}

    @property
    def part(self) -> str:
        """The part of the study: `search`, `race 1`, `race 2`, ... or `final`."""
        if self.candidate is None or self.round is None:
            return "search"
        return "final" if self.round == FINAL else f"race {self.round + 1}"

    @property
    def name(self) -> str:
        """The name of the setting: of the candidate or the baseline, else `trial 7`."""
        return self.candidate or self.baseline or f"trial {self.ticket}"


@dataclass(frozen=True)
class StudyNotes(Noted):
    """What is noted on a study.

    Attributes:
        definition: the options that make two studies of one name the same; None: the study is new.
        given: the options that were typed for `tune`, without those of the machine.
        stages: fields of the `Budget` of each stage.
        parent_run: id of the MLflow run of the latest `tune`; None before the first.
        search_until: when the search ends, in seconds since 1970; None: no limit.
        until: when the study ends, likewise.
    """

    definition: Mapping[str, str] | None = None
    given: Mapping[str, str] = field(default_factory=dict)
    stages: Sequence[Mapping[str, int]] = ()
    parent_run: str | None = None
    search_until: float | None = None
    until: float | None = None


def ticket_of(trial: FrozenTrial) -> int | None:
    """The number of the ticket only: faster than all notes, for scans of thousands of trials."""
    return trial.user_attrs.get("ticket")


def write(place: optuna.Trial | optuna.Study, notes: N, **changes: Any) -> N:
    """Stores these notes on the trial or study, no others, and returns all of them with the changes.

    Raises:
        TypeError: there is no note of this name.
    """
    changed = replace(notes, **changes)
    for name, value in changes.items():
        place.set_user_attr(name, value)
    return changed

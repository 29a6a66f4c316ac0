"""The options of a comparison."""

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from .base import AUTO, NONE, read_by
from .train import TrainSettings
from .variants import NAME_PATTERN, alike

CHOOSING = ("runs", "filter", "study")
"""Each of these options chooses finished runs."""
FOR_FINISHED = (*CHOOSING, "without", "allow_same", "quiet", "data_dir")
"""Options that have an effect when finished runs are compared."""


def study_name(text: str) -> str:
    """The name of a study of `tune`, as it was given.

    Raises:
        ValueError: it contains characters that MLflow's filters or file names do not allow.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", text):
        raise ValueError("must be a name of at most 100 letters, digits, _ . -")
    return text


class CompareSettings(TrainSettings):
    """Train the missing runs of several variants, then compare the variants side by side.

    Every option of a training can be given too. It then applies to all variants.
    """

    command: ClassVar[str] = "python -m experiments.compare"

    variants: str = Field(
        "baseline,cutout",
        description="two to ten variants to compare, separated by ';' or ',': baseline, cutout, or "
        "'name: option=value option=value'",
    )
    seeds: int = Field(
        1, ge=1, le=100, description="seeds per variant, starting with seed; a verdict about the method needs 3 or more"
    )
    runs: Annotated[str, read_by(lambda text: parse_runs(text))] = Field(
        NONE,
        description="compare these finished runs and train nothing: MLflow run ids or their first six or more digits, "
        "such as '1a2b3c 77aa01'; or name the variants, as in 'plain=1a2b3c+9f8e7d cutout=77aa01+c0ffee'",
    )
    filter: str = Field(
        NONE,
        min_length=1,
        description="compare the finished runs that this MLflow search finds and train nothing, such as "
        "\"params.`resolved.epochs` = '6' AND tags.`camparison.dataset` = 'scenes'\"",
    )
    study: Annotated[str, AfterValidator(study_name)] = Field(
        NONE, description="compare the confirmed runs of this study of `tune` and train nothing"
    )
    without: Annotated[str, read_by(lambda text: parse_ids(text))] = Field(
        NONE,
        description="leave out these finished runs: their ids or first six or more digits; if variants are trained, no "
        "variant uses the seed of such a run",
    )
    retrain: Literal["none", "damaged"] = Field(
        "none", description="train a variant again if the files of its finished run are damaged or gone"
    )
    allow_same: bool = Field(
        False, description="allow two names for the same training, to test the comparison: no difference exists (A/A)"
    )
    quiet: bool = Field(
        False, description="print no progress and no table; for scripts, which can read comparison.json"
    )

    @property
    def left_out(self) -> tuple[str, ...]:
        """The beginnings of the run ids that `without` names."""
        return parse_ids(self.without)

    @property
    def finished_by(self) -> str:
        """The option that chooses finished runs, one of `CHOOSING`; empty if variants are trained."""
        return next((name for name in CHOOSING if getattr(self, name) != NONE), "")

    @model_validator(mode="after")
    def _chooses_once(self) -> "CompareSettings":
        chosen = [f"{name}={getattr(self, name)}" for name in CHOOSING if getattr(self, name) != NONE]
        if len(chosen) > 1:
            raise ValueError(f"{chosen[1]}: {chosen[0]} already chooses the runs; leave out one of the two")
        for name in ("checkpoint", "resume"):
            if getattr(self, name) not in (AUTO, NONE):
                raise ValueError(
                    f"{name}={getattr(self, name)}: a comparison trains several networks; use auto or none"
                )
        return self

    def without_effect(self) -> dict[str, str]:
        """One line for each training option given, if finished runs are compared.

        Empty if variants are trained: `plan` knows in which of them an option has an effect.
        """
        if not self.finished_by:
            return {}
        return {
            name: f"{name}={text}: has no effect on finished runs; leave out {name} or {self.finished_by}"
            for name, text in self.given.items()
            if name not in FOR_FINISHED
        }


def parse_ids(text: str) -> tuple[str, ...]:
    """The run ids in `text`, or their first digits, separated by spaces or commas; none for `none`.

    Raises:
        ValueError: one is no run id.
    """
    words = () if text == NONE else tuple(filter(None, re.split(r"[\s,]+", text)))
    if problems := _no_ids([words]):
        raise ValueError("; ".join(f"{word!r} is not a run id: 6 to 32 of 0-9 and a-f" for word in problems))
    return words


def parse_runs(text: str) -> dict[str | None, tuple[str, ...]]:
    """The run ids in `text`, or their first digits, by name of the variant; all under None if there are no names.

    `"1a2b3c 77aa01"` or `"plain=1a2b3c+9f8e7d, cutout=77aa01"`: words separated by spaces or commas. Either every word
    is an id, or every word is a name with its ids joined by +. Empty for `none`.

    Raises:
        ValueError: lists all problems in one line.
    """
    words = [] if text == NONE else list(filter(None, re.split(r"[\s,]+", text)))
    pairs = [(name, tuple(ids.split("+"))) for name, _, ids in (word.rpartition("=") for word in words if "=" in word)]
    bare = tuple(word for word in words if "=" not in word)
    problems = [
        f"{id_!r} is not a run id: 6 to 32 of 0-9 and a-f" for id_ in _no_ids([bare, *(ids for _, ids in pairs)])
    ]
    names = [name for name, _ in pairs]
    problems += [
        f"{name!r} is not a name; use up to 100 letters, digits, _ . -"
        for name in names
        if not NAME_PATTERN.fullmatch(name)
    ]
    problems += [f"{problem}; join the run ids of a variant with +" for problem in alike(names)]
    if pairs and bare:
        problems.append(f"{bare[0]!r} has no name; name all runs (name=id+id) or none of them")
    if not words and text != NONE:
        problems.append("must be none, or run ids")
    if problems:
        raise ValueError("; ".join(problems))
    named: dict[str | None, tuple[str, ...]] = dict(pairs)
    return {None: bare} if bare else named


def _no_ids(groups: Iterable[Sequence[str]]) -> list[str]:
    return [word for group in groups for word in group if not re.fullmatch("[0-9a-f]{6,32}", word)]

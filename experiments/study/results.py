"""What a study found: the table of its trainings, how its candidates stand, and the verdict."""

import math
import statistics as numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pandas as pd
from optuna.trial import TrialState

from ..evidence.differences import ACCURACY, Difference, Quantity, paired_difference
from ..evidence.sentences import sentence
from ..settings.variants import OWN
from .agenda import FINAL, Agenda, Candidate, part_of
from .ledger import Ledger, Ticket
from .settings import TuneSettings
from .space import Options, label

_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "stopped early",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


def quantity(goal: str, direction: str) -> Quantity:
    """What statements and charts need to know of an objective: `cam/layer3/focus` is "focus of layer3"."""
    _, *layer, measure = goal.split("/")
    name = f"{measure} of {'/'.join(layer)}" if layer else f"validation {measure}"
    return Quantity(name, "higher" if direction == "maximize" else "lower", share=measure == "accuracy")


def trials(ledger: Ledger, goals: Sequence[str]) -> pd.DataFrame:
    """A row for each ticket: what was trained, with which seed, how often it was begun, what came of it."""
    rows = [_row(ticket, goals) for study in (ledger.search, ledger.confirmation) for ticket in ledger.tickets(study)]
    table = pd.DataFrame(rows)
    if rows:
        table["seed"] = table["seed"].astype("Int64")  # a ticket that has none yet would make floats of all
    return table


def _row(ticket: Ticket, goals: Sequence[str]) -> dict[str, object]:
    trial = ticket.result
    attrs = trial.user_attrs
    options: Options = attrs.get("options", {})
    values = trial.values if trial.state == TrialState.COMPLETE else [math.nan] * len(goals)
    state = _STATES.get(
        trial.state, "failed" if "error" in attrs else "given up" if ticket.given_up else "to be repeated"
    )
    return {
        "part": part_of(attrs),
        "ticket": ticket.number,
        "name": attrs.get("candidate") or attrs.get("baseline") or f"trial {ticket.number}",
        "holes": label(options) if options else "",
        "seed": attrs.get("seed"),
        **dict(zip(goals, values, strict=True)),
        "test/accuracy": attrs.get("metrics", {}).get("test/accuracy", math.nan),
        "train_s": attrs.get("metrics", {}).get("time/train_s", math.nan),
        "state": state,
        "attempts": len(ticket.attempts),
        "reused": bool(attrs.get("reused", False)),
        "run": attrs.get("run", ""),
        "error": attrs.get("error", ""),
    } | {name: str(value) for name, value in options.items()}


Sides = tuple[tuple[float, ...], tuple[float, ...]]
"""Of each seed a value of the winner, and one of the baseline."""


@dataclass(frozen=True)
class Final:
    """The pairs that decide, one or more: the last stage's winner and the baseline, both with the same fresh seeds.

    Attributes:
        goals: of each objective its values, one for each seed: the winner's and the baseline's.
        test: the same of the accuracy on the test images.
        runs: MLflow run ids of each seed, winner's and baseline's.
    """

    winner: Candidate
    own: Candidate
    goals: tuple[Sides, ...]
    test: Sides
    seeds: tuple[int, ...]
    runs: tuple[tuple[str, ...], tuple[str, ...]]

    @property
    def goal(self) -> Sides:
        """Those of the objective that winners are chosen by."""
        return self.goals[0]

    @property
    def sides(self) -> tuple[tuple[str, tuple[str, ...]], tuple[str, tuple[str, ...]]]:
        """Name and run ids of the baseline, then of the winner: the order of a comparison."""
        return (OWN, self.runs[1]), (self.winner.name, self.runs[0])


@dataclass(frozen=True)
class Results:
    """Everything that follows from a study's ledger."""

    settings: TuneSettings
    table: pd.DataFrame
    candidates: tuple[Candidate, ...]
    raced: Mapping[str, tuple[float, ...]]
    final: Final | None
    confirmations: int

    @property
    def goal(self) -> Quantity:
        """The objective that winners are chosen by."""
        return quantity(self.settings.goals[0], self.settings.directions[0])

    @property
    def higher(self) -> bool:
        """Whether more of it is better."""
        return self.settings.directions[0] == "maximize"

    @property
    def best(self) -> Candidate | None:
        """What came out: the winner of the race, else the best of the search; None where nothing completed."""
        return self.final.winner if self.final else self.best_of_search

    @property
    def best_of_search(self) -> Candidate | None:
        """The best search score."""
        scored = [candidate for candidate in self.candidates if candidate.search_scores]
        pick = max if self.higher else min
        return pick(scored, key=lambda one: one.search_score) if scored else None

    @property
    def gain(self) -> Difference | None:
        """The winner's confirmed score minus the baseline's, seed by seed."""
        return paired_difference(*self.final.goal) if self.final else None

    @property
    def shown(self) -> bool:
        """Whether the winner may be announced: the interval of its gain lies on the better side of zero."""
        gain = self.gain
        return gain is not None and gain.shown and (gain.mean > 0) == self.higher

    @property
    def over_claim(self) -> float | None:
        """By how much the winner's search score was better than what fresh seeds confirm, in the objective's unit."""
        if not self.final or not self.final.winner.search_scores:
            return None
        excess = self.final.winner.search_score - numbers.fmean(self.final.goal[0])
        return excess if self.higher else -excess

    @property
    def verdict(self) -> list[str]:
        """What may be concluded, in sentences."""
        best, own = self.best, f"{OWN} ({label(self.settings.own_holes)})"
        if best is None:
            return ["No trial of the search completed: there is nothing to conclude."]
        name = f"{best.name} ({label(best.options)})"
        gain = self.gain
        if gain is None:
            score = written(best.search_score, self.goal)
            return [
                f"{name} has the best search score, {self.goal.name} {score} with {_seeds(best.search_scores)}. "
                "It is not confirmed: the best of many noisy scores is too good by chance. Nothing is shown."
            ]
        words = [sentence(name, own, gain, self.goal)]
        if not self.shown:
            words.insert(0, f"No setting was shown to be better than {own}.")
        words.append(self._claim(best))
        assert self.final
        if self.confirmations > 1:
            words.append(
                f"It is the study's confirmation number {self.confirmations}, each with its own chance to be wrong."
            )
        further = list(zip(self.settings.goals, self.settings.directions, self.final.goals, strict=True))[1:]
        for goal, direction, values in further:
            which = "The other objective" if len(further) == 1 else "Another objective"
            said = sentence(name, own, paired_difference(*values), quantity(goal, direction))
            words.append(f"{which}, in the same pairs: {said}")
        if all(map(math.isfinite, [*self.final.test[0], *self.final.test[1]])):
            on_test = sentence(name, own, paired_difference(*self.final.test), ACCURACY)
            words.append(f"On the test images, by which nothing was chosen: {on_test}")
        return words

    def _claim(self, best: Candidate) -> str:
        assert self.final
        confirmed = written(numbers.fmean(self.final.goal[0]), self.goal)
        spread = f" ± {written(numbers.stdev(self.final.goal[0]), self.goal)}" if len(self.final.seeds) > 1 else ""
        start = f"Confirmed {self.goal.name} {confirmed}{spread} ({_seeds(self.final.seeds)})"
        over = self.over_claim
        if over is None:
            return f"{start}."
        unit = " points" if self.goal.share else ""
        amount = f"{100 * abs(over):.2f}" if self.goal.share else f"{abs(over):.4f}"
        kind = (
            f"had {'over' if over > 0 else 'under'}-claimed by {amount}{unit}" if float(amount) else "claimed the same"
        )
        score = written(best.search_score, self.goal)
        return f"{start}; the search score {score} ({_seeds(best.search_scores)}) {kind}."

    @property
    def standing(self) -> pd.DataFrame:
        """A row for each candidate: search score, score in the race, confirmed score, each with its n."""
        rows = []
        for candidate in self.candidates:
            race = self.raced.get(candidate.name, ())
            confirmed: tuple[float, ...] = ()
            if self.final and candidate.name in (self.final.winner.name, self.final.own.name):
                confirmed = self.final.goal[candidate.name == self.final.own.name]
            rows.append(
                {
                    "name": candidate.name,
                    "holes": label(candidate.options),
                    **_columns("search", candidate.search_scores),
                    **_columns("race", race),
                    **_columns("confirmed", confirmed),
                }
            )
        return pd.DataFrame(rows)


def _columns(what: str, scores: Sequence[float]) -> dict[str, float]:
    finite = [score for score in scores if math.isfinite(score)]
    return {
        what: numbers.fmean(finite) if finite else math.nan,
        f"{what}_sd": numbers.stdev(finite) if len(finite) > 1 else math.nan,
        f"{what}_n": len(finite),
    }


def written(value: float, of: Quantity) -> str:
    """A score as sentences and tables write it."""
    return f"{value:.2%}".replace("%", " %") if of.share else f"{value:.4f}"


def _seeds(several: Sequence[object]) -> str:
    return f"{len(several)} seed{'' if len(several) == 1 else 's'}"


def results(ledger: Ledger, settings: TuneSettings) -> Results:
    """What the study has found so far."""
    agenda = Agenda(ledger, settings)
    stages = [_confirmed(ledger, agenda, number) for number, stage in enumerate(ledger.stages) if stage.pairs]
    confirmed = [stage for stage in stages if stage[1]]
    # Where the last one has no pairs yet, the one before it holds.
    raced, final = (confirmed or stages or [({}, None)])[-1]
    table, candidates = trials(ledger, settings.goals), tuple(agenda.searched())
    return Results(settings, table, candidates, raced, final, len(confirmed))


T = TypeVar("T")


def _two(sides: Iterable[T]) -> tuple[T, T]:
    first, second = sides
    return first, second


def _confirmed(ledger: Ledger, agenda: Agenda, stage: int) -> tuple[dict[str, tuple[float, ...]], Final | None]:
    """Scores of the stage's race by candidate, and its final pairs."""
    tickets = [one for one in ledger.tickets(ledger.confirmation) if one.last.user_attrs["stage"] == stage]
    completed = [one.result for one in tickets if one.result.state == TrialState.COMPLETE]
    raced: dict[str, list[float]] = {}
    for trial in completed:
        if trial.user_attrs["round"] != FINAL:
            raced.setdefault(trial.user_attrs["candidate"], []).append(trial.values[0])
    finals = {
        (trial.user_attrs["candidate"], trial.user_attrs["seed"]): trial
        for trial in completed
        if trial.user_attrs["round"] == FINAL
    }
    searched = {candidate.name: candidate for candidate in agenda.searched()}
    names = [name for name in dict.fromkeys(name for name, _ in finals) if name != OWN]
    races = {name: tuple(scores) for name, scores in raced.items()}
    if not names:
        return races, None
    winner = names[0]
    seeds = tuple(sorted(seed for name, seed in finals if name == winner and (OWN, seed) in finals))
    if not seeds:
        return races, None
    pairs = [[finals[name, seed] for seed in seeds] for name in (winner, OWN)]
    return races, Final(
        searched[winner],
        searched[OWN],
        tuple(
            _two(tuple(trial.values[place] for trial in side) for side in pairs)
            for place in range(len(agenda.settings.goals))
        ),
        _two(tuple(trial.user_attrs["metrics"].get("test/accuracy", math.nan) for trial in side) for side in pairs),
        seeds,
        _two(tuple(trial.user_attrs["run"] for trial in side) for side in pairs),
    )

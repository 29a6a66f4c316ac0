"""What a study found: the table of its trainings, the scores of its candidates, and the verdict."""

import math
import statistics as numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from ..comparison.answers import answers
from ..comparison.findings import Findings
from ..evidence.differences import Difference, Quantity, paired_difference
from ..evidence.sentences import sentence
from ..settings.variants import OWN
from .agenda import Agenda, Candidate
from .ledger import Ledger, Ticket
from .notes import FINAL, Notes
from .settings import TuneSettings
from .space import Options, label

_STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "stopped early",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}
_REPEATED = "to be repeated"
OPEN_STATES = ("running", "waiting", _REPEATED)
"""States of trainings in the table that may still change."""


def quantity(goal: str, direction: str) -> Quantity:
    """An objective as sentences and charts describe it: `cam/layer3/focus` becomes "focus of layer3"."""
    _, *layer, measure = goal.split("/")
    name = f"{measure} of {'/'.join(layer)}" if layer else f"validation {measure}"
    return Quantity(name, "higher" if direction == "maximize" else "lower", share=measure == "accuracy")


def trials(ledger: Ledger, goals: Sequence[str]) -> pd.DataFrame:
    """A row for each ticket: its settings and seed, the number of attempts, the state and the values."""
    rows = [_row(ticket, goals) for study in ledger.parts for ticket in ledger.tickets(study)]
    table = pd.DataFrame(rows)
    if rows:
        table["seed"] = table["seed"].astype("Int64")  # a ticket without a seed would turn all into floats
    return table


def _row(ticket: Ticket, goals: Sequence[str]) -> dict[str, object]:
    trial, notes = ticket.result, Notes.of(ticket.result)
    options: Options = notes.options or {}
    failed = "failed" if notes.error else "given up" if ticket.given_up else _REPEATED
    return {
        "part": notes.part,
        "ticket": ticket.number,
        "name": notes.name,
        "holes": label(options) if options else "",
        "seed": notes.seed,
        **dict(zip(goals, trial.values if ticket.completed else [math.nan] * len(goals), strict=True)),
        "test/accuracy": notes.metrics.get("test/accuracy", math.nan),
        "train_s": notes.metrics.get("time/train_s", math.nan),
        "state": _STATES.get(trial.state, failed),
        "attempts": len(ticket.attempts),
        "near_chance": notes.near_chance,
        "reused": notes.reused,
        "run": notes.run or "",
        "error": notes.error or "",
    } | {name: str(value) for name, value in options.items()}


Sides = tuple[tuple[float, ...], tuple[float, ...]]
"""The values of the winner and those of the baseline, one for each seed."""


@dataclass(frozen=True)
class Final:
    """The pairs that decide, one or more: the winner and the baseline of the last stage, with the same fresh seeds.

    Attributes:
        goals: for each objective, its values.
        test: the accuracy on the test images.
        runs: MLflow run ids of the winner and those of the baseline, one for each seed.
    """

    winner: Candidate
    goals: tuple[Sides, ...]
    test: Sides
    seeds: tuple[int, ...]
    runs: tuple[tuple[str, ...], tuple[str, ...]]

    @property
    def goal(self) -> Sides:
        """The values of the objective that chooses the winner."""
        return self.goals[0]

    @property
    def sides(self) -> tuple[tuple[str, tuple[str, ...]], tuple[str, tuple[str, ...]]]:
        """Name and run ids of the baseline, then of the winner, as a comparison orders them."""
        return (OWN, self.runs[1]), (self.winner.name, self.runs[0])


@dataclass(frozen=True)
class Results:
    """What follows from the ledger of a study.

    Attributes:
        table: of all trainings, as `trials` makes it.
        candidates: all settings of the search.
        raced: scores in the race of the last stage, by the name of the candidate.
        final: the pairs of the last stage that has any.
        confirmations: how many stages have completed confirmation trainings.
        compared: winner and baseline of the last stage, as a comparison of their runs; None before these are read.
    """

    settings: TuneSettings
    table: pd.DataFrame
    candidates: tuple[Candidate, ...]
    raced: Mapping[str, tuple[float, ...]]
    final: Final | None
    confirmations: int
    compared: Findings | None = None

    @property
    def goal(self) -> Quantity:
        """The objective that chooses the winner."""
        return quantity(self.settings.goals[0], self.settings.directions[0])

    @property
    def higher(self) -> bool:
        """Whether a higher value of this objective is better."""
        return self.goal.higher

    @property
    def best(self) -> Candidate | None:
        """The winner of the race, else the best of the search; None if no trial completed."""
        return self.final.winner if self.final else self.best_of_search

    @property
    def best_of_search(self) -> Candidate | None:
        """The candidate with the best search score."""
        scored = [candidate for candidate in self.candidates if candidate.search_scores]
        pick = max if self.higher else min
        return pick(scored, key=lambda one: one.search_score) if scored else None

    @property
    def gain(self) -> Difference | None:
        """The confirmed score of the winner minus that of the baseline, seed by seed."""
        return paired_difference(*self.final.goal) if self.final else None

    @property
    def shown(self) -> bool:
        """Whether the winner is announced: the interval of its gain lies on the better side of zero."""
        gain = self.gain
        return gain is not None and gain.shown and (gain.mean > 0) == self.higher

    @property
    def over_claim(self) -> float | None:
        """How much better the search score of the winner was than its confirmed score, in the unit of the objective."""
        if not self.final or not self.final.winner.search_scores:
            return None
        excess = self.final.winner.search_score - numbers.fmean(self.final.goal[0])
        return excess if self.higher else -excess

    @property
    def verdict(self) -> list[str]:
        """The conclusions, in sentences."""
        near = self.table["near_chance"] if len(self.table) else pd.Series([False])
        doubt = f"{near.sum()} of {len(near)} trainings ended near chance: their scores say little about the holes."
        return [*self._conclusions, *([doubt] if near.any() else [])]

    @property
    def _conclusions(self) -> list[str]:
        best, own = self.best, f"{OWN} ({label(self.settings.own_holes)})"
        if best is None:
            return ["No trial of the search completed, so there is no conclusion."]
        name = f"{best.name} ({label(best.options)})"
        gain = self.gain
        if gain is None or self.final is None:
            score = written(best.search_score, self.goal)
            return [
                f"{name} has the best search score: {self.goal.name} {score} with {_seeds(best.search_scores)}. "
                "It is not confirmed, and the best of many noisy scores is too good by chance: no conclusion yet."
            ]
        words = [] if self.shown else [f"No setting was shown to be better than {own}."]
        words += [sentence(name, own, gain, self.goal), self._claim(best, self.final)]
        if self.confirmations > 1:
            words.append(
                f"This is confirmation number {self.confirmations} of the study; each has its own chance to be wrong."
            )
        further = list(zip(self.settings.goals, self.settings.directions, self.final.goals, strict=True))[1:]
        for goal, direction, values in further:
            which = "The other objective" if len(further) == 1 else "Another objective"
            said = sentence(name, own, paired_difference(*values), quantity(goal, direction))
            words.append(f"{which}, in the same pairs: {said}")
        if self.compared:
            words.append("On the test images, used for no selection:")
            words += [f"{one.question} {one.sentence}" for one in answers(self.compared) if one.part == "verdict"]
        return words

    def _claim(self, best: Candidate, final: Final) -> str:
        """The confirmed score, and whether the search score was better."""
        confirmed = written(numbers.fmean(final.goal[0]), self.goal)
        spread = f" ± {written(numbers.stdev(final.goal[0]), self.goal)}" if len(final.seeds) > 1 else ""
        start = f"Confirmed {self.goal.name}: {confirmed}{spread} ({_seeds(final.seeds)})"
        over = self.over_claim
        if over is None:
            return f"{start}."
        unit = " points" if self.goal.share else ""
        amount = f"{100 * abs(over):.2f}" if self.goal.share else f"{abs(over):.4f}"
        kind = f"{'better' if over > 0 else 'worse'} by {amount}{unit}" if float(amount) else "the same"
        score = f"{written(best.search_score, self.goal)} ({_seeds(best.search_scores)})"
        return f"{start}. The search score, {score}, was {kind}."

    @property
    def standing(self) -> pd.DataFrame:
        """A row for each candidate: its scores in search, race and confirmation; mean, standard deviation and n."""
        final = self.final
        confirmed = dict(zip((final.winner.name, OWN), final.goal, strict=True)) if final else {}
        return pd.DataFrame(
            {"name": one.name, "holes": label(one.options)}
            | _columns("search", one.search_scores)
            | _columns("race", self.raced.get(one.name, ()))
            | _columns("confirmed", confirmed.get(one.name, ()))
            for one in self.candidates
        )


def _columns(what: str, scores: Sequence[float]) -> dict[str, object]:
    finite = [score for score in scores if math.isfinite(score)]
    return {
        what: numbers.fmean(finite) if finite else math.nan,
        f"{what}_sd": numbers.stdev(finite) if len(finite) > 1 else math.nan,
        f"{what}_n": len(finite),
    }


def written(value: float, of: Quantity) -> str:
    """A score as text: `91.23 %`, or `1.2500` if it is no share."""
    return f"{value:.2%}".replace("%", " %") if of.share else f"{value:.4f}"


def _seeds(several: Sequence[object]) -> str:
    return f"{len(several)} seed{'' if len(several) == 1 else 's'}"


def results(ledger: Ledger, settings: TuneSettings) -> Results:
    """The results of the study so far."""
    agenda = Agenda(ledger, settings)
    stages = [_confirmed(ledger, agenda, number) for number, stage in enumerate(ledger.stages) if stage.pairs]
    confirmed = [stage for stage in stages if stage[1]]
    # If the last stage has no results yet, the stage before it counts.
    raced, final = (confirmed or stages or [({}, None)])[-1]
    table, candidates = trials(ledger, settings.goals), tuple(agenda.searched())
    return Results(settings, table, candidates, raced, final, len(confirmed))


def _confirmed(ledger: Ledger, agenda: Agenda, stage: int) -> tuple[dict[str, tuple[float, ...]], Final | None]:
    """Scores of the race of a stage by candidate, and its final pairs."""
    tickets = [one for one in ledger.tickets(ledger.confirmation) if one.notes.stage == stage and one.completed]
    raced: dict[str, tuple[float, ...]] = {}
    finals: dict[tuple[str, int], FrozenTrial] = {}
    for trial in (ticket.result for ticket in tickets):
        notes = Notes.of(trial)
        if notes.round == FINAL and notes.seed is not None:
            finals[notes.name, notes.seed] = trial
        else:
            raced[notes.name] = (*raced.get(notes.name, ()), trial.values[0])
    winner = next((name for name, _ in finals if name != OWN), "")
    seeds = tuple(sorted(seed for name, seed in finals if name == winner and (OWN, seed) in finals))
    if not seeds:
        return raced, None
    won = next(candidate for candidate in agenda.searched() if candidate.name == winner)
    trials = [[finals[name, seed] for seed in seeds] for name in (winner, OWN)]
    notes_of = [[Notes.of(trial) for trial in side] for side in trials]
    # A row of `trial.values` for each seed becomes a tuple of seeds for each objective.
    goals = (zip(*(trial.values for trial in side), strict=True) for side in trials)
    test = [tuple(notes.metrics.get("test/accuracy", math.nan) for notes in side) for side in notes_of]
    runs = [tuple(notes.run or "" for notes in side) for side in notes_of]
    return raced, Final(won, tuple(zip(*goals, strict=True)), (test[0], test[1]), seeds, (runs[0], runs[1]))

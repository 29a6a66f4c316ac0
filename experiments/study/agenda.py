"""What a study does next: baselines, search, race, final pairs. It follows from the ledger only.

Any worker asks, under the lock of the ledger, and all workers get the same answer. The agenda also adds the next ticket
to the ledger.
"""

import math
import random
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from ..settings.variants import OWN
from .ledger import Ledger, Ticket
from .lost_workers import give_to_another
from .notes import FINAL, Notes, StudyNotes
from .race import FEWEST_PAIRS, FINALISTS, Budget, confirmation, ranked, rounds, undominated
from .settings import TuneSettings
from .space import Options, label

CONFIRM_SEEDS = 1000  # added to the seed of the study for each confirmation: no trial of the search has these seeds

Key = tuple[str | None, int | None, int | None]
"""Candidate, seed and round of a training: what distinguishes those of one confirmation."""


class Idle(Enum):
    """Why there is no ticket to hand out."""

    WAIT = "other workers are still at work"
    DONE = "nothing is left to do"


@dataclass(frozen=True)
class Candidate:
    """Settings that a stage may confirm.

    Attributes:
        name: of the baseline, or `trial 7` after the first search ticket with these settings.
        options: of the holes.
        search_scores: of the first objective; more than one where the search proposed the settings again.
    """

    name: str
    options: Options
    search_scores: tuple[float, ...]

    @property
    def search_score(self) -> float:
        """The mean of the scores in the search; NaN if there is none."""
        return statistics.fmean(self.search_scores) if self.search_scores else math.nan


class Agenda:
    """The next ticket of a study."""

    def __init__(self, ledger: Ledger, settings: TuneSettings) -> None:
        self.ledger, self.settings = ledger, settings
        self._baselines = settings.baseline_options()
        self._space = settings.space
        self._higher = settings.directions[0] == "maximize"

    def next(self) -> optuna.Study | Idle:
        """The Optuna study in which a trial waits to be taken. Call it under the lock of the ledger."""
        searched = 0
        clock = self.ledger.notes
        for number, stage in enumerate(self.ledger.stages):
            if _is_over(clock.search_until):
                stage = self._end_search(number, stage, searched, clock)
            searched += stage.search
            if found := self._next_of_search(searched):
                return found
            if found := self._next_of_confirmation(number, stage, clock):
                return found
        return Idle.DONE

    # The search

    def _next_of_search(self, total: int) -> optuna.Study | Idle | None:
        search = self.ledger.search
        tickets = self.ledger.tickets(search)
        if self._is_ready(search, tickets):
            return search
        # A grid has an end.
        most = len(self._baselines) + len(self._grid) if self.settings.enumerates else total
        if len(tickets) < min(total, most):
            self._new_search_ticket(len(tickets))
            return search
        # Those of a later stage are no reason to wait.
        return Idle.WAIT if any(ticket.in_hand for ticket in tickets[:total]) else None

    def _is_ready(self, study: optuna.Study, tickets: list[Ticket]) -> bool:
        """Whether an attempt waits to be taken; the ticket of a lost worker gets a new attempt."""
        if any(ticket.last.state == TrialState.WAITING for ticket in tickets):
            return True
        for ticket in tickets:
            if not ticket.settled and not ticket.in_hand:
                give_to_another(self.ledger, study, ticket)
                return True
        return False

    def _new_search_ticket(self, number: int) -> None:
        search = self.ledger.search
        if number >= len(self._baselines):
            params = self._grid[number - len(self._baselines)] if self.settings.enumerates else None
            self.ledger.enqueue(search, params, Notes(number))
            return
        name, options = list(self._baselines.items())[number]
        # A baseline outside the space is tried too, but no sampler learns from it.
        params = self._space.params_of(options) or {}
        self.ledger.enqueue(search, params, Notes(number, options=dict(options), baseline=name))

    @cached_property
    def _grid(self) -> list[dict[str, Any]]:
        """Every point of the space that is no baseline, shuffled by the seed of the study: a part is a fair sample."""
        known = [self._space.params_of(options) for options in self._baselines.values()]
        points = [point for point in self._space.grid() if point not in known]
        random.Random(self.settings.seed).shuffle(points)
        return points

    def _end_search(self, number: int, stage: Budget, before: int, clock: StudyNotes) -> Budget:
        """Ends the search of a stage, and reduces its confirmation to what the time allows; returns the new stage.

        `before` is the number of search tickets of the earlier stages.
        """
        tickets = self.ledger.tickets(self.ledger.search)
        searched = max(0, len(tickets) - before)
        if searched >= stage.search:
            return stage
        results = [ticket.result for ticket in tickets if ticket.completed]
        times = [trial.duration.total_seconds() for trial in results if trial.duration]
        left = (clock.until or 0.0) - time.time()
        at_once = 1 + sum(ticket.in_hand for ticket in tickets)
        runs = int(at_once * left / statistics.fmean(times)) if times else 0
        runs = min(runs, stage.race + 2 * stage.pairs)
        race, pairs = confirmation(runs) if runs >= 2 * FEWEST_PAIRS else (0, 0)
        stages = self.ledger.stages
        stages[number] = Budget(searched, race, pairs)
        self.ledger.keep_stages(stages)
        return stages[number]

    # The confirmation

    def _next_of_confirmation(self, number: int, stage: Budget, clock: StudyNotes) -> optuna.Study | Idle | None:
        if not stage.pairs:
            return None
        study = self.ledger.confirmation
        tickets = self.ledger.tickets(study)
        if self._is_ready(study, tickets):
            return study
        of_stage = {_key(ticket.notes): ticket for ticket in tickets if ticket.notes.stage == number}
        for jobs in self._rounds_of(number, stage, of_stage):
            for job in jobs:
                if _key(job) not in of_stage:
                    if _is_over(clock.until):
                        return Idle.WAIT if any(ticket.in_hand for ticket in of_stage.values()) else None
                    self.ledger.enqueue(study, {}, replace(job, ticket=len(tickets)))
                    return study
            if any(of_stage[_key(job)].in_hand for job in jobs):
                return Idle.WAIT
        return None

    def _rounds_of(self, number: int, stage: Budget, done: Mapping[Key, Ticket]) -> Iterator[list[Notes]]:
        """The trainings of each round of a race, then the trainings of the final pairs, without their tickets.

        A round follows from the results of the earlier rounds. So ask for it only when these are settled.
        """
        candidates = {candidate.name: candidate for candidate in self.candidates(number)}
        if not candidates:
            return

        def training(name: str, options: Options, seed: int, round: int) -> Notes:
            return Notes(options=dict(options), seed=seed, candidate=name, stage=number, round=round)

        base = self.settings.seed + CONFIRM_SEEDS * (number + 1)
        scores: dict[str, list[float]] = {name: [] for name in candidates}
        sizes = rounds(stage.race, len(candidates))
        for place, size in enumerate(sizes):
            entrants = list(candidates)[:size] if not place else ranked(scores, higher=self._higher)[:size]
            jobs = [training(name, candidates[name].options, base + place, place) for name in entrants]
            yield jobs
            for name, job in zip(entrants, jobs, strict=True):
                ticket = done[_key(job)]
                scores[name].append(ticket.result.values[0] if ticket.completed else math.nan)
        winner = ranked(scores, higher=self._higher)[0] if sizes else next(iter(candidates))
        rivals = {OWN: self._baselines[OWN], winner: candidates[winner].options}
        seeds = [base + len(sizes) + place for place in range(stage.pairs)]
        yield [training(name, options, seed, FINAL) for seed in seeds for name, options in rivals.items()]

    def candidates(self, number: int) -> list[Candidate]:
        """The entrants of the race of a stage, the best first: the best of the search so far, and the other baselines.

        With several objectives, the settings on the Pareto front come first.
        """
        upto = sum(stage.search for stage in self.ledger.stages[: number + 1])
        found = self.searched(upto)
        ahead = self._front(upto) if len(self.settings.goals) > 1 else set()
        order = sorted(
            (candidate for candidate in found if candidate.search_scores),
            key=lambda one: (label(one.options) not in ahead, -one.search_score if self._higher else one.search_score),
        )
        best = [candidate for candidate in order if candidate.name not in self._baselines][:FINALISTS]
        return [one for one in order if one in best or (one.name in self._baselines and one.name != OWN)]

    def searched(self, upto: int | None = None) -> list[Candidate]:
        """All settings that the search, or its first `upto` tickets, has tried: each once, in the order of tickets."""
        same: dict[str, list[FrozenTrial]] = {}
        for ticket in self.ledger.tickets(self.ledger.search)[:upto]:
            if (options := Notes.of(ticket.result).options) is not None:
                same.setdefault(label(options), []).append(ticket.result)
        return list(map(_candidate, same.values()))

    def _front(self, upto: int) -> set[str]:
        """The Pareto front: labels of the settings that none of the first `upto` tickets dominates."""
        higher = [way == "maximize" for way in self.settings.directions]
        found = [ticket.result for ticket in self.ledger.tickets(self.ledger.search)[:upto] if ticket.completed]
        on_front = undominated([trial.values for trial in found], higher)
        options = [Notes.of(trial).options for trial, there in zip(found, on_front, strict=True) if there]
        return {label(own) for own in options if own}


def _candidate(trials: list[FrozenTrial]) -> Candidate:
    """The settings that these search trials share."""
    first = Notes.of(trials[0])
    scores = [trial.values[0] for trial in trials if trial.state == TrialState.COMPLETE]
    return Candidate(first.name, first.options or {}, tuple(filter(math.isfinite, scores)))


def _key(notes: Notes) -> Key:
    return notes.candidate, notes.seed, notes.round


def _is_over(until: float | None) -> bool:
    return until is not None and time.time() > until


def seed_of(ledger: Ledger, own: Notes, options: Options, first: int) -> int:
    """The seed of a search ticket: `first`, plus the number of other tickets that have the same options."""
    return first + sum(
        ticket.number != own.ticket and ticket.notes.options == options for ticket in ledger.tickets(ledger.search)
    )

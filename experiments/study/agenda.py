"""What a study does next: baselines, search, race, final pairs. It follows from the ledger, to which tickets are added.

Any worker asks, under the ledger's lock, and all get the same answer.
"""

import math
import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from ..settings.variants import OWN
from .ledger import Ledger, Ticket
from .race import FEWEST_PAIRS, FINALISTS, Budget, confirmation, ranked, rounds, undominated
from .settings import TuneSettings
from .space import Options, label

CONFIRM_SEEDS = 1000  # added to the study's seed: seeds that no trial of the search has
FINAL = -1
"""Round of the pairs that decide."""


def part_of(attrs: Mapping[str, Any]) -> str:
    """`search`, `race 1`, ... or `final`: where the ticket of these attributes belongs."""
    if "candidate" not in attrs:
        return "search"
    return "final" if attrs["round"] == FINAL else f"race {attrs['round'] + 1}"


class Idle(Enum):
    """Why there is no ticket to hand out."""

    WAIT = "others are still at work"
    DONE = "nothing is left to do"


@dataclass(frozen=True)
class Confirming:
    """One training of a confirmation: whose settings, with which seed, in which round."""

    candidate: str
    options: Options
    seed: int
    round: int


@dataclass(frozen=True)
class Candidate:
    """Settings that a stage may confirm.

    Attributes:
        name: of the baseline, or `trial 7` of the first ticket that had them.
        search_scores: of the first objective; several where the search came back to them.
        tickets: numbers of the search tickets that had them.
    """

    name: str
    options: Options
    search_scores: tuple[float, ...]
    tickets: tuple[int, ...]

    @property
    def search_score(self) -> float:
        """The mean of the search's scores, NaN without any."""
        return statistics.fmean(self.search_scores) if self.search_scores else math.nan


class Agenda:
    """The next ticket of a study."""

    def __init__(self, ledger: Ledger, settings: TuneSettings) -> None:
        self.ledger, self.settings = ledger, settings
        self._baselines = settings.baseline_options()
        self._space = settings.space
        self._higher = settings.directions[0] == "maximize"

    def next(self) -> optuna.Study | Idle:
        """The Optuna study whose next waiting trial is to be taken, which is there now; under the ledger's lock."""
        searched = 0
        for number, stage in enumerate(self.ledger.stages):
            if self._time_is_up("search_until"):
                stage = self._end_search(number, stage, searched)
            searched += stage.search
            if found := self._next_of_search(searched):
                return found
            if found := self._next_of_confirmation(number, stage):
                return found
        return Idle.DONE

    # The search

    def _next_of_search(self, total: int) -> optuna.Study | Idle | None:
        search = self.ledger.search
        tickets = self.ledger.tickets(search)
        if self._waiting_or_dead(search, tickets):
            return search
        if len(tickets) < min(total, self._most):
            self._new_search_ticket(len(tickets))
            return search
        # Those of a later stage are no reason to wait.
        return Idle.WAIT if any(ticket.in_hand for ticket in tickets[:total]) else None

    @property
    def _most(self) -> int:
        """Search tickets that there can be: a grid ends."""
        return len(self._baselines) + len(self._grid) if self._enumerates else 10**9

    @property
    def _enumerates(self) -> bool:
        return self.settings.sampler in ("grid", "brute_force")

    def _waiting_or_dead(self, study: optuna.Study, tickets: Sequence[Ticket]) -> bool:
        """Whether an attempt waits to be taken; a ticket whose worker is gone gets a new one."""
        if any(ticket.last.state == TrialState.WAITING for ticket in tickets):
            return True
        for ticket in tickets:
            if not ticket.settled and not ticket.in_hand:
                self.ledger.enqueue_again(study, ticket)
                return True
        return False

    def _new_search_ticket(self, number: int) -> None:
        if number >= len(self._baselines):
            params = self._grid[number - len(self._baselines)] if self._enumerates else None
            self.ledger.enqueue(self.ledger.search, number, params, {})
            return
        name, options = list(self._baselines.items())[number]
        # Outside the space it is tried all the same, only no sampler learns from it.
        params = self._space.params_of(options) or {}
        self.ledger.enqueue(self.ledger.search, number, params, {"baseline": name, "options": dict(options)})

    @cached_property
    def _grid(self) -> list[dict[str, Any]]:
        """Every point of the space that is no baseline, in an order that the study's seed decides.

        So a part of it is a fair sample.
        """
        known = [self._space.params_of(options) for options in self._baselines.values()]
        points = [point for point in self._space.grid() if point not in known]
        random.Random(self.settings.seed).shuffle(points)
        return points

    def _time_is_up(self, which: str) -> bool:
        until = self.ledger.search.user_attrs.get(which)
        return until is not None and time.time() > until

    def _end_search(self, number: int, stage: Budget, before: int) -> Budget:
        """The stage with no more search than was handed out, and as much confirmation as the time allows.

        `before` are the search tickets of the stages before it.
        """
        tickets = self.ledger.tickets(self.ledger.search)
        searched = max(0, len(tickets) - before)
        if searched >= stage.search:
            return stage
        times = [_seconds(ticket.result) for ticket in tickets if ticket.result.state == TrialState.COMPLETE]
        left = float(self.ledger.search.user_attrs["until"]) - time.time()
        at_once = 1 + sum(ticket.in_hand for ticket in tickets)
        runs = int(at_once * left / statistics.fmean(times)) if times else 0
        runs = min(runs, stage.race + 2 * stage.pairs)
        race, pairs = confirmation(runs) if runs >= 2 * FEWEST_PAIRS else (0, 0)
        stage = Budget(searched, race, pairs)
        self.ledger.change_stage(number, stage)
        return stage

    # The confirmation

    def _next_of_confirmation(self, number: int, stage: Budget) -> optuna.Study | Idle | None:
        if not stage.pairs:
            return None
        study = self.ledger.confirmation
        tickets = self.ledger.tickets(study)
        if self._waiting_or_dead(study, tickets):
            return study
        of_stage = {_key(ticket.last): ticket for ticket in tickets if ticket.last.user_attrs["stage"] == number}
        for jobs in self.rounds_of(number, stage, of_stage):
            for job in jobs:
                if (job.round, job.candidate, job.seed) not in of_stage:
                    if self._time_is_up("until"):
                        return Idle.WAIT if any(ticket.in_hand for ticket in of_stage.values()) else None
                    attrs = {"stage": number, "round": job.round, "candidate": job.candidate, "seed": job.seed}
                    self.ledger.enqueue(study, len(tickets), {}, attrs | {"options": dict(job.options)})
                    return study
            if any(of_stage[job.round, job.candidate, job.seed].in_hand for job in jobs):
                return Idle.WAIT
        return None

    def rounds_of(
        self, number: int, stage: Budget, done: Mapping[tuple[int, str, int], Ticket]
    ) -> Iterator[list[Confirming]]:
        """The trainings of each round of the stage's race, then those of its final pairs.

        A round follows from the results of the ones before it, so it may be asked for only when those are settled.
        """
        candidates = {candidate.name: candidate for candidate in self.candidates(number)}
        if not candidates:
            return
        base = self.settings.seed + CONFIRM_SEEDS * (number + 1)
        scores: dict[str, list[float]] = {name: [] for name in candidates}
        sizes = rounds(stage.race, len(candidates))
        for place, size in enumerate(sizes):
            entrants = list(candidates)[:size] if not place else ranked(scores, higher=self._higher)[:size]
            yield [Confirming(name, candidates[name].options, base + place, place) for name in entrants]
            for name in entrants:
                scores[name].append(_score(done[place, name, base + place].result))
        winner = ranked(scores, higher=self._higher)[0] if sizes else next(iter(candidates))
        rivals = {OWN: self._baselines[OWN], winner: candidates[winner].options}
        seeds = [base + len(sizes) + place for place in range(stage.pairs)]
        yield [Confirming(name, options, seed, FINAL) for seed in seeds for name, options in rivals.items()]

    def candidates(self, number: int) -> list[Candidate]:
        """What the stage races: the other baselines and the best of the search so far; the best first.

        With several objectives the Pareto front comes before the rest.
        """
        upto = sum(stage.search for stage in self.ledger.stages[: number + 1])
        found = self.searched(upto)
        ahead = self._front(upto) if len(self.settings.goals) > 1 else set()
        order = sorted(
            (candidate for candidate in found if candidate.search_scores),
            key=lambda one: (one.name not in ahead, -one.search_score if self._higher else one.search_score),
        )
        best = [candidate for candidate in order if candidate.name not in self._baselines][:FINALISTS]
        return [one for one in order if one in best or (one.name in self._baselines and one.name != OWN)]

    def searched(self, upto: int | None = None) -> list[Candidate]:
        """Every setting that the search (or its first `upto` tickets) has tried, once, in that order."""
        names: dict[str, str] = {}
        options: dict[str, Options] = {}
        scores: dict[str, list[float]] = {}
        tickets: dict[str, list[int]] = {}
        for ticket in self.ledger.tickets(self.ledger.search)[:upto]:
            trial = ticket.result
            if "options" not in trial.user_attrs:
                continue
            identity = label(trial.user_attrs["options"])
            name = names.setdefault(identity, trial.user_attrs.get("baseline", f"trial {ticket.number}"))
            options.setdefault(name, trial.user_attrs["options"])
            scores.setdefault(name, [])
            tickets.setdefault(name, []).append(ticket.number)
            if trial.state == TrialState.COMPLETE and math.isfinite(trial.values[0]):
                scores[name].append(trial.values[0])
        return [Candidate(name, options[name], tuple(scores[name]), tuple(tickets[name])) for name in options]

    def _front(self, upto: int) -> set[str]:
        """Names of what no other of the first `upto` tickets beats: is as good in every objective and better in one."""
        higher = [way == "maximize" for way in self.settings.directions]
        completed = [
            ticket
            for ticket in self.ledger.tickets(self.ledger.search)[:upto]
            if ticket.result.state == TrialState.COMPLETE
        ]
        on_front = undominated([ticket.result.values for ticket in completed], higher)
        front = {ticket.number for ticket, there in zip(completed, on_front, strict=True) if there}
        return {candidate.name for candidate in self.searched(upto) if front.intersection(candidate.tickets)}


def seed_of(ledger: Ledger, trial: optuna.Trial, options: Options, first: int) -> int:
    """The seed of a search trial: the study's, or where the settings come back the next that they have not had."""
    own = trial.user_attrs["ticket"]  # Optuna copies all of them each time
    return first + sum(
        ticket.number != own and ticket.last.user_attrs.get("options") == dict(options)
        for ticket in ledger.tickets(ledger.search)
    )


def _key(trial: FrozenTrial) -> tuple[int, str, int]:
    attrs: Mapping[str, Any] = trial.user_attrs
    return attrs["round"], attrs["candidate"], attrs["seed"]


def _score(trial: FrozenTrial) -> float:
    return trial.values[0] if trial.state == TrialState.COMPLETE else math.nan


def _seconds(trial: FrozenTrial) -> float:
    assert trial.datetime_start
    assert trial.datetime_complete
    return (trial.datetime_complete - trial.datetime_start).total_seconds()

"""How a study's budget is spent after the search: a race on fresh seeds, then winner and baseline on fresher ones.

The best score of a search over-claims: it is the largest of many noisy numbers. So the best few are trained again with
seeds that all of them share, the worse half is left behind after each round, and what remains meets the baseline on
seeds that nothing was chosen by. Only those last pairs decide.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SEARCH_SHARE = 0.6  # of the budget; the rest confirms (facts: best or equal best of the splits that were simulated)
FINALISTS = 5  # of the search that are raced
FEWEST_PAIRS = 3  # below which no interval can be given
LEAST_TRIALS = 15
"""Of a study whose winner is confirmed: 60 % for the search, and three pairs of two trainings each."""


@dataclass(frozen=True)
class Budget:
    """Trainings of one stage of a study.

    Attributes:
        search: trials of the search.
        pairs: seeds with which the winner of the race and the baseline are trained, two trainings each.
        race: trainings that choose the winner.
    """

    search: int
    race: int
    pairs: int

    @property
    def total(self) -> int:
        """All trainings."""
        return self.search + self.race + 2 * self.pairs


def budget(trials: int, *, confirm: bool) -> Budget:
    """How `trials` trainings are shared out; all of them, exactly.

    Raises:
        ValueError: too few for a confirmation.
    """
    if not confirm:
        return Budget(trials, 0, 0)
    if trials < LEAST_TRIALS:
        raise ValueError(
            f"{trials} trials are too few for a search and a confirmation; {LEAST_TRIALS} or more are enough"
        )
    confirming = trials - round(SEARCH_SHARE * trials)
    return Budget(trials - confirming, *confirmation(confirming))


def next_stage(trials: int, planned: int, *, confirm: bool) -> Budget:
    """What brings a study of `planned` trainings to `trials`; what is too few for another confirmation is searched."""
    left = trials - planned
    return budget(left, confirm=confirm and left >= LEAST_TRIALS)


def confirmation(runs: int) -> tuple[int, int]:
    """Trainings of the race, and pairs after it, of `runs`; of one left over the race gets it."""
    pairs = max(FEWEST_PAIRS, runs // 4)
    return runs - 2 * pairs, pairs


def rounds(race: int, candidates: int) -> list[int]:
    """How many of `candidates` each round of a race of `race` trainings begins with: half of them from round to round.

    Their sum is `race`. The last round may be too short for all that are left; the best of them then runs on.
    """
    sizes: list[int] = []
    size = candidates
    while candidates and (left := race - sum(sizes)) > 0:
        sizes.append(min(size, left))
        size = min(max(math.ceil(sizes[-1] / 2), 2), candidates)
    return sizes


def undominated(values: Sequence[Sequence[float]], higher: Sequence[bool]) -> list[bool]:
    """Of each row whether no other is at least as good in every column and better in one: the Pareto front.

    `higher` says of each column whether more is better.
    """
    rows = [[value if more else -value for value, more in zip(row, higher, strict=True)] for row in values]
    return [
        not any(other != own and all(a >= b for a, b in zip(other, own, strict=True)) for other in rows) for own in rows
    ]


def ranked(scores: Mapping[str, Sequence[float]], *, higher: bool) -> list[str]:
    """Names, the best mean first; those with no finite score last, those with more scores before others.

    Someone who was left behind earlier has fewer scores, and stays behind whatever their mean.
    """

    def place(name: str) -> tuple[int, float]:
        finite = [score for score in scores[name] if math.isfinite(score)]
        mean = sum(finite) / len(finite) if finite else -math.inf
        return (-len(scores[name]), (-mean if higher else mean) if finite else math.inf)

    return sorted(scores, key=place)

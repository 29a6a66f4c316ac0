"""How the budget of a study is divided: the search, a race of the best on fresh seeds, and the pairs that decide.

The best score of a search is too good by chance, because it is the largest of many noisy numbers. So the best few are
trained again with seeds that all of them share. After each round the worse half is dropped. The winner and the baseline
are then trained with fresh seeds, used for no selection. Only these last pairs decide.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

SEARCH_SHARE = 0.6  # of the budget; the best, or as good as the best, of the shares that were simulated
FINALISTS = 5  # settings of the search that enter the race
FEWEST_PAIRS = 3  # fewer give no interval
LEAST_TRIALS = 15
"""The fewest trainings of a study with a confirmation: 60 % for the search, and three pairs of two trainings each."""


@dataclass(frozen=True)
class Budget:
    """The numbers of trainings of one stage of a study.

    Attributes:
        search: trainings of the search.
        race: trainings that choose the winner.
        pairs: seeds with which both the winner and the baseline are trained: two trainings each.
    """

    search: int
    race: int
    pairs: int

    @property
    def total(self) -> int:
        """The number of all trainings."""
        return self.search + self.race + 2 * self.pairs


def next_stage(trials: int, planned: int, *, confirm: bool) -> Budget:
    """The stage that brings a study from `planned` to `trials` trainings: search, race and pairs.

    If too few are left for a confirmation, all of them are search.
    """
    left = trials - planned
    if not confirm or left < LEAST_TRIALS:
        return Budget(left, 0, 0)
    search = round(SEARCH_SHARE * left)
    return Budget(search, *confirmation(left - search))


def confirmation(runs: int) -> tuple[int, int]:
    """Divides `runs` trainings: the trainings of the race, and the number of pairs."""
    pairs = max(FEWEST_PAIRS, runs // 4)
    return runs - 2 * pairs, pairs


def rounds(race: int, candidates: int) -> list[int]:
    """The number of entrants of each round of a race with `race` trainings: half as many from round to round.

    The sum is `race`. So the last round may be too small for all that are left; then only the best of them run.
    """
    sizes: list[int] = []
    size = candidates
    while candidates and (left := race - sum(sizes)) > 0:
        sizes.append(min(size, left))
        size = min(max(math.ceil(sizes[-1] / 2), 2), candidates)
    return sizes


def undominated(values: Sequence[Sequence[float]], higher: Sequence[bool]) -> list[bool]:
    """For each row, whether it is on the Pareto front: no other row is as good in every column and better in one.

    Args:
        higher: for each column, whether a higher value is better.
    """
    rows = [[value if more else -value for value, more in zip(row, higher, strict=True)] for row in values]
    return [
        not any(other != own and all(a >= b for a, b in zip(other, own, strict=True)) for other in rows) for own in rows
    ]


def ranked(scores: Mapping[str, Sequence[float]], *, higher: bool) -> list[str]:
    """The names, the best first: by the number of scores, then by the mean of the finite scores.

    A candidate that was dropped early has fewer scores, and stays behind whatever its mean. NaN or infinity as the only
    score is the worst.
    """

    def place(name: str) -> tuple[int, float]:
        finite = [score for score in scores[name] if math.isfinite(score)]
        mean = sum(finite) / len(finite) if finite else -math.inf
        return (-len(scores[name]), (-mean if higher else mean) if finite else math.inf)

    return sorted(scores, key=place)

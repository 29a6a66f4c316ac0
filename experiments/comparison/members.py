"""The parts of a comparison: finished runs, each with its variant and seed, and pairs of variants."""

from dataclasses import dataclass

from ..tracking.reading import FinishedRun


@dataclass(frozen=True)
class Member:
    """A finished run with its variant and seed; `reused` if it was not trained for this comparison."""

    variant: str
    seed: int
    run: FinishedRun
    reused: bool


@dataclass(frozen=True)
class Pair:
    """Two variants, and their seeds paired in order."""

    variant: str
    against: str
    seeds: tuple[tuple[int, int], ...]

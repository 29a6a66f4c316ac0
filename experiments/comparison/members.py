"""What a comparison consists of: finished runs, each with its variant and seed, and pairs of variants."""

from dataclasses import dataclass

from ..tracking.reading import FinishedRun


@dataclass(frozen=True)
class Member:
    """A finished run of a comparison: which variant and seed it is, and whether it was there before."""

    variant: str
    seed: int
    run: FinishedRun
    reused: bool


@dataclass(frozen=True)
class Pair:
    """Two variants whose seeds are laid side by side, in the order of the seeds."""

    variant: str
    against: str
    seeds: tuple[tuple[int, int], ...]

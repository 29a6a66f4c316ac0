"""The questions of a comparison that are fixed beforehand, and their corrected answers in numbers."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

from ..evidence.differences import Difference, Quantity, holm, paired_difference
from .findings import Findings, Pair
from .images import paired_means
from .measures import ASKED, FOCUS, LAST

LOOKS_AT_OBJECT = "Does it look at the object?"


@dataclass(frozen=True)
class Primary:
    """The difference that answers a question asked beforehand; `p_holm` where there are several such questions."""

    pair: Pair
    question: str
    quantity: Quantity
    difference: Difference
    p_holm: float | None = None


@lru_cache(maxsize=1)  # many parts of a comparison ask, and the power of each test takes time
def primary(findings: Findings) -> tuple[Primary, ...]:
    """The answers to the questions asked beforehand, for each pair; p values adjusted for all of them.

    Is the accuracy higher? Where there are groups of images: is it higher in the worst one? And where there are object
    masks: is the focus index of the last layer another, on the images that both networks of a pair classify correctly?
    """
    found = [one for pair in findings.pairs for one in _primary(findings, pair)]
    p_values = [math.nan if one.difference.p is None else one.difference.p for one in found]
    if len(found) < 2:
        return tuple(found)
    adjusted = [None if math.isnan(p) else float(p) for p in holm(p_values)]
    return tuple(replace(one, p_holm=p) for one, p in zip(found, adjusted, strict=True))


def _primary(findings: Findings, pair: Pair) -> Iterator[Primary]:
    for measure, question in ASKED.items():
        if (found := findings.difference(measure, pair)) is not None:
            yield Primary(pair, question, measure.quantity, found)
    after, before = (findings.looks[name][LAST] for name in (pair.variant, pair.against))
    if "focus" in after and "focus" in before:
        both = (after["right"] > 0) & (before["right"] > 0)
        sides = paired_means(after["focus"], before["focus"], both)
        if sides is not None:
            yield Primary(pair, LOOKS_AT_OBJECT, FOCUS, paired_difference(*sides))

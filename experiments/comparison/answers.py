"""The questions of a comparison and the sentences that answer them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from ..evidence.differences import FEWEST, Difference, Quantity, holm, paired_difference
from ..evidence.network_tests import mcnemar
from ..evidence.sentences import network_sentence, sentence
from ..explaining.probes import SPLIT
from ..runs.contents import config
from .findings import Findings, Member, Pair
from .images import paired_means
from .measures import ASKED, FOCUS, LAST, MEASURES, SECONDARY, WITHOUT_MASKS

NEAR_CHANCE = 2  # times the accuracy of guessing, below which maps explain almost nothing
LONG = 60  # epochs from which the answers do not mention the length of the training
SHORT = (
    "DeVries and Taylor (2017) report a gain from Cutout after 200 epochs; in a short training (here epochs={epochs}) "
    "it can lower accuracy. This comparison does not show what long trainings do."
)

LOOKS_AT_OBJECT = "Does it look at the object?"


@dataclass(frozen=True)
class Answer:
    """A question and the sentence that answers it."""

    question: str
    sentence: str


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
        accuracies = findings.sides(measure, pair)
        if accuracies is not None:
            yield Primary(pair, question, measure.quantity, paired_difference(*accuracies))
    after, before = (findings.looks[name][LAST] for name in (pair.variant, pair.against))
    if "focus" in after and "focus" in before:
        both = (after["right"] > 0) & (before["right"] > 0)
        sides = paired_means(after["focus"], before["focus"], both)
        if sides is not None:
            yield Primary(pair, LOOKS_AT_OBJECT, FOCUS, paired_difference(*sides))


@lru_cache(maxsize=1)
def answers(findings: Findings) -> tuple[Answer, ...]:
    """One sentence per question and pair, and the warnings that a reader needs."""
    asked = primary(findings)
    found = [answer for pair in findings.pairs for answer in _answers(findings, pair, asked)]
    lengths = _short_with_cutout(findings.members)
    return (*found, *(Answer("Does this hold for long trainings?", SHORT.format(epochs=n)) for n in lengths))


def _answers(findings: Findings, pair: Pair, asked: Sequence[Primary]) -> Iterator[Answer]:
    for one in asked:
        if one.pair == pair:
            said = sentence(pair.variant, pair.against, one.difference, one.quantity, one.p_holm)
            yield Answer(one.question, said)
    masked = findings.dataset.splits[SPLIT].masks is not None
    if not masked:
        said = f"no statement: {findings.dataset.name} has no object masks."
        yield Answer(LOOKS_AT_OBJECT, f"{pair.variant} against {pair.against}: {said}")
    yield from _near_chance(findings, pair)
    if len(pair.seeds) == 1:
        network = mcnemar(findings.right[pair.variant][0], findings.right[pair.against][0])
        said = network_sentence(pair.variant, pair.against, pair.seeds[0][0], network)
        yield Answer("Do these two networks differ?", said)
    if len(pair.seeds) >= FEWEST:  # with fewer the other questions have no answer either
        yield from _explored(findings, pair, SECONDARY if masked else WITHOUT_MASKS)


def _near_chance(findings: Findings, pair: Pair) -> Iterator[Answer]:
    for name in (pair.against, pair.variant):
        accuracy = findings.right[name].mean()
        if accuracy < NEAR_CHANCE / len(findings.dataset.classes):
            said = f"{name} is right on {accuracy:.1%} of the images, not far from chance"
            yield Answer("Can the maps be read?", f"{said}: its maps explain almost nothing.")


def _explored(findings: Findings, pair: Pair, questions: dict[str, str]) -> Iterator[Answer]:
    for metric, question in questions.items():
        measure = next(measure for measure in MEASURES if measure.metric == metric)
        sides = findings.sides(measure, pair)
        if sides is not None:
            said = sentence(pair.variant, pair.against, paired_difference(*sides), measure.quantity)
            yield Answer(question, said)


def _short_with_cutout(members: Sequence[Member]) -> list[int]:
    """The epochs of the shortest training with Cutout, if it is short and other trainings have no Cutout."""
    trained = [config(member.run).settings for member in members]
    lengths = [settings.epochs for settings in trained if settings.cutout]
    return [min(lengths)] if lengths and len(lengths) < len(members) and min(lengths) < LONG else []

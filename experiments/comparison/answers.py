"""The questions of a comparison and the sentences that answer them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from ..evidence.differences import FEWEST
from ..evidence.network_tests import mcnemar
from ..evidence.sentences import background_sentence, network_sentence, sentence
from ..explaining.probes import SPLIT
from .findings import Findings, Pair
from .limits import iter_limits
from .measures import ASKED, BACKGROUND_GAP, MAP_ON_OBJECT, MEASURES, SECONDARY, WITHOUT_MASKS
from .primary import LOOKS_AT_OBJECT, primary

Part = Literal["verdict", "limit", "detail"]


@dataclass(frozen=True)
class Answer:
    """A question and the sentence that answers it.

    `part` is "verdict" for what everybody reads, "limit" for what changes its meaning, "detail" for the rest.
    """

    question: str
    sentence: str
    part: Part = "detail"


@lru_cache(maxsize=1)
def answers(findings: Findings) -> tuple[Answer, ...]:
    """The verdict for each pair, what limits it, and the details; the one wording of all outputs."""
    found = [answer for pair in findings.pairs for answer in _of_pair(findings, pair)]
    masked = findings.dataset.splits[SPLIT].masks is not None
    if not masked:
        said = f"no statement: {findings.dataset.name} has no object masks (docs/data.md shows how to add some)."
        found.append(Answer(LOOKS_AT_OBJECT, said, "verdict"))
    limits = [Answer(question, said, "limit") for question, said in iter_limits(findings)]
    details = [answer for pair in findings.pairs for answer in _details(findings, pair, masked=masked)]
    return (*found, *limits, *details)


def _of_pair(findings: Findings, pair: Pair) -> Iterator[Answer]:
    """Accuracy, background and maps, in this order."""
    asked = {one.question: one for one in primary(findings) if one.pair == pair}
    said = {
        question: sentence(pair.variant, pair.against, one.difference, one.quantity, one.p_holm)
        for question, one in asked.items()
    }
    yield from (Answer(question, said[question], "verdict") for question in ASKED.values() if question in said)
    if (gap := findings.difference(BACKGROUND_GAP, pair)) is not None:
        yield Answer("Does it lean on the background?", background_sentence(pair.variant, pair.against, gap), "verdict")
    if LOOKS_AT_OBJECT in said:
        yield Answer(LOOKS_AT_OBJECT, _on_object(findings, pair) + said[LOOKS_AT_OBJECT], "verdict")


def _on_object(findings: Findings, pair: Pair) -> str:
    """The shares of the maps on the object beside those of maps that know nothing; empty if grids differ."""
    energy = findings.difference(MAP_ON_OBJECT, pair)
    if energy is None:
        return ""
    blind = findings.references[findings.grids[pair.variant]]["energy"]
    return (
        f"{energy.mean_variant:.0%} of the map of {pair.variant} is on the object, {energy.mean_baseline:.0%} of that "
        f"of {pair.against} (a uniform map: {blind['uniform']:.0%}, a centred blob: {blind['centre']:.0%}); "
    ).replace("%", " %")


def _details(findings: Findings, pair: Pair, *, masked: bool) -> Iterator[Answer]:
    if len(pair.seeds) == 1:
        network = mcnemar(findings.right[pair.variant][0], findings.right[pair.against][0])
        said = network_sentence(pair.variant, pair.against, pair.seeds[0][0], network)
        yield Answer("Do these two networks differ?", said)
    if len(pair.seeds) >= FEWEST:  # with fewer these questions have no answer
        for metric, question in (SECONDARY if masked else WITHOUT_MASKS).items():
            measure = next(measure for measure in MEASURES if measure.metric == metric)
            if (difference := findings.difference(measure, pair)) is not None:
                yield Answer(question, sentence(pair.variant, pair.against, difference, measure.quantity))

"""What changes the meaning of a verdict: few seeds or images, networks that learned nothing, unequal trainings."""

import math
from collections.abc import Iterator

import numpy as np

from ..evidence.differences import FEWEST
from ..evidence.sentences import wins_text
from ..explaining.probes import SPLIT
from ..runs.contents import config
from .findings import FEW_IMAGES, Findings, Pair
from .measures import IS_BETTER
from .primary import primary

CEILING = 0.995
"""The accuracy from which too few wrong images are left to show a difference."""
CARRIES = 0.8
"""The share of a difference from which one class carries it."""
LONG = 60  # epochs from which nothing is said about the length of the training
SHORT = (
    "DeVries and Taylor (2017) report a gain from Cutout after 200 epochs; in a short training (here epochs={epochs}) "
    "it can lower accuracy. This comparison does not show what long trainings do."
)
SURE, LIMITS = "How sure is this?", "What limits this?"


def iter_limits(findings: Findings) -> Iterator[tuple[str, str]]:
    """Questions and sentences, the most important first."""
    yield SURE, _certainty(findings)
    yield from ((LIMITS, said) for said in _not_learned(findings))
    yield from ((LIMITS, said) for said in (_lengths(findings), _ceiling(findings), _few_images(findings)) if said)
    for one in primary(findings):
        if one.question == IS_BETTER and one.difference.shown and (said := _class_of(findings, one.pair)):
            yield LIMITS, said
    for epochs in _short_with_cutout(findings):
        yield "Does this hold for long trainings?", SHORT.format(epochs=epochs)


def advice(findings: Findings) -> str:
    """What to do next."""
    seeds = min(len(pair.seeds) for pair in findings.pairs)
    if any(findings.near_chance.values()):
        return "train longer (epochs=...) or with more images: networks that learned nothing cannot be compared"
    if seeds < FEWEST:
        return f"compare {FEWEST} or more seeds for an answer about the method: -P seeds={FEWEST}"
    if not any(one.difference.shown for one in primary(findings)):
        return f"add seeds to show smaller differences: -P seeds={2 * seeds} (it reuses these runs)"
    variants = '-P variants="baseline; small: cutout=true cutout_size=8"'
    return f"compare variants of your own: mlflow run . -e compare {variants} -P seeds={seeds}"


def _certainty(findings: Findings) -> str:
    seeds = min(len(pair.seeds) for pair in findings.pairs)
    if seeds < FEWEST:
        return (
            f"{seeds} seed{'s' if seeds > 1 else ''} per variant: two networks also differ by chance, "
            f"so the method has no answer yet; {FEWEST} seeds or more give one."
        )
    accuracy = [one for one in primary(findings) if one.question == IS_BETTER]
    wins = "; ".join(f"{one.pair.variant} is {wins_text(one.difference)}" for one in accuracy)
    found = max((one.difference.detectable or 0.0 for one in accuracy), default=math.nan)
    return (
        f"{wins}. With this spread, {seeds} seeds find a true difference of {100 * found:.2f} points of test accuracy "
        "in 80 % of all comparisons."
    )


def _not_learned(findings: Findings) -> Iterator[str]:
    """Variants and single seeds whose networks are near chance."""
    for name, seeds in findings.near_chance.items():
        if len(seeds) == len(findings.of(name)):
            accuracy = f"{100 * findings.right[name].mean():.1f} %"
            yield f"{name} is near chance (test accuracy {accuracy}): it learned nothing, and its maps explain nothing."
        elif seeds:
            numbers = ", ".join(map(str, seeds))
            yield f"{name} learned nothing with seed {numbers}: its mean and interval describe a failed training too."


def _lengths(findings: Findings) -> str:
    lengths = {name: config(run).settings.epochs for name, run in findings.first_seed.items()}
    if len(set(lengths.values())) == 1:
        return ""
    words = ", ".join(f"{name} {epochs}" for name, epochs in lengths.items())
    return f"the variants were trained for different numbers of epochs ({words}), so the length may be the cause."


def _ceiling(findings: Findings) -> str:
    means = [right.mean() for right in findings.right.values()]
    if min(means) < CEILING:
        return ""
    return (
        f"all variants are right on {100 * min(means):.1f} % of the test images or more: too few wrong ones are left "
        "to show a difference; take harder images, or fewer training images (train_images=...)."
    )


def _few_images(findings: Findings) -> str:
    images = len(findings.dataset.splits[SPLIT])
    if images >= FEW_IMAGES:
        return ""
    return (
        f"with {images} test images, one image is worth {100 / images:.1f} points of accuracy; from three seeds on, "
        "the interval of the accuracy also covers which images were drawn."
    )


def _class_of(findings: Findings, pair: Pair) -> str:
    """The class without which the difference in accuracy would be gone, if there are three classes or more."""
    labels, classes = findings.dataset.splits[SPLIT].labels, findings.dataset.classes
    gained = findings.right[pair.variant].mean(axis=0) - findings.right[pair.against].mean(axis=0)
    shares = np.bincount(labels, weights=gained, minlength=len(classes)) / gained.sum()
    if len(classes) < 3 or shares.max() < CARRIES:
        return ""
    name = classes[int(shares.argmax())]
    share = f"{100 * shares.max():.0f} % of the difference in accuracy"
    return f"{pair.variant} against {pair.against}: {share} is in the class {name} alone."


def _short_with_cutout(findings: Findings) -> list[int]:
    """The epochs of the shortest training with Cutout, if it is short and other trainings have no Cutout."""
    trained = [config(member.run).settings for member in findings.members]
    lengths = [settings.epochs for settings in trained if settings.cutout]
    return [min(lengths)] if lengths and len(lengths) < len(trained) and min(lengths) < LONG else []

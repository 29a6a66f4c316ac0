"""The sentences that report a difference."""

import math
from collections.abc import Sequence

import numpy as np

from .differences import ACCURACY, CONFIDENCE, Better, Difference, Quantity
from .network_tests import NetworkDifference, SeedNoise


def sentence(
    name: str, baseline: str, difference: Difference, quantity: Quantity = ACCURACY, p_holm: float | None = None
) -> str:
    """The conclusion about the method: better, worse (or larger, smaller), or no difference shown.

    `p_holm` is the adjusted p value if the sentence is one of several answers. A difference then counts as shown only
    if `p_holm` is below 5 % too.
    """
    n, start = len(difference.per_seed), f"{name} against {baseline}"
    seeds, amount = _seeds(n), _amount(difference, quantity)
    if difference.low is None or difference.high is None:
        about = "only about these two networks" if n == 1 else "only about these networks; three seeds give an interval"
        return f"{start}: {quantity.name} {amount} with {seeds}: no statement about the method, {about}."
    if difference.equal and not difference.mean:
        return f"{start}: {quantity.name} is the same in each of {seeds}."
    if difference.equal:
        without = "without a spread between seeds there is no interval"
        return f"{start}: {quantity.name} {amount} in each of {seeds}; {without}."
    interval = interval_text(difference, quantity)
    if difference.shown and (p_holm is None or p_holm < 1 - CONFIDENCE):
        corrected = "" if p_holm is None else f", Holm-adjusted {p_text(p_holm)}"
        return f"{_claim(name, baseline, difference, quantity)} {amount} ({interval}{corrected})."
    farthest = max(abs(difference.low), abs(difference.high))
    why = f"differences up to {_written(farthest, quantity, difference)} cannot be excluded"
    if difference.shown:
        why = f"the interval excludes zero, but Holm-adjusted {p_text(p_holm)}"
    return f"{start}: no difference shown in {quantity.name}: {amount} ({interval}); {why}."


def _claim(name: str, baseline: str, difference: Difference, quantity: Quantity) -> str:
    """The beginning of a sentence about a difference that is shown."""
    if quantity.better == "neither":
        return f"{name} against {baseline}: {quantity.name} is {'larger' if difference.mean > 0 else 'smaller'},"
    verdict = "better" if (difference.mean > 0) == quantity.higher else "worse"
    return f"{name} is {verdict} than {baseline}: {quantity.name}"


def _amount(difference: Difference, quantity: Quantity) -> str:
    """Both means and their difference, as "61.20 % against 63.10 %, difference -1.90 points"."""
    unit = " %" if quantity.share else ""
    means = difference.mean_variant, difference.mean_baseline
    both = " against ".join(_number(mean, quantity, difference) + unit for mean in means)
    return f"{both}, difference {_written(difference.mean, quantity, difference, '+')}"


def background_sentence(name: str, baseline: str, gap: Difference) -> str:
    """Which of the two relies on the background more, from what each loses on the background of another class."""
    quantity = Quantity("background gap", "lower")
    loss, other = (_written(mean, quantity, gap) for mean in (gap.mean_variant, gap.mean_baseline))
    said = f"on the background of another class {name} loses {loss} of accuracy, {baseline} {other}"
    if gap.low is None:
        return f"{said}; {_seeds(len(gap.per_seed))}: no statement about the method."
    amount = f"difference {_written(gap.mean, quantity, gap, '+')}, {interval_text(gap, quantity)}, not corrected"
    if gap.shown:
        return f"{said}: {name} leans on the background {'more' if gap.mean > 0 else 'less'} ({amount})."
    return f"{said}: no difference shown ({amount})."


def interval_text(difference: Difference, quantity: Quantity) -> str:
    """The interval and n, as "95 % interval -2.30 to -1.50, 5 seeds". The difference must have an interval."""
    bounds = [bound for bound in (difference.low, difference.high) if bound is not None]
    low, high = (_number(bound, quantity, difference, "+") for bound in bounds)
    over = " and images" if difference.images_too else ""
    return f"95 % interval {low} to {high}, {_seeds(len(difference.per_seed))}{over}"


def wins_text(difference: Difference, better: Better = "higher") -> str:
    """The number of seeds in which the variant is ahead, and the ties if any: "better in 4 of 5 seeds, 1 tie"."""
    ahead = difference.smaller if better == "lower" else difference.larger
    word = "larger" if better == "neither" else "better"
    ties = f", {difference.ties} tie{'' if difference.ties == 1 else 's'}" if difference.ties else ""
    n = len(difference.per_seed)
    return f"{word} in {ahead} of {n} seed{'' if n == 1 else 's'}{ties}"


def network_sentence(name: str, baseline: str, seed: int, difference: NetworkDifference) -> str:
    """The conclusion about the two networks of one seed."""
    mean, low, high = (f"{value * 100:+z.2f}" for value in (difference.mean, difference.low, difference.high))
    alone = (
        f"{difference.only_variant:,} are right only with {name} and {difference.only_baseline:,} only with {baseline}"
    )
    return (
        f"{name} against {baseline}, seed {seed}: of {difference.images:,} images, {alone}: {mean} points "
        f"(95 % interval {low} to {high}, McNemar mid-{p_text(difference.p)}). "
        "This is about these two networks, not about the method."
    )


def noise_sentence(name: str, noise: SeedNoise) -> str:
    """Whether McNemar's test of single networks allows a conclusion about the variant."""
    observed, expected = f"{noise.observed * 100:.2f} points", f"{noise.expected * 100:.2f}"
    numbers = f"standard deviation {observed}, {expected} expected, {p_text(noise.p)}"
    if noise.settled:
        return (
            f"{name}: its {noise.seeds} seeds do not differ more than independent errors explain, as far as this test "
            f"shows ({numbers}). A test of two networks is still a statement about these two only."
        )
    return (
        f"{name}: its {noise.seeds} seeds differ more than independent errors explain ({numbers}), "
        "so a test of two networks gives no conclusion about the method."
    )


def mean_text(values: Sequence[float]) -> str:
    """The mean with three decimals, and the standard deviation (n - 1) of two or more values."""
    deviation = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{deviation}"


def p_text(p: float | None) -> str:
    """The p value with three decimals, as "p = 0.024" or "p < 0.001"; "no p" if there is none."""
    if p is None or math.isnan(p):
        return "no p"
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _seeds(n: int) -> str:
    return "one seed" if n == 1 else f"{n} seeds"


def _written(value: float, quantity: Quantity, difference: Difference, sign: str = "") -> str:
    unit = " points" if quantity.share else ""
    return _number(value, quantity, difference, sign) + unit


def _number(value: float, quantity: Quantity, difference: Difference, sign: str = "") -> str:
    """The value, with as many decimals (up to six) as the bound nearest to zero needs to differ from zero."""
    scale, decimals = quantity.scale, 2 if quantity.share else 3
    bounds = [abs(bound) * scale for bound in (difference.low, difference.high) if bound]
    while decimals < 6 and any(bound < 0.5 * 10**-decimals for bound in bounds):
        decimals += 1
    return f"{value * scale:{sign}z.{decimals}f}"

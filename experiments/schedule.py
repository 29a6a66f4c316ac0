"""Learning rate and momentum as pure functions of progress."""

import math
from collections.abc import Sequence


def constant(progress: float) -> float:
    """1, whatever the progress."""
    return 1.0


def linear(progress: float) -> float:
    """A straight line from 1 at progress 0 to 0 at progress 1."""
    return 1.0 - progress


def cosine(progress: float) -> float:
    """Half a cosine from 1 at progress 0 to 0 at progress 1 (Loshchilov & Hutter 2017, arXiv 1608.03983)."""
    return 0.5 * (1 + math.cos(math.pi * progress))


def cycle(progress: float, warmup: float) -> float:
    """Half a cosine from 0 up to 1 at `warmup`, then half of one down to 0 at progress 1."""
    return 1 - cosine(progress / warmup) if progress < warmup else cosine((progress - warmup) / (1 - warmup))


def onecycle(progress: float, warmup: float) -> float:
    """Cosine from 1/25 up to 1 at `warmup`, then down to 1/250,000 (Smith & Topin 2019; as PyTorch's OneCycleLR)."""
    end = 1 / 25 if progress < warmup else 1 / 25e4
    return end + (1 - end) * cycle(progress, warmup)


def step(epoch: int, milestones: Sequence[int], gamma: float) -> float:
    """`gamma` to the power of how many of the `milestones` lie at or before `epoch`, the first epoch being 0."""
    return gamma ** sum(milestone <= epoch for milestone in milestones)

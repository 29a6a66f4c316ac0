"""Learning rate and momentum as pure functions of the settings and of the number of finished epochs.

`done` is the number of finished epochs, with a fraction inside an epoch. A learning rate is a share of its peak.
"""

import math
from collections.abc import Callable

from ..settings.parts import SCHEDULES, load_part
from ..settings.train import TrainSettings


def relative_rate(settings: TrainSettings, done: float) -> float:
    """The learning rate of the step that starts after `done` epochs."""
    schedule: Callable[[TrainSettings, float], float] = load_part(SCHEDULES, settings.schedule)
    return schedule(settings, done)


def momentum_shift(settings: TrainSettings, done: float) -> float:
    """The number to add to the momentum in the step that starts after `done` epochs."""
    if settings.schedule != "onecycle":
        return 0.0
    return settings.momentum_swing * (1 - 2 * _cycle(done / settings.epochs, settings.lr_warmup))


def constant(settings: TrainSettings, done: float) -> float:
    """Always 1."""
    return 1.0


def linear(settings: TrainSettings, done: float) -> float:
    """A straight line from 1 at the start to 0 at the end."""
    return 1.0 - done / settings.epochs


def cosine(settings: TrainSettings, done: float) -> float:
    """Half a cosine from 1 to 0 at the end (Loshchilov & Hutter 2017, arXiv 1608.03983).

    Before it, until `lr_warmup`, a straight line from 1/100, as in torchvision's references.
    """
    progress = done / settings.epochs
    if progress < settings.lr_warmup:
        return 0.01 + 0.99 * progress / settings.lr_warmup
    return _half_cosine((progress - settings.lr_warmup) / (1 - settings.lr_warmup))


def onecycle(settings: TrainSettings, done: float) -> float:
    """Cosine from 1/25 up to 1 at `lr_warmup`, then down to 1/250,000 (Smith & Topin 2019; as PyTorch's OneCycleLR)."""
    progress = done / settings.epochs
    end = 1 / 25 if progress < settings.lr_warmup else 1 / 25e4
    return end + (1 - end) * _cycle(progress, settings.lr_warmup)


def step(settings: TrainSettings, done: float) -> float:
    """`lr_gamma` to the power of the number of `lr_steps` at or before this epoch; the first epoch is 0."""
    return settings.lr_gamma ** sum(milestone <= math.floor(done) for milestone in settings.lr_step_epochs)


def _half_cosine(progress: float) -> float:
    return 0.5 * (1 + math.cos(math.pi * progress))


def _cycle(progress: float, warmup: float) -> float:
    """Half a cosine from 0 up to 1 at `warmup`, then half a cosine down to 0 at progress 1."""
    if progress < warmup:
        return 1 - _half_cosine(progress / warmup)
    return _half_cosine((progress - warmup) / (1 - warmup))

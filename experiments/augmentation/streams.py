"""Random streams: one for each transform in each epoch, so that trainings of one seed share those that all have."""

import zlib
from collections.abc import Callable

import numpy as np

Streams = Callable[[str], np.random.Generator]
"""The random stream of a transform in one epoch, by the name of the transform."""


def stream(seed: int, epoch: int, name: str, *further: int) -> np.random.Generator:
    """The random generator of one transform in one epoch; `further` is the number of a step or of an image."""
    return np.random.default_rng((seed, epoch, zlib.crc32(name.encode()), *further))

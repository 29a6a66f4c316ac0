"""Names and random numbers that all parts of a scene use."""

import numpy as np
from jaxtyping import Float64

SHAPES = ("disc", "ring", "square", "triangle", "star", "cross", "heart", "moon", "arrow", "hourglass")
TEXTURES = (
    "horizontal stripes",
    "vertical stripes",
    "diagonals",
    "checker",
    "dots",
    "rings",
    "gradient",
    "clouds",
    "pixel noise",
    "bricks",
)
"""Families of background; texture k is the texture of class k."""


OBJECT_STREAM, BACKGROUND_STREAM, NOISE_STREAM = range(3)
UNITS = 32  # lengths are in 32nds of the side, so that a scene looks the same at any size


def draw_uniforms(seed: int, split: int, indices: range, stream: int, count: int) -> Float64[np.ndarray, "n count"]:
    """`count` numbers in [0, 1) for each image, from the random stream of that image."""
    return np.stack([np.random.default_rng([seed, split, i, stream]).random(count) for i in indices])


def between(low: float, high: float, uniform: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    return low + (high - low) * uniform


class Numbers:
    """Gives out the columns of a table of random numbers in order, so that no number is used twice."""

    def __init__(self, table: Float64[np.ndarray, "n count"]) -> None:
        self._table = table
        self._used = 0

    def take(self, *shape: int) -> Float64[np.ndarray, "n ..."]:
        first, self._used = self._used, self._used + int(np.prod(shape, dtype=int))
        if self._used > self._table.shape[1]:
            raise IndexError(f"{self._used} random numbers requested, {self._table.shape[1]} drawn")
        return self._table[:, first : self._used].reshape(-1, *shape)

"""The objects of the scenes: a shape with colour, shading and place, and a bar across it; and the random numbers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64

SHAPES = ("disc", "ring", "square", "triangle", "star", "cross", "heart", "moon", "arrow", "hourglass")
OBJECT_STREAM, BACKGROUND_STREAM, NOISE_STREAM = range(3)
UNITS = 32  # lengths are in 32nds of the side, so that a scene looks the same at any size

CONTRAST = 0.4
"""Smallest distance of the object's colour to every colour of texture, clutter, bar and grey (RGB in 0 ... 1)."""

SHADE = 0.1
"""Largest amount that shading adds to or subtracts from each channel of the object's colour."""

GREY = 0.5
_SUPERSAMPLING = 8
Points = Float64[np.ndarray, "points 2"]


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


@dataclass(frozen=True)
class Objects:
    """The shaded shape and the bar across it, each with the share that it covers of every pixel."""

    colour: Float32[np.ndarray, "n 3"]
    paint: Float32[np.ndarray, "n h w 3"]
    coverage: Float32[np.ndarray, "n h w"]
    bar_colour: Float32[np.ndarray, "n 3"]
    bar: Float32[np.ndarray, "n h w"]

    @property
    def visible(self) -> Bool[np.ndarray, "n h w"]:
        """Pixels that the object covers by half or more, without the part behind the bar."""
        return np.asarray(self.coverage * (1 - self.bar) >= 0.5)


def _first_far(
    candidates: Float64[np.ndarray, "n k *c"], distance: Float64[np.ndarray, "n k"], least: float = CONTRAST
) -> Float64[np.ndarray, "n *c"]:
    """The first candidate of each image at distance `least` or more; if there is none, the farthest one."""
    far = distance >= least
    chosen = np.where(far.any(axis=1), far.argmax(axis=1), distance.argmax(axis=1))
    return np.asarray(candidates[np.arange(len(candidates)), chosen])


def _distance(colours: Float[np.ndarray, "*n 3"], others: Float[np.ndarray, "*m 3"]) -> Float64[np.ndarray, "*k"]:
    return np.asarray(np.linalg.norm(colours - others, axis=-1), np.float64)


def _distance_to_segment(
    points: Float[np.ndarray, "n 1 3"], starts: Float64[np.ndarray, "n k 3"], ends: Float64[np.ndarray, "n k 3"]
) -> Float64[np.ndarray, "n k"]:
    """Distance of a colour to the nearest mixture of two others, which is the smallest contrast in their textures."""
    along = ends - starts
    share = ((points - starts) * along).sum(-1) / np.maximum((along * along).sum(-1), 1e-12)
    return _distance(points, starts + np.clip(share, 0, 1)[..., None] * along)


def _object_colours(numbers: Numbers) -> Float32[np.ndarray, "n 3"]:
    candidates = between(SHADE, 1 - SHADE, numbers.take(16, 3))  # leaves room for the shading at both ends
    return _first_far(candidates, _distance(candidates, np.full(3, GREY))).astype(np.float32)


def texture_colours(numbers: Numbers, colour: Float32[np.ndarray, "n 3"]) -> Float32[np.ndarray, "n 2 3"]:
    """Two different colours whose mixtures all keep the contrast to the object's colour."""
    pairs = numbers.take(48, 2, 3)
    starts, ends = pairs[:, :, 0], pairs[:, :, 1]
    contrast = _distance_to_segment(colour[:, None], starts, ends)
    contrast[_distance(starts, ends) < 0.3] *= 0.01  # last choice
    return _first_far(pairs, contrast).astype(np.float32)


def contrasting(numbers: Numbers, colour: Float32[np.ndarray, "n 3"]) -> Float32[np.ndarray, "n 3"]:
    colours = numbers.take(16, 3)
    return _first_far(colours, _distance(colours, colour[:, None])).astype(np.float32)


def _arc(radius: float, start: float, end: float, points: int, x: float = 0.0) -> Points:
    """Points on a circle; angles are in degrees, y points down."""
    angles = np.radians(np.linspace(start, end, points))
    return np.stack([x + radius * np.cos(angles), radius * np.sin(angles)], axis=1)


def _star() -> Points:
    points = _arc(1.15, -90.0, 270.0, 11)[:-1]
    points[1::2] *= 0.42
    return points


def _heart() -> Points:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y - 2.5], axis=1) / 16


def _moon() -> Points:
    """The disc minus a smaller disc on its right; the two circles meet at 50 degrees of the larger one."""
    tip = np.radians(50)
    centre = 0.55
    radius = float(np.hypot(np.cos(tip) - centre, np.sin(tip)))
    inner = float(np.degrees(np.arctan2(np.sin(tip), np.cos(tip) - centre)))
    moon = np.concatenate([_arc(1.05, 50.0, 310.0, 40), _arc(1.05 * radius, 360.0 - inner, inner, 30, x=1.05 * centre)])
    return np.asarray(moon + np.array([0.2, 0.0]))


def _polygon(*points: tuple[float, float]) -> Points:
    return np.array(points, np.float64)


OUTLINES: Mapping[str, tuple[Points, ...]] = MappingProxyType(
    {
        "disc": (_arc(0.92, 0.0, 360.0, 48),),
        "ring": (_arc(1.0, 0.0, 360.0, 48), _arc(0.52, 0.0, 360.0, 48)),
        "square": (_polygon((-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)),),
        "triangle": (_arc(1.15, -90.0, 270.0, 4)[:-1] + np.array([0.0, 0.2]),),
        "star": (_star(),),
        "cross": (
            _polygon(
                *((-0.32, -1.0), (0.32, -1.0), (0.32, -0.32), (1.0, -0.32), (1.0, 0.32), (0.32, 0.32)),
                *((0.32, 1.0), (-0.32, 1.0), (-0.32, 0.32), (-1.0, 0.32), (-1.0, -0.32), (-0.32, -0.32)),
            ),
        ),
        "heart": (_heart(),),
        "moon": (_moon(),),
        "arrow": (
            _polygon(
                *((-1.05, -0.3), (0.05, -0.3), (0.05, -0.85), (1.1, 0.0)),
                *((0.05, 0.85), (0.05, 0.3), (-1.05, 0.3)),
            ),
        ),
        "hourglass": (_polygon((-0.8, -1.0), (0.8, -1.0), (0.1, 0.0), (0.8, 1.0), (-0.8, 1.0), (-0.1, 0.0)),),
    }
)
"""Outline of each shape in a circle of radius about 1, y points down; a second outline is a hole."""


def filled(
    outlines: Iterator[list[Float64[np.ndarray, "points 2"]]], n: int, size: int
) -> Float32[np.ndarray, "n size size"]:
    """The share of each pixel that the outlines (in units) cover, from a drawing at eight times the size."""
    bits = 8
    canvas = np.empty((_SUPERSAMPLING * size, _SUPERSAMPLING * size), np.uint8)
    coverage = np.empty((n, size, size), np.uint8)
    to_fixed_point = _SUPERSAMPLING * size / UNITS * (1 << bits)
    for image, contours in zip(coverage, outlines, strict=True):
        canvas[:] = 0
        # OpenCV measures from the centre of a pixel, this module from its corner.
        fixed = [np.rint(contour * to_fixed_point - (1 << (bits - 1))).astype(np.int32) for contour in contours]
        cv2.fillPoly(canvas, fixed, 255, shift=bits)
        cv2.resize(canvas, (size, size), dst=image, interpolation=cv2.INTER_AREA)
    return coverage.astype(np.float32) / np.float32(255)


def _rotations(degrees: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n 2 2"]:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.stack([np.stack([cos, sin], axis=1), np.stack([-sin, cos], axis=1)], axis=1)


def _placed(numbers: Numbers) -> tuple[Float64[np.ndarray, "n 2"], Float64[np.ndarray, "n 2 2"]]:
    """Centre and matrix of each object: radius 24 to 40 % of the side; at most a tenth of it is outside the image."""
    radius = between(0.24, 0.40, numbers.take()) * UNITS
    stretch = np.exp(between(-0.18, 0.18, numbers.take()))
    turn = _rotations(between(-45.0, 45.0, numbers.take()))
    scale = np.stack([radius * stretch, radius / stretch], axis=1)
    room = 0.9 * radius[:, None]
    centre = room + (UNITS - 2 * room) * numbers.take(2)
    return centre, scale[:, :, None] * turn


def pixel_grid(size: int) -> tuple[Float32[np.ndarray, "size 1"], Float32[np.ndarray, "1 size"]]:
    """The y and x coordinates of the pixel centres, in units."""
    positions = ((np.arange(size) + 0.5) * UNITS / size).astype(np.float32)
    return positions[:, None], positions[None, :]


def as_column(values: Float[np.ndarray, "n"]) -> Float32[np.ndarray, "n 1 1"]:
    return values.astype(np.float32)[:, None, None]


def _shaded(
    colour: Float32[np.ndarray, "n 3"], centre: Float64[np.ndarray, "n 2"], numbers: Numbers, size: int
) -> Float32[np.ndarray, "n size size 3"]:
    """The object's colour, lighter towards one side."""
    y, x = pixel_grid(size)
    angle, strength = 2 * np.pi * numbers.take(), between(0.3, 1.0, numbers.take()) * SHADE
    along = (x - as_column(centre[:, 0])) * as_column(np.cos(angle)) + (y - as_column(centre[:, 1])) * as_column(
        np.sin(angle)
    )
    light = as_column(strength) * np.clip(along / np.float32(0.3 * UNITS), -1, 1)
    return np.asarray(colour[:, None, None, :] + light[..., None])


def _bars(centre: Float64[np.ndarray, "n 2"], numbers: Numbers) -> Iterator[list[Float64[np.ndarray, "4 2"]]]:
    """A bar of 9 to 16 % of the side across every fourth object on average; an empty outline for the others."""
    there = numbers.take() < 0.25
    turn = _rotations(180 * numbers.take())
    half = np.array([UNITS * 2.0, 0.0]), between(0.045, 0.08, numbers.take()) * UNITS
    middle = centre + between(-0.12, 0.12, numbers.take(2)) * UNITS
    for i in range(len(centre)):
        long, wide = half[0] @ turn[i], np.array([0.0, half[1][i]]) @ turn[i]
        corners = middle[i] + np.stack([long + wide, long - wide, -long - wide, -long + wide])
        yield [corners] if there[i] else []


def draw_objects(labels: Int64[np.ndarray, "n"], seed: int, split: int, indices: range, image_size: int) -> Objects:
    """Objects with the given labels for the images `indices` of a drawn split (0 train, 1 val, 2 test)."""
    numbers = Numbers(draw_uniforms(seed, split, indices, OBJECT_STREAM, 128))
    centre, matrix = _placed(numbers)
    colour = _object_colours(numbers)
    paint = _shaded(colour, centre, numbers, image_size)
    bar_colour = contrasting(numbers, colour)
    outlines = ([outline @ matrix[i] + centre[i] for outline in OUTLINES[SHAPES[k]]] for i, k in enumerate(labels))
    return Objects(
        colour=colour,
        paint=paint,
        coverage=filled(outlines, len(labels), image_size),
        bar_colour=bar_colour,
        bar=filled(_bars(centre, numbers), len(labels), image_size),
    )

"""The built-in data set: drawn objects with exact masks, on backgrounds that can give the answer away.

The class is the shape alone: colour, size, rotation, proportions, place and shading are random. Behind it lies one of
ten texture families. Each class has one of its own, and `background_bias` says how often it is there, so that a network
can learn the background instead of the object, and it is known by how much (the idea of Waterbirds, Sagawa et al., ICLR
2020, and of the Mixed-Same, Mixed-Rand and Only-BG splits of ImageNet-9, Xiao et al., arXiv:2006.09994).

Each image draws from three random streams of its own, `default_rng([seed, split, i, stream])`, for object, background
and noise: the same object, with the same bar across it and the same noise, can be rendered on another background.

Shapes are filled by OpenCV at eight times the size and averaged down. Pixels repeat exactly on one machine; on another
processor or OpenCV the last bit of a pixel can differ, which is why the digest of a data set is taken over its pixels.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64, UInt8

VERSION = 1
"""Of the generator: whoever changes what is drawn raises it, and every cache is made anew."""
SEED = 0
"""Of the data set, which is the same in every run: the seed of a run never changes it."""
SMALLEST = 16
"""Pixels of a side below which the shapes cannot be told apart."""

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
"""Background families; texture k is the own texture of class k."""

SIZES: Mapping[str, int] = MappingProxyType({"train": 10_000, "val": 2_000, "test": 2_000})
"""Images per drawn split; the variants of the test split have as many as it has."""
VARIANTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "train": ("train",),
        "val": ("val",),
        "test": ("test", "own", "other", "background_only", "object_only"),
    }
)
"""Splits made of the objects of each drawn split, paired image by image."""

CONTRAST = 0.4
"""Least distance of the object's colour to every colour of texture, clutter, bar and grey (RGB in 0 ... 1)."""
SHADE = 0.1
"""Most that shading adds to or takes from each channel of the object's colour."""
GREY = 0.5
NOISE = 0.05

_OBJECT, _BACKGROUND, _NOISE = range(3)
_UNITS = 32  # lengths are given in 32nds of the side, so that a scene looks the same at any size
_SUPERSAMPLING = 8
_CHUNK = 250  # images rendered together: what they need stays in the processor's cache

Points = Float64[np.ndarray, "points 2"]


@dataclass(frozen=True)
class Scenes:
    """Finished images: uint8 RGB, labels, masks of the visible object, index into `TEXTURES` (-1: plain grey)."""

    images: UInt8[np.ndarray, "n h w 3"]
    labels: Int64[np.ndarray, "n"]
    masks: Bool[np.ndarray, "n h w"]
    textures: Int64[np.ndarray, "n"]


@dataclass(frozen=True)
class Objects:
    """What lies in front: the shaded shape and the bar across it, each with the share of every pixel that it covers."""

    colour: Float32[np.ndarray, "n 3"]
    paint: Float32[np.ndarray, "n h w 3"]
    coverage: Float32[np.ndarray, "n h w"]
    bar_colour: Float32[np.ndarray, "n 3"]
    bar: Float32[np.ndarray, "n h w"]

    @property
    def visible(self) -> Bool[np.ndarray, "n h w"]:
        """Pixels of which the object, where the bar leaves it visible, covers half or more."""
        return np.asarray(self.coverage * (1 - self.bar) >= 0.5)


@dataclass(frozen=True)
class Backdrops:
    """What lies behind, but for the choice of texture: random numbers, two colours and the clutter of each image."""

    uniforms: Float64[np.ndarray, "n numbers"]
    cells: Float32[np.ndarray, "n 32 32"]
    colours: Float32[np.ndarray, "n 2 3"]
    clutter_colours: Float32[np.ndarray, "n 2 3"]
    clutter: Float32[np.ndarray, "n 2 h w"]


# ---- random numbers ------------------------------------------------------------------------------------------------


def _uniforms(seed: int, split: int, indices: range, stream: int, count: int) -> Float64[np.ndarray, "n count"]:
    """`count` numbers in [0, 1) for each image, from the stream of that image."""
    return np.stack([np.random.default_rng([seed, split, i, stream]).random(count) for i in indices])


def _noise(seed: int, split: int, indices: range, size: int) -> Float32[np.ndarray, "n size size 3"]:
    noise = np.empty((len(indices), size, size, 3), np.float32)
    for image, i in zip(noise, indices, strict=True):
        np.random.default_rng([seed, split, i, _NOISE]).standard_normal(dtype=np.float32, out=image)
    return noise * np.float32(NOISE)


def _between(low: float, high: float, uniform: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    return low + (high - low) * uniform


class _Numbers:
    """Deals the columns of a table of random numbers in turn, so that no number serves two purposes."""

    def __init__(self, table: Float64[np.ndarray, "n count"]) -> None:
        self._table = table
        self._used = 0

    def take(self, *shape: int) -> Float64[np.ndarray, "n ..."]:
        first, self._used = self._used, self._used + int(np.prod(shape, dtype=int))
        if self._used > self._table.shape[1]:
            raise IndexError(f"{self._used} random numbers wanted, {self._table.shape[1]} drawn")
        return self._table[:, first : self._used].reshape(-1, *shape)


# ---- colours -------------------------------------------------------------------------------------------------------


def _first_far(
    candidates: Float64[np.ndarray, "n k *c"], distance: Float64[np.ndarray, "n k"], least: float = CONTRAST
) -> Float64[np.ndarray, "n *c"]:
    """The first candidate of each image at `least` or more; the farthest where there is none."""
    far = distance >= least
    chosen = np.where(far.any(axis=1), far.argmax(axis=1), distance.argmax(axis=1))
    return np.asarray(candidates[np.arange(len(candidates)), chosen])


def _distance(colours: Float[np.ndarray, "*n 3"], others: Float[np.ndarray, "*m 3"]) -> Float64[np.ndarray, "*k"]:
    return np.asarray(np.linalg.norm(colours - others, axis=-1), np.float64)


def _distance_to_segment(
    points: Float[np.ndarray, "n 1 3"], starts: Float64[np.ndarray, "n k 3"], ends: Float64[np.ndarray, "n k 3"]
) -> Float64[np.ndarray, "n k"]:
    """Distance of a colour to the nearest mixture of two others: what it contrasts with in any texture of the two."""
    along = ends - starts
    share = ((points - starts) * along).sum(-1) / np.maximum((along * along).sum(-1), 1e-12)
    return _distance(points, starts + np.clip(share, 0, 1)[..., None] * along)


def _object_colours(numbers: _Numbers) -> Float32[np.ndarray, "n 3"]:
    candidates = _between(SHADE, 1 - SHADE, numbers.take(16, 3))  # room for the shading at both ends
    return _first_far(candidates, _distance(candidates, np.full(3, GREY))).astype(np.float32)


def _texture_colours(
    numbers: _Numbers, colour: Float32[np.ndarray, "n 3"], candidates: int = 48, least_apart: float = 0.3
) -> Float32[np.ndarray, "n 2 3"]:
    """Two colours that can be told apart, all mixtures of which keep the contrast to the object's colour."""
    pairs = numbers.take(candidates, 2, 3)
    starts, ends = pairs[:, :, 0], pairs[:, :, 1]
    contrast = _distance_to_segment(colour[:, None], starts, ends)
    contrast[_distance(starts, ends) < least_apart] *= 0.01  # last choice
    return _first_far(pairs, contrast).astype(np.float32)


def _contrasting(
    numbers: _Numbers, colour: Float32[np.ndarray, "n 3"], candidates: int = 16
) -> Float32[np.ndarray, "n 3"]:
    colours = numbers.take(candidates, 3)
    return _first_far(colours, _distance(colours, colour[:, None])).astype(np.float32)


# ---- shapes --------------------------------------------------------------------------------------------------------


def _arc(radius: float, start: float, end: float, points: int, x: float = 0.0, y: float = 0.0) -> Points:
    """Points on a circle, angles in degrees, y downwards."""
    angles = np.radians(np.linspace(start, end, points))
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)


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
    """The disc less a smaller disc to its right; the two circles meet at 50 degrees of the larger one."""
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
"""Outline of each shape in a circle of radius about 1, y downwards; a second outline is a hole."""


def _filled(
    outlines: Iterator[list[Float64[np.ndarray, "points 2"]]], n: int, size: int
) -> Float32[np.ndarray, "n size size"]:
    """Share of each pixel that the outlines (in units) cover, from a fill at eight times the size."""
    bits = 8
    canvas = np.empty((_SUPERSAMPLING * size, _SUPERSAMPLING * size), np.uint8)
    coverage = np.empty((n, size, size), np.uint8)
    to_fixed_point = _SUPERSAMPLING * size / _UNITS * (1 << bits)
    for image, contours in zip(coverage, outlines, strict=True):
        canvas[:] = 0
        # OpenCV counts from the centre of a pixel, we from its corner.
        fixed = [np.rint(contour * to_fixed_point - (1 << (bits - 1))).astype(np.int32) for contour in contours]
        cv2.fillPoly(canvas, fixed, 255, shift=bits)
        cv2.resize(canvas, (size, size), dst=image, interpolation=cv2.INTER_AREA)
    return coverage.astype(np.float32) / np.float32(255)


def _rotations(degrees: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n 2 2"]:
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.stack([np.stack([cos, sin], axis=1), np.stack([-sin, cos], axis=1)], axis=1)


def _placed(numbers: _Numbers) -> tuple[Float64[np.ndarray, "n 2"], Float64[np.ndarray, "n 2 2"]]:
    """Centre and matrix of each object: radius 24 to 40 % of the side, at most a tenth of it beyond the border."""
    radius = _between(0.24, 0.40, numbers.take()) * _UNITS
    stretch = np.exp(_between(-0.18, 0.18, numbers.take()))
    turn = _rotations(_between(-45.0, 45.0, numbers.take()))
    scale = np.stack([radius * stretch, radius / stretch], axis=1)
    room = 0.9 * radius[:, None]
    centre = room + (_UNITS - 2 * room) * numbers.take(2)
    return centre, scale[:, :, None] * turn


def _grid(size: int) -> tuple[Float32[np.ndarray, "size 1"], Float32[np.ndarray, "1 size"]]:
    """y and x of the pixel centres, in units."""
    positions = ((np.arange(size) + 0.5) * _UNITS / size).astype(np.float32)
    return positions[:, None], positions[None, :]


def _column(values: Float[np.ndarray, "n"]) -> Float32[np.ndarray, "n 1 1"]:
    return values.astype(np.float32)[:, None, None]


def _shaded(
    colour: Float32[np.ndarray, "n 3"], centre: Float64[np.ndarray, "n 2"], numbers: _Numbers, size: int
) -> Float32[np.ndarray, "n size size 3"]:
    """The object's colour, lighter towards one side."""
    y, x = _grid(size)
    angle, strength = 2 * np.pi * numbers.take(), _between(0.3, 1.0, numbers.take()) * SHADE
    along = (x - _column(centre[:, 0])) * _column(np.cos(angle)) + (y - _column(centre[:, 1])) * _column(np.sin(angle))
    light = _column(strength) * np.clip(along / np.float32(0.3 * _UNITS), -1, 1)
    return np.asarray(colour[:, None, None, :] + light[..., None])


def _bars(
    centre: Float64[np.ndarray, "n 2"], numbers: _Numbers, probability: float = 0.25
) -> Iterator[list[Float64[np.ndarray, "4 2"]]]:
    """A bar of 9 to 16 % of the side across every fourth object; an empty outline elsewhere."""
    there = numbers.take() < probability
    turn = _rotations(180 * numbers.take())
    half = np.array([_UNITS * 2.0, 0.0]), _between(0.045, 0.08, numbers.take()) * _UNITS
    middle = centre + _between(-0.12, 0.12, numbers.take(2)) * _UNITS
    for i in range(len(centre)):
        long, wide = half[0] @ turn[i], np.array([0.0, half[1][i]]) @ turn[i]
        corners = middle[i] + np.stack([long + wide, long - wide, -long - wide, -long + wide])
        yield [corners] if there[i] else []


def draw_objects(labels: Int64[np.ndarray, "n"], seed: int, split: int, indices: range, image_size: int) -> Objects:
    """Objects of the given labels for the images `indices` of a drawn split (0 train, 1 val, 2 test)."""
    numbers = _Numbers(_uniforms(seed, split, indices, _OBJECT, 128))
    centre, matrix = _placed(numbers)
    colour = _object_colours(numbers)
    paint = _shaded(colour, centre, numbers, image_size)
    bar_colour = _contrasting(numbers, colour)
    outlines = ([outline @ matrix[i] + centre[i] for outline in OUTLINES[SHAPES[k]]] for i, k in enumerate(labels))
    return Objects(
        colour=colour,
        paint=paint,
        coverage=_filled(outlines, len(labels), image_size),
        bar_colour=bar_colour,
        bar=_filled(_bars(centre, numbers), len(labels), image_size),
    )


# ---- textures: each a map of numbers in 0 ... 1 that says how much of the second colour a pixel has ------------------

Uniform = Float64[np.ndarray, "n 8"]
Cells = Float32[np.ndarray, "n 32 32"]
Mixture = Float32[np.ndarray, "n size size"]
Field = Float32[np.ndarray, "_ _ _"]  # a mixture, or what is one after broadcasting


def _edge(distance: Field, size: int) -> Field:
    """1 inside, 0 outside, with an edge one pixel wide; distance in units."""
    return np.asarray(np.clip(np.float32(0.5) + distance * np.float32(size / _UNITS), 0, 1))


def _wave(along: Field, period: Float64[np.ndarray, "n"], phase: Float64[np.ndarray, "n"], size: int) -> Field:
    """Stripes of equal width across a coordinate in units."""
    turns = along / _column(period) + _column(phase)
    return _edge((np.abs(turns - np.floor(turns) - np.float32(0.5)) - np.float32(0.25)) * _column(period), size)


def _stripes(degrees: Float64[np.ndarray, "n"], u: Uniform, size: int) -> Mixture:
    y, x = _grid(size)
    angle = np.radians(degrees + _between(-7.0, 7.0, u[:, 2]))
    along = x * _column(np.cos(angle)) + y * _column(np.sin(angle))
    return _wave(along, _between(5.0, 8.5, u[:, 0]), u[:, 1], size)


def _horizontal(u: Uniform, cells: Cells, size: int) -> Mixture:
    return _stripes(np.full(len(u), 90.0), u, size)


def _vertical(u: Uniform, cells: Cells, size: int) -> Mixture:
    return _stripes(np.zeros(len(u)), u, size)


def _diagonals(u: Uniform, cells: Cells, size: int) -> Mixture:
    return _stripes(np.where(u[:, 3] < 0.5, 45.0, -45.0), u, size)


def _checker(u: Uniform, cells: Cells, size: int) -> Mixture:
    y, x = _grid(size)
    period = _between(7.0, 12.0, u[:, 0])
    across, down = _wave(x[None], period, u[:, 1], size), _wave(y[None], period, u[:, 2], size)
    return np.asarray(across + down - 2 * across * down)


def _dots(u: Uniform, cells: Cells, size: int) -> Mixture:
    """Discs on a lattice, every second row moved by half a step."""
    y, x = _grid(size)
    period = _column(_between(6.0, 9.0, u[:, 0]))
    down = y / period + _column(u[:, 1])
    row = np.floor(down)
    across = x / period + _column(u[:, 2]) + np.float32(0.5) * (row % 2)
    away = np.hypot(across - np.floor(across) - np.float32(0.5), down - row - np.float32(0.5))
    return _edge((_column(_between(0.26, 0.34, u[:, 3])) - away) * period, size)


def _rings(u: Uniform, cells: Cells, size: int) -> Mixture:
    y, x = _grid(size)
    away = np.hypot(y - _column(_UNITS * u[:, 2]), x - _column(_UNITS * u[:, 3]))
    return _wave(away, _between(5.0, 8.5, u[:, 0]), u[:, 1], size)


def _gradient(u: Uniform, cells: Cells, size: int) -> Mixture:
    """An even slope from one colour to the other, in any direction."""
    y, x = _grid(size)
    cos, sin = _column(np.cos(2 * np.pi * u[:, 0])), _column(np.sin(2 * np.pi * u[:, 0]))
    along = ((x - _UNITS / 2) * cos + (y - _UNITS / 2) * sin) / (np.abs(cos) + np.abs(sin))
    return np.asarray(np.clip(along / _UNITS + np.float32(0.5), 0, 1))


def _clouds(u: Uniform, cells: Cells, size: int) -> Mixture:
    """Smooth noise of two scales, stretched to the whole range."""
    maps = np.empty((len(u), size, size), np.float32)
    for image, numbers in zip(maps, cells, strict=True):
        coarse = cv2.resize(numbers[:5, :5], (size, size), interpolation=cv2.INTER_CUBIC)
        fine = cv2.resize(numbers[8:18, 8:18], (size, size), interpolation=cv2.INTER_CUBIC)
        image[:] = coarse + np.float32(0.4) * fine
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    return np.asarray((maps - low) / (high - low))


def _pixel_noise(u: Uniform, cells: Cells, size: int) -> Mixture:
    nearest = np.arange(size) * _UNITS // size
    return cells[:, nearest[:, None], nearest[None, :]]


def _bricks(u: Uniform, cells: Cells, size: int) -> Mixture:
    """Rows of bricks, each row moved by half a brick, with joints a pixel and a half wide."""
    y, x = _grid(size)
    height, length = _column(_between(4.5, 6.5, u[:, 0])), _column(_between(9.0, 13.0, u[:, 1]))
    down = y / height + _column(u[:, 2])
    row = np.floor(down)
    across = x / length + _column(u[:, 3]) + np.float32(0.5) * (row % 2)
    to_joint = np.minimum(
        (np.float32(0.5) - np.abs(down - row - np.float32(0.5))) * height,
        (np.float32(0.5) - np.abs(across - np.floor(across) - np.float32(0.5))) * length,
    )
    return _edge(to_joint - np.float32(0.75), size)


_DRAW: tuple[Callable[[Uniform, Cells, int], Mixture], ...] = (
    _horizontal,
    _vertical,
    _diagonals,
    _checker,
    _dots,
    _rings,
    _gradient,
    _clouds,
    _pixel_noise,
    _bricks,
)


# ---- backgrounds ---------------------------------------------------------------------------------------------------


def _clutter(numbers: _Numbers, image_size: int) -> Float32[np.ndarray, "n 2 h w"]:
    """None, one or two small irregular pentagons."""
    count = np.floor(3 * numbers.take())
    layers = []
    for k in range(2):
        centre = _UNITS * numbers.take(1, 2)
        radius = _between(0.05, 0.13, numbers.take(5, 1)) * _UNITS
        angle = 2 * np.pi * (np.arange(5)[None, :, None] + _between(-0.3, 0.3, numbers.take(5, 1))) / 5
        outline = centre + radius * np.concatenate([np.cos(angle), np.sin(angle)], axis=2)
        outlines = ([outline[i]] if count[i] > k else [] for i in range(len(count)))
        layers.append(_filled(outlines, len(count), image_size))
    return np.stack(layers, axis=1)


def draw_backdrops(
    colour: Float32[np.ndarray, "n 3"], seed: int, split: int, indices: range, image_size: int
) -> Backdrops:
    """Backgrounds for objects of the given colours: everything but the family of the texture."""
    cells = _UNITS * _UNITS
    table = _uniforms(seed, split, indices, _BACKGROUND, 512 + cells)
    numbers = _Numbers(table[:, :512])
    uniforms = numbers.take(12)
    colours = _texture_colours(numbers, colour)
    clutter_colours = np.stack([_contrasting(numbers, colour), _contrasting(numbers, colour)], axis=1)
    return Backdrops(
        uniforms=uniforms,
        cells=table[:, 512:].reshape(-1, _UNITS, _UNITS).astype(np.float32),
        colours=colours,
        clutter_colours=clutter_colours,
        clutter=_clutter(numbers, image_size),
    )


def choose_textures(
    variant: str, labels: Int64[np.ndarray, "n"], uniforms: Float64[np.ndarray, "n numbers"], background_bias: float
) -> Int64[np.ndarray, "n"]:
    """Texture of each image: -1 (grey) for object_only, the own one for own and background_only, one of the nine others
    for other; else the own one with probability `background_bias`, and any of the ten otherwise."""
    n = len(TEXTURES)
    if variant == "object_only":
        return np.full(len(labels), -1, np.int64)
    if variant in ("own", "background_only"):
        return labels.copy()
    if variant == "other":
        return np.asarray((labels + 1 + np.floor((n - 1) * uniforms[:, 2]).astype(np.int64)) % n)
    anyone = np.floor(n * uniforms[:, 1]).astype(np.int64)
    return np.where(uniforms[:, 0] < background_bias, labels, anyone)


def paint_backdrops(backdrops: Backdrops, textures: Int64[np.ndarray, "n"]) -> Float32[np.ndarray, "n h w 3"]:
    """Backgrounds in 0 ... 1: texture with its clutter, plain grey where the texture is -1."""
    size = backdrops.clutter.shape[-1]
    mixture = np.zeros((len(textures), size, size), np.float32)
    for k in np.unique(textures[textures >= 0]):
        of = np.flatnonzero(textures == k)
        mixture[of] = _DRAW[k](backdrops.uniforms[of, 4:], backdrops.cells[of], size)
    first, second = backdrops.colours[:, 0], backdrops.colours[:, 1]
    canvas = first[:, None, None] + (second - first)[:, None, None] * mixture[..., None]
    for k in range(2):
        _lay(canvas, backdrops.clutter_colours[:, k][:, None, None], backdrops.clutter[:, k])
    canvas[textures < 0] = GREY
    return np.asarray(canvas)


def _lay(
    canvas: Float32[np.ndarray, "n h w 3"],
    paint: Float32[np.ndarray, "n #h #w 3"],
    coverage: Float32[np.ndarray, "n h w"],
) -> None:
    """Lays paint over the canvas, in place."""
    for image, colours, share in zip(canvas, paint, coverage, strict=True):
        if share.any():
            image += (colours - image) * share[..., None]


# ---- images --------------------------------------------------------------------------------------------------------


def compose(
    canvas: Float32[np.ndarray, "n h w 3"],
    objects: Objects,
    noise: Float32[np.ndarray, "n h w 3"],
    with_object: bool,
) -> UInt8[np.ndarray, "n h w 3"]:
    """Finished images: the background, the object unless it is to be left out, the bar, the noise."""
    scene = canvas.copy()
    if with_object:
        _lay(scene, objects.paint, objects.coverage)
    _lay(scene, objects.bar_colour[:, None, None], objects.bar)
    scene += noise
    scene *= 255
    return np.clip(np.rint(scene, out=scene), 0, 255, out=scene).astype(np.uint8)


def render(
    drawn_split: str, indices: range, *, background_bias: float, image_size: int, seed: int = SEED
) -> dict[str, Scenes]:
    """Images `indices` of every variant of a drawn split (`train`, `val` or `test`), by name.

    Image i has label i modulo 10. In `background_only` object and mask are missing, in `object_only` the background is
    plain grey without clutter; bar and noise are the same in all variants.
    """
    split = list(VARIANTS).index(drawn_split)
    labels = np.asarray(indices, np.int64) % len(SHAPES)
    objects = draw_objects(labels, seed, split, indices, image_size)
    backdrops = draw_backdrops(objects.colour, seed, split, indices, image_size)
    noise = _noise(seed, split, indices, image_size)
    scenes = {}
    for variant in VARIANTS[drawn_split]:
        textures = choose_textures(variant, labels, backdrops.uniforms, background_bias)
        with_object = variant != "background_only"
        images = compose(paint_backdrops(backdrops, textures), objects, noise, with_object)
        scenes[variant] = Scenes(images, labels, objects.visible & with_object, textures)
    return scenes


def _joined(parts: list[Scenes]) -> Scenes:
    return Scenes(
        images=np.concatenate([part.images for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        masks=np.concatenate([part.masks for part in parts]),
        textures=np.concatenate([part.textures for part in parts]),
    )


def generate(
    *, background_bias: float, image_size: int, seed: int = SEED, sizes: Mapping[str, int] = SIZES
) -> dict[str, Scenes]:
    """All splits by name: train, val, test, own, other, background_only, object_only.

    `background_bias` in [0, 1] is the probability that an image of train, val or test has its class's own texture; the
    rest have any of the ten, so that the own one is there with probability b + (1 - b) / 10. The other splits show
    the objects of test on their own texture, on another class's, none on their own texture, and on grey. A split of
    `sizes` may be shortened: image i stays the same. Raises ValueError for a bias or an `image_size` out of range.
    """
    if not 0 <= background_bias <= 1:
        raise ValueError(f"background_bias {background_bias} must lie between 0 and 1")
    if image_size < SMALLEST:
        raise ValueError(f"image_size {image_size} is too small for the scenes: {SMALLEST} or more")
    scenes: dict[str, Scenes] = {}
    for drawn, n in sizes.items():
        chunks = [range(first, min(first + _CHUNK, n)) for first in range(0, n, _CHUNK)]
        parts = [render(drawn, c, background_bias=background_bias, image_size=image_size, seed=seed) for c in chunks]
        scenes |= {variant: _joined([part[variant] for part in parts]) for variant in VARIANTS[drawn]}
    return scenes

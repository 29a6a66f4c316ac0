"""The backgrounds of the scenes: ten families of textures, and clutter."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np
from jaxtyping import Float32, Float64, Int64

from .scene_objects import (
    BACKGROUND_STREAM,
    GREY,
    UNITS,
    Numbers,
    as_column,
    between,
    contrasting,
    draw_uniforms,
    filled,
    pixel_grid,
    texture_colours,
)


@dataclass(frozen=True)
class Backdrops:
    """The backgrounds without the choice of texture: random numbers, two colours and the clutter of each image."""

    uniforms: Float64[np.ndarray, "n numbers"]
    cells: Float32[np.ndarray, "n 32 32"]
    colours: Float32[np.ndarray, "n 2 3"]
    clutter_colours: Float32[np.ndarray, "n 2 3"]
    clutter: Float32[np.ndarray, "n 2 h w"]


Uniform = Float64[np.ndarray, "n 8"]
Cells = Float32[np.ndarray, "n 32 32"]
Mixture = Float32[np.ndarray, "n size size"]
Field = Float32[np.ndarray, "_ _ _"]  # a mixture, or an array that broadcasts to one


def _edge(distance: Field, size: int) -> Field:
    """1 inside, 0 outside, with an edge that is one pixel wide; distance in units."""
    return np.asarray(np.clip(np.float32(0.5) + distance * np.float32(size / UNITS), 0, 1))


def _wave(along: Field, period: Float64[np.ndarray, "n"], phase: Float64[np.ndarray, "n"], size: int) -> Field:
    """Stripes of equal width along a coordinate in units."""
    turns = along / as_column(period) + as_column(phase)
    return _edge((np.abs(turns - np.floor(turns) - np.float32(0.5)) - np.float32(0.25)) * as_column(period), size)


def _stripes(degrees: Float64[np.ndarray, "n"], u: Uniform, size: int) -> Mixture:
    y, x = pixel_grid(size)
    angle = np.radians(degrees + between(-7.0, 7.0, u[:, 2]))
    along = x * as_column(np.cos(angle)) + y * as_column(np.sin(angle))
    return _wave(along, between(5.0, 8.5, u[:, 0]), u[:, 1], size)


def _checker(u: Uniform, cells: Cells, size: int) -> Mixture:
    y, x = pixel_grid(size)
    period = between(7.0, 12.0, u[:, 0])
    across, down = _wave(x[None], period, u[:, 1], size), _wave(y[None], period, u[:, 2], size)
    return np.asarray(across + down - 2 * across * down)


def _dots(u: Uniform, cells: Cells, size: int) -> Mixture:
    """Discs on a grid, every second row moved by half a step."""
    y, x = pixel_grid(size)
    period = as_column(between(6.0, 9.0, u[:, 0]))
    down = y / period + as_column(u[:, 1])
    row = np.floor(down)
    across = x / period + as_column(u[:, 2]) + np.float32(0.5) * (row % 2)
    away = np.hypot(across - np.floor(across) - np.float32(0.5), down - row - np.float32(0.5))
    return _edge((as_column(between(0.26, 0.34, u[:, 3])) - away) * period, size)


def _rings(u: Uniform, cells: Cells, size: int) -> Mixture:
    y, x = pixel_grid(size)
    away = np.hypot(y - as_column(UNITS * u[:, 2]), x - as_column(UNITS * u[:, 3]))
    return _wave(away, between(5.0, 8.5, u[:, 0]), u[:, 1], size)


def _gradient(u: Uniform, cells: Cells, size: int) -> Mixture:
    """A linear change from one colour to the other, in any direction."""
    y, x = pixel_grid(size)
    cos, sin = as_column(np.cos(2 * np.pi * u[:, 0])), as_column(np.sin(2 * np.pi * u[:, 0]))
    along = ((x - UNITS / 2) * cos + (y - UNITS / 2) * sin) / (np.abs(cos) + np.abs(sin))
    return np.asarray(np.clip(along / UNITS + np.float32(0.5), 0, 1))


def _clouds(u: Uniform, cells: Cells, size: int) -> Mixture:
    """Smooth noise of two scales, stretched to the full range."""
    maps = np.empty((len(u), size, size), np.float32)
    for image, numbers in zip(maps, cells, strict=True):
        coarse = cv2.resize(numbers[:5, :5], (size, size), interpolation=cv2.INTER_CUBIC)
        fine = cv2.resize(numbers[8:18, 8:18], (size, size), interpolation=cv2.INTER_CUBIC)
        image[:] = coarse + np.float32(0.4) * fine
    low, high = maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)
    return np.asarray((maps - low) / (high - low))


def _pixel_noise(u: Uniform, cells: Cells, size: int) -> Mixture:
    nearest = np.arange(size) * UNITS // size
    return cells[:, nearest[:, None], nearest[None, :]]


def _bricks(u: Uniform, cells: Cells, size: int) -> Mixture:
    """Rows of bricks, each row moved by half a brick, with joints a pixel and a half wide."""
    y, x = pixel_grid(size)
    height, length = as_column(between(4.5, 6.5, u[:, 0])), as_column(between(9.0, 13.0, u[:, 1]))
    down = y / height + as_column(u[:, 2])
    row = np.floor(down)
    across = x / length + as_column(u[:, 3]) + np.float32(0.5) * (row % 2)
    to_joint = np.minimum(
        (np.float32(0.5) - np.abs(down - row - np.float32(0.5))) * height,
        (np.float32(0.5) - np.abs(across - np.floor(across) - np.float32(0.5))) * length,
    )
    return _edge(to_joint - np.float32(0.75), size)


TEXTURES: Mapping[str, Callable[[Uniform, Cells, int], Mixture]] = MappingProxyType(
    {
        "horizontal stripes": lambda u, cells, size: _stripes(np.full(len(u), 90.0), u, size),
        "vertical stripes": lambda u, cells, size: _stripes(np.zeros(len(u)), u, size),
        "diagonals": lambda u, cells, size: _stripes(np.where(u[:, 3] < 0.5, 45.0, -45.0), u, size),
        "checker": _checker,
        "dots": _dots,
        "rings": _rings,
        "gradient": _gradient,
        "clouds": _clouds,
        "pixel noise": _pixel_noise,
        "bricks": _bricks,
    }
)
"""Families of background; texture k is the texture of class k."""


def _clutter(numbers: Numbers, image_size: int) -> Float32[np.ndarray, "n 2 h w"]:
    """Zero, one or two small irregular pentagons."""
    count = np.floor(3 * numbers.take())
    layers = []
    for k in range(2):
        centre = UNITS * numbers.take(1, 2)
        radius = between(0.05, 0.13, numbers.take(5, 1)) * UNITS
        angle = 2 * np.pi * (np.arange(5)[None, :, None] + between(-0.3, 0.3, numbers.take(5, 1))) / 5
        outline = centre + radius * np.concatenate([np.cos(angle), np.sin(angle)], axis=2)
        outlines = ([outline[i]] if count[i] > k else [] for i in range(len(count)))
        layers.append(filled(outlines, len(count), image_size))
    return np.stack(layers, axis=1)


def draw_backdrops(
    colour: Float32[np.ndarray, "n 3"], seed: int, split: int, indices: range, image_size: int
) -> Backdrops:
    """Backgrounds for objects of the given colours, without the family of the texture."""
    cells = UNITS * UNITS
    table = draw_uniforms(seed, split, indices, BACKGROUND_STREAM, 512 + cells)
    numbers = Numbers(table[:, :512])
    return Backdrops(  # in the order of the random numbers
        uniforms=numbers.take(12),
        cells=table[:, 512:].reshape(-1, UNITS, UNITS).astype(np.float32),
        colours=texture_colours(numbers, colour),
        clutter_colours=np.stack([contrasting(numbers, colour), contrasting(numbers, colour)], axis=1),
        clutter=_clutter(numbers, image_size),
    )


def choose_textures(
    variant: str, labels: Int64[np.ndarray, "n"], uniforms: Float64[np.ndarray, "n numbers"], background_bias: float
) -> Int64[np.ndarray, "n"]:
    """The texture of each image: -1 (grey) for object_only, that of its class for own and background_only, one of the
    nine others for other; else that of its class with probability `background_bias`, and any of the ten otherwise."""
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
    """Backgrounds in 0 ... 1: texture with clutter; plain grey if the texture is -1."""
    size = backdrops.clutter.shape[-1]
    mixture = np.zeros((len(textures), size, size), np.float32)
    for k in np.unique(textures[textures >= 0]):
        of = np.flatnonzero(textures == k)
        mixture[of] = list(TEXTURES.values())[k](backdrops.uniforms[of, 4:], backdrops.cells[of], size)
    first, second = backdrops.colours[:, 0], backdrops.colours[:, 1]
    canvas = first[:, None, None] + (second - first)[:, None, None] * mixture[..., None]
    for k in range(2):
        lay_over(canvas, backdrops.clutter_colours[:, k][:, None, None], backdrops.clutter[:, k])
    canvas[textures < 0] = GREY
    return np.asarray(canvas)


def lay_over(
    canvas: Float32[np.ndarray, "n h w 3"],
    paint: Float32[np.ndarray, "n #h #w 3"],
    coverage: Float32[np.ndarray, "n h w"],
) -> None:
    """Puts paint on the canvas, in place."""
    for image, colours, share in zip(canvas, paint, coverage, strict=True):
        if share.any():
            image += (colours - image) * share[..., None]

"""The built-in scenes: drawn objects with exact masks, on backgrounds that can reveal the class.

Only the shape decides the class; colour, size, rotation, proportions, place and shading are random. The background is
one of ten texture families. Each class has its own texture, and `background_bias` is the probability that it is used.
So a network can learn the background instead of the object, and how much it can gain from it is known (the idea of
Waterbirds, Sagawa et al., ICLR 2020, and of the Mixed-Same, Mixed-Rand and Only-BG splits of ImageNet-9, Xiao et al.,
arXiv:2006.09994).

Each image has three random streams, `default_rng([seed, split, i, stream])`, for object, background and noise. So the
same object, with the same bar across it and the same noise, can be drawn on another background.

OpenCV fills the shapes at eight times the size, and the result is averaged down. Pixels are exactly the same in every
run on one machine. With another processor or OpenCV the last bit of a pixel can differ, so the digest of a data set is
computed from its pixels. They are drawn once and then read from a file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from ..system.files import user_path
from .cache import Rows, cached, splits_in
from .dataset import DataError, Dataset, Request, assembled
from .scene_backdrops import choose_textures, draw_backdrops, lay_over, paint_backdrops
from .scene_objects import NOISE_STREAM, SHAPES, Objects, draw_objects

VERSION = 1
"""The version of the generator: increase it if the drawings change, so that every cache is made again."""

SEED = 0
"""The seed of the data set. It is the same in every run; the seed of a run never changes it."""

SMALLEST = 16
"""The smallest side, in pixels, at which the shapes can be distinguished."""

SIZES: Mapping[str, int] = MappingProxyType({"train": 10_000, "val": 2_000, "test": 2_000})
"""Images per drawn split; each variant of the test split has as many images as the test split."""

VARIANTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"train": ("train",), "val": ("val",), "test": ("test", "own", "other", "background_only", "object_only")}
)
"""Splits made from the objects of each drawn split, paired image by image."""

NOISE = 0.05
_CHUNK = 250  # images rendered together, so that their data stay in the processor's cache


@dataclass(frozen=True)
class Scenes:
    """Finished images: uint8 RGB, labels, masks of the visible object, index into `TEXTURES` (-1: plain grey)."""

    images: UInt8[np.ndarray, "n h w 3"]
    labels: Int64[np.ndarray, "n"]
    masks: Bool[np.ndarray, "n h w"]
    textures: Int64[np.ndarray, "n"]


def _noise(seed: int, split: int, indices: range, size: int) -> Float32[np.ndarray, "n size size 3"]:
    noise = np.empty((len(indices), size, size, 3), np.float32)
    for image, i in zip(noise, indices, strict=True):
        np.random.default_rng([seed, split, i, NOISE_STREAM]).standard_normal(dtype=np.float32, out=image)
    return noise * np.float32(NOISE)


def compose(
    canvas: Float32[np.ndarray, "n h w 3"],
    objects: Objects,
    noise: Float32[np.ndarray, "n h w 3"],
    with_object: bool,
) -> UInt8[np.ndarray, "n h w 3"]:
    """Finished images: the background, the object unless it is left out, the bar, the noise."""
    scene = canvas.copy()
    if with_object:
        lay_over(scene, objects.paint, objects.coverage)
    lay_over(scene, objects.bar_colour[:, None, None], objects.bar)
    scene += noise
    scene *= 255
    return np.clip(np.rint(scene, out=scene), 0, 255, out=scene).astype(np.uint8)


def render(
    drawn_split: str, indices: range, *, background_bias: float, image_size: int, seed: int = SEED
) -> dict[str, Scenes]:
    """Images `indices` of every variant of a drawn split (`train`, `val` or `test`), by name.

    Image i has label i modulo 10. In `background_only` the object and the mask are missing; in `object_only` the
    background is plain grey without clutter. Bar and noise are the same in all variants.
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
    return Scenes(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Scenes)))


def generate(
    *, background_bias: float, image_size: int, seed: int = SEED, sizes: Mapping[str, int] = SIZES
) -> dict[str, Scenes]:
    """All splits by name: train, val, test, own, other, background_only, object_only.

    `background_bias`, b in [0, 1], is the probability that an image of train, val or test gets the texture of its
    class. The others get any of the ten, so in total the texture of the class has probability b + (1 - b) / 10. The
    other splits show the objects of test on the texture of their class, on that of another class, no object on the
    texture of the class, and the objects on grey. A split in `sizes` may be smaller: image i stays the same. Raises
    ValueError for a bias or an `image_size` out of range.
    """
    if not 0 <= background_bias <= 1:
        raise ValueError(f"background_bias {background_bias} must be between 0 and 1")
    if image_size < SMALLEST:
        raise ValueError(f"image_size {image_size} is too small for the scenes: {SMALLEST} or more")
    scenes: dict[str, Scenes] = {}
    for drawn, n in sizes.items():
        chunks = [range(first, min(first + _CHUNK, n)) for first in range(0, n, _CHUNK)]
        parts = [render(drawn, c, background_bias=background_bias, image_size=image_size, seed=seed) for c in chunks]
        scenes |= {variant: _joined([part[variant] for part in parts]) for variant in VARIANTS[drawn]}
    return scenes


def load_scenes(request: Request) -> Dataset:
    """The scenes, generated once per setting and then read from `data_dir`.

    In `test_shifted` no image has the texture of its class. `other` is the same split, so it has both names.
    """
    background_bias, size, progress = request.background_bias, request.size, request.progress
    if not 0 <= background_bias <= 1:
        raise DataError(f"background_bias {background_bias} is out of range: 0 to 1")
    setting = f"version {VERSION}, seed {SEED}, background_bias {background_bias!r}, image_size {size}"
    key = f"v{VERSION}-seed{SEED}-bias{background_bias!r}-size{size}"
    path = user_path(request.data_dir) / f"scenes-{key}.npz"

    def drawn() -> dict[str, Rows]:
        progress(f"drawing the built-in scenes ({setting}) into {path}")
        parts = {
            f"{name}.{part}": getattr(scene, part)
            for name, scene in generate(background_bias=background_bias, image_size=size).items()
            for part in ("images", "labels", "masks")
        }
        return {name: Rows(array, range(len(array))) for name, array in parts.items()}

    try:
        splits = splits_in(cached(path, key, drawn, progress))
    except OSError as error:
        raise DataError(f"the scenes cannot be stored in {path.parent} ({error}); give another data_dir") from error
    return assembled("scenes", SHAPES, {**splits, "test_shifted": splits["other"]}, f"generated: scenes, {setting}")

"""Data sets as uint8 arrays with fixed splits: CIFAR-10, the built-in scenes, or your own images.

Splits depend only on the data, never on the seed of a run. If a split has to be made, the images are ordered by the
SHA-256 of their content, so neither file names nor the version of a random generator matter. The digest of a data set
covers everything that can change a result.

This module imports only numpy, so the settings can be checked, and `--help` printed, without torch or OpenCV.
"""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8

from ..errors import CannotStart
from ..system.progress import Reporter

SMALLEST_SIDE = 16
VAL_SHARE = 0.1
"""Share of the images of each class that becomes val, if a data set has no val."""

Progress = Callable[[str], None]
Bar = Callable[[int], AbstractContextManager[Reporter]]
NO_BAR: Bar = Reporter().bar


@dataclass(frozen=True)
class Request:
    """A request for a data set: `path` is the part after name and colon, `size` the side of the images in pixels.

    With `skip_bad`, files that cannot be used are left out. `interpolation` is how images are resized, `bilinear` or
    `bicubic`; of each, the square in the middle is kept that has `centre_crop` of the short side. Without `holdout` val
    may be a part of train. `bar` shows the progress of so many steps.
    """

    data_dir: str
    size: int
    background_bias: float
    progress: Progress
    path: str = ""
    skip_bad: bool = False
    interpolation: str = "bicubic"
    centre_crop: float = 1.0
    holdout: bool = True
    bar: Bar = NO_BAR


class DataError(CannotStart):
    """A data set is missing, damaged or has a wrong layout; the message names the file and the way out."""


@dataclass(frozen=True)
class Split:
    """Images (uint8 RGB), the class of each (0 ... classes - 1) and, if there are any, masks of the object and groups.

    A group, such as the birds of one class on one background, is a place in the data set's `groups`.
    """

    images: UInt8[np.ndarray, "n h w 3"]
    labels: Int64[np.ndarray, "n"]
    masks: Bool[np.ndarray, "n h w"] | None
    groups: Int64[np.ndarray, "n"] | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A data set in memory: class names by label, splits by name, and a digest of 16 hex digits that identifies it.

    There are always the splits train and test, and val if it is held out. The scenes also have test_shifted, own,
    other, background_only and object_only. `source` is the origin of the data: a path, or the settings that generated
    it. `left_out` has a line for each file that could not be used. `groups` are the names of the groups of images whose
    accuracies are compared; each split then has the group of each image.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    digest: str = ""
    source: str = ""
    left_out: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    @cached_property
    def statistics(self) -> tuple[Float32[np.ndarray, "3"], Float32[np.ndarray, "3"]]:
        """`channel_statistics` of the train images, computed only once."""
        return channel_statistics(self.splits["train"].images)


def channel_statistics(
    images: UInt8[np.ndarray, "n h w 3"],
) -> tuple[Float32[np.ndarray, "3"], Float32[np.ndarray, "3"]]:
    """Mean and standard deviation of each channel over all pixels, on the scale of 0 to 1, summed in float64.

    A channel that has the same value everywhere gets the deviation 1, because 0 cannot be a divisor.

    Raises DataError if that is so in all channels.
    """
    total, squares = np.zeros(3), np.zeros(3)
    for first in range(0, len(images), 200):
        pixels = images[first : first + 200].reshape(-1, 3).astype(np.float64)
        total += np.ones(len(pixels)) @ pixels  # whole numbers, so the order of the sum does not matter
        squares += np.diag(pixels.T @ pixels)
    count = images.size / 3
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    varies = std > 1e-3
    if not varies.any():
        raise DataError(
            "the train images have only one colour: they cannot be normalised or learned from; use other images"
        )
    return (mean / 255).astype(np.float32), np.where(varies, std / 255, 1).astype(np.float32)


def content_ranks(images: UInt8[np.ndarray, "n h w 3"], labels: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
    """The rank of each image in its class, by the SHA-256 of its pixels."""
    hashes = [hashlib.sha256(image.tobytes()).digest() for image in images]
    ranks = np.empty(len(labels), np.int64)
    used: dict[int, int] = {}
    for i in sorted(range(len(labels)), key=hashes.__getitem__):
        ranks[i] = used.setdefault(int(labels[i]), 0)
        used[int(labels[i])] += 1
    return ranks


def class_shares(ranks: Int64[np.ndarray, "n"], labels: Int64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    """The ranks as shares of the class, in (0, 1)."""
    return np.asarray((ranks + 0.5) / np.bincount(labels)[labels], np.float64)


def subset(split: Split, chosen: np.ndarray) -> Split:
    """The chosen images in their original order; `chosen` is a mask or indices."""
    masks, groups = (None if some is None else some[chosen] for some in (split.masks, split.groups))
    return Split(split.images[chosen], split.labels[chosen], masks, groups)


def with_val(splits: Mapping[str, Split]) -> dict[str, Split]:
    """The splits with a val; if there is none, it is the tenth of each class of train with the lowest SHA-256.

    Raises:
        DataError: no class has enough images for that.
    """
    if "val" in splits:
        return dict(splits)
    train = splits["train"]
    is_val = class_shares(content_ranks(train.images, train.labels), train.labels) < VAL_SHARE
    if not is_val.any():
        raise DataError("the classes have too few train images to split off val: give 6 or more of each, or add val")
    return {**splits, "train": subset(train, ~is_val), "val": subset(train, is_val)}


def without_val(dataset: Dataset) -> Dataset:
    splits = dict(dataset.splits)
    train, val = splits["train"], splits.pop("val")
    masks, groups = (
        None if one is None or other is None else np.concatenate([one, other])
        for one, other in ((train.masks, val.masks), (train.groups, val.groups))
    )
    images, labels = np.concatenate([train.images, val.images]), np.concatenate([train.labels, val.labels])
    splits["train"] = Split(images, labels, masks, groups)
    return _with_splits(dataset, splits)


def with_fewer_train_images(dataset: Dataset, count: int) -> Dataset:
    train = dataset.splits["train"]
    if not len(dataset.classes) <= count <= len(train):
        allowed = f"{len(dataset.classes)} (one of each class) to {len(train)}, or all"
        raise DataError(f"train_images {count} is out of range for {dataset.name}: {allowed}")
    ranks = content_ranks(train.images, train.labels)
    shares = np.where(ranks == 0, 0, class_shares(ranks, train.labels))  # first one of each class, even of a rare one
    chosen = np.sort(np.lexsort((train.labels, shares))[:count])
    return _with_splits(dataset, {**dataset.splits, "train": subset(train, chosen)})


def _with_splits(dataset: Dataset, splits: Mapping[str, Split]) -> Dataset:
    return assembled(dataset.name, dataset.classes, splits, dataset.source, dataset.left_out, dataset.groups)


def _digest(classes: tuple[str, ...], splits: Mapping[str, Split]) -> str:
    sha = hashlib.sha256(repr(classes).encode())
    for name, split in sorted(splits.items()):
        sha.update(f"{name} {split.images.shape} {split.masks is not None}".encode())
        sha.update(np.ascontiguousarray(split.images).data)
        sha.update(split.labels.astype("<i8").tobytes())
        if split.masks is not None:
            sha.update(np.packbits(split.masks).tobytes())
        if split.groups is not None:
            sha.update(split.groups.astype("<i8").tobytes())
    return sha.hexdigest()[:16]


def assembled(
    name: str,
    classes: tuple[str, ...],
    splits: Mapping[str, Split],
    source: str,
    left_out: tuple[str, ...] = (),
    groups: tuple[str, ...] = (),
) -> Dataset:
    """The data set, with its digest."""
    digest = _digest(classes + groups, splits)
    return Dataset(name, classes, MappingProxyType(dict(splits)), digest, source, left_out, groups)

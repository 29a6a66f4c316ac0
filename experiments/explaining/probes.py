"""The images that every run explains: the same in all runs of a data set."""

import re
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from ..data.dataset import Dataset

PROBES = 10  # what MLflow's image grid shows without scrolling far
SPLIT = "test"
_LONGEST = 60  # characters of a class in a key, which becomes a part of a file's name


@dataclass(frozen=True)
class Probes:
    """Test images, their positions in the test split, true labels, object masks, keys in MLflow's image grid."""

    indices: Int64[np.ndarray, "n"]
    images: UInt8[np.ndarray, "n h w 3"]
    labels: Int64[np.ndarray, "n"]
    masks: Bool[np.ndarray, "n h w"] | None
    keys: tuple[str, ...]


def probes(dataset: Dataset) -> Probes:
    """The first test image of each class, then the second of each, until there are enough."""
    split = dataset.splits[SPLIT]
    indices = in_turn(split.labels, np.ones(len(split), bool), PROBES)
    labels = split.labels[indices]
    keys = tuple(picture_key(int(i), dataset.classes[label]) for i, label in zip(indices, labels, strict=True))
    masks = None if split.masks is None else split.masks[indices]
    return Probes(indices, split.images[indices], labels, masks, keys)


def in_turn(labels: Int64[np.ndarray, "n"], among: Bool[np.ndarray, "n"], count: int) -> Int64[np.ndarray, "m"]:
    """At most `count` of the indices in `among`: the first of each class, then the second of each, and so on."""
    rank = np.zeros(len(labels), np.int64)  # how many of its class come before
    for label in np.unique(labels):
        members = among & (labels == label)
        rank[members] = np.arange(members.sum())
    order = np.lexsort((labels, rank))
    return order[among[order]][:count]


def picture_key(index: int, name: str) -> str:
    """The key `gradcam/<split>_<index>_<class>`, in the letters and at most the length that MLflow allows."""
    return f"gradcam/{SPLIT}_{index:05d}_{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)[:_LONGEST]}"


def spread(n: int, sample: int) -> Int64[np.ndarray, "m"]:
    """At most `sample` indices, evenly spread over `n`: a fixed sample with all classes of a sorted data set."""
    return np.unique(np.linspace(0, n - 1, min(n, sample)).round().astype(np.int64))

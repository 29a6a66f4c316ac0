"""Data sets of one's own: a function that returns a `Dataset`."""

import numpy as np

from ..system.own import own, told
from .dataset import DataError, Dataset, Request, Split, assembled, with_val


def load_own(request: Request) -> Dataset:
    """What the function of `FILE.py:function` returns, called with the side of the images in pixels.

    The digest is computed here. If there is no val, the tenth of each class of train with the lowest SHA-256 is val.

    Raises:
        DataError: there is no such function, it fails, or it returns no `Dataset` with images of that side.
    """
    text = request.path
    named = own("dataset", text, DataError)
    try:
        found = named.function(request.size)
    except (Exception, SystemExit) as error:
        raise DataError(f"dataset={text}: {told(error, named.files)}") from error
    if not isinstance(found, Dataset):
        raise DataError(
            f"dataset={text}: returns a {type(found).__name__}; must be an experiments.data.dataset.Dataset"
        )
    if missing := {"train", "test"} - set(found.splits):
        raise DataError(f"dataset={text}: has no split {sorted(missing)[0]}; train and test are needed")
    for name, split in found.splits.items():
        if problem := _problem(split, found, request.size):
            raise DataError(f"dataset={text}: split {name}: {problem}")
    absent = set(range(len(found.classes))) - set(found.splits["train"].labels.tolist())
    if len(found.classes) < 2 or absent:
        what = f"no train image of class {found.classes[min(absent)]!r}" if absent else "fewer than two classes"
        raise DataError(f"dataset={text}: has {what}; give some")
    splits, source = with_val(found.splits), found.source or text
    return assembled(found.name, found.classes, splits, source, found.left_out, found.groups)


def _problem(split: Split, dataset: Dataset, size: int) -> str:
    """What is wrong with the arrays of a split, and what they must be; empty if nothing is."""
    n = len(split.labels)
    wanted = {
        "images": (split.images, "uint8", (n, size, size, 3), 256),
        "labels": (split.labels, "int64", (n,), len(dataset.classes)),
        "masks": (split.masks, "bool", (n, size, size), 2),
        "groups": (split.groups, "int64", (n,), len(dataset.groups)),
    }
    for name, (array, kind, shape, values) in wanted.items():
        if array is None and name in ("masks", "groups"):
            continue
        if not isinstance(array, np.ndarray) or str(array.dtype) != kind or array.shape != shape or not n:
            has = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            return f"{name} are {has}; must be {kind} {shape} with one or more images"
        if array.min() < 0 or array.max() >= values:
            return f"{name} are from {array.min()} to {array.max()}; must be from 0 to {values - 1}"
    return ""

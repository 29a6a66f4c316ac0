"""Data sets of torchvision by name: read, downloaded and checked by its own loaders."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import did_you_mean
from ..system.files import user_path
from .cifar10 import patient
from .dataset import DataError, Dataset, Request, Split, assembled, with_val

_BACKGROUND = 2  # in a trimap, whose 1 is the animal and whose 3 is its outline


@dataclass(frozen=True)
class _Set:
    """What torchvision's class stores in the data folder, what opens its two parts, and the size of the download."""

    place: str
    train: Mapping[str, object]
    test: Mapping[str, object]
    megabytes: int


_BY_FLAG: tuple[Mapping[str, object], Mapping[str, object]] = ({"train": True}, {"train": False})
_BY_NAME: tuple[Mapping[str, object], Mapping[str, object]] = ({"split": "train"}, {"split": "test"})
_WITH_MASKS = {"target_types": ("category", "segmentation")}
SETS: Mapping[str, tuple[_Set, ...]] = {
    "CIFAR100": (_Set("cifar-100-python", *_BY_FLAG, 169),),
    "FashionMNIST": (_Set("FashionMNIST", *_BY_FLAG, 31),),
    "Imagenette": tuple(
        _Set(place, {"split": "train", "size": size}, {"split": "val", "size": size}, megabytes)
        for place, size, megabytes in (
            ("imagenette2-160", "160px", 99),
            ("imagenette2-320", "320px", 342),
            ("imagenette2", "full", 1557),
        )
    ),
    "OxfordIIITPet": (
        _Set("oxford-iiit-pet", {"split": "trainval", **_WITH_MASKS}, {"split": "test", **_WITH_MASKS}, 811),
    ),
    "STL10": (_Set("stl10_binary", *_BY_NAME, 2640),),
    "SVHN": (_Set("train_32x32.mat", *_BY_NAME, 246),),
}
"""By the names of torchvision's classes. Of several sizes the smallest first."""


def load_torchvision(request: Request) -> Dataset:
    """The data set as torchvision reads it from `data_dir`, or downloads it; images as squares of the asked side.

    Train and test are the published ones; val is the tenth of each class of train with the lowest SHA-256. The masks of
    OxfordIIITPet are its trimaps: the animal and its outline are object.

    Raises:
        DataError: there is no such data set, it cannot be downloaded, or its files are damaged.
    """
    name = {known.lower(): known for known in SETS}.get(request.path.lower())
    if name is None:
        hint = did_you_mean(request.path, list(SETS))
        raise DataError(f"torchvision:{request.path} is not known: use one of {', '.join(SETS)}{hint}")
    root = user_path(request.data_dir)
    chosen = _chosen(name, root, request.size)
    train, test = _opened(name, chosen, root, request)
    named = [each if isinstance(each, str) else each[0] for each in getattr(train, "classes", "0123456789")]
    splits = {"train": _split(train, root / chosen.place, request), "test": _split(test, root / chosen.place, request)}
    return assembled(f"torchvision:{name}", tuple(named), with_val(splits), str(root / chosen.place))


def _chosen(name: str, root: Path, size: int) -> _Set:
    """Of several sizes the smallest that is large enough, if possible one that is on the disk."""
    fitting = [one for one, side in zip(SETS[name], (160, 320, size), strict=False) if side >= size]
    return next((one for one in fitting if (root / one.place).exists()), fitting[0])


def _opened(name: str, chosen: _Set, root: Path, request: Request) -> list[Any]:
    """Train and test, downloaded if they are not there. What a download that was ended has left is not taken."""
    from filelock import FileLock
    from torchvision import datasets

    place, unfinished = root / chosen.place, root / f".{chosen.place}.unfinished"
    parts = (chosen.train, chosen.test)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{name}.lock"):
            if place.exists() and unfinished.exists():
                raise DataError(f"{place} is incomplete, because its download was ended: delete it and start again")
            try:
                return [getattr(datasets, name)(root, **part) for part in parts]
            except RuntimeError:  # it is not there, or a file has not the published digest
                request.progress(f"downloading {name} ({chosen.megabytes:,} MB), unless its archive is in {root}")
            if not place.exists():
                unfinished.touch()
            with patient():
                found = [getattr(datasets, name)(root, **part, download=True) for part in parts]
            unfinished.unlink(missing_ok=True)
            return found
    except (OSError, RuntimeError, HTTPException, ValueError, EOFError) as error:
        if not place.exists():
            unfinished.unlink(missing_ok=True)
        raise DataError(
            f"torchvision:{name}: {chosen.place} in {root} is missing or damaged, and cannot be downloaded "
            f"({' '.join(str(error).split())[:300]}); put it there as torchvision stores it, or give another data_dir"
        ) from error


def _split(found: Any, place: Path, request: Request) -> Split:
    from PIL import Image, ImageOps

    side, method = (request.size, request.size), Image.Resampling[request.interpolation.upper()]

    def read(index: int) -> tuple[np.ndarray, int, np.ndarray | None]:
        try:
            image, target = found[index]
            label, trimap = target if isinstance(target, tuple) else (target, None)
            pixels = np.array(ImageOps.fit(image.convert("RGB"), side, method))
            nearest = None if trimap is None else ImageOps.fit(trimap, side, Image.Resampling.NEAREST)
        except Exception as error:  # Pillow's readers raise many types of exceptions for a broken file
            raise DataError(f"{place}: image {index} cannot be read ({error}); delete it and start again") from error
        return pixels, label, None if nearest is None else np.asarray(nearest) != _BACKGROUND

    with ThreadPoolExecutor() as pool:
        images, labels, masks = zip(*pool.map(read, range(len(found))), strict=True)
    return Split(np.stack(images), np.array(labels, np.int64), None if masks[0] is None else np.stack(masks))

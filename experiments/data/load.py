"""A data set by its name: looked up in the table, reduced to what is asked for."""

from typing import Literal

from ..settings.parts import DATA_SETS, load_part
from .cifar10 import Unreachable, cifar10_folder, fetch_cifar10
from .dataset import SMALLEST_SIDE, DataError, Dataset, Progress, Request, with_fewer_train_images, without_val

NAMES = ("auto", *(f"{name}:PATH" if name == "folder" else name for name in DATA_SETS))


def resolve_name(dataset: str, data_dir: str, progress: Progress = print) -> str:
    """`cifar10` or `scenes` for `auto`, any other name unchanged.

    `auto` is CIFAR-10 where it is on disk or can be downloaded (which it then is), else the built-in scenes; one line
    says which and why. A copy of CIFAR-10 that is there but damaged is still `cifar10`: loading it names the file.
    """
    if dataset != "auto":
        return dataset
    folder = cifar10_folder(data_dir)
    try:
        if not folder.is_dir():
            fetch_cifar10(folder, progress)
    except Unreachable as error:
        progress(f"dataset=auto takes the built-in scenes: {error}")
        return "scenes"
    progress(f"dataset=auto takes CIFAR-10 from {folder}")
    return "cifar10"


def load(
    name: str,
    *,
    data_dir: str,
    image_size: int | Literal["auto"],
    background_bias: float,
    train_images: int | Literal["all"],
    holdout: bool = True,
    progress: Progress = print,
) -> Dataset:
    """The data set `name`: `cifar10`, `scenes` or `folder:PATH`.

    `data_dir` holds CIFAR-10 (unless the environment variable CIFAR10_ROOT names another folder) and the cache of the
    scenes. `image_size` is the side in pixels, `auto` being 32; `background_bias` in [0, 1] matters to scenes only.
    `train_images` keeps the first so many of a fixed order of the train split that mixes the classes as the whole does;
    val and test stay whole. Without `holdout` the val images are trained on too, and there is no split val. Raises
    DataError for anything missing, damaged or out of range.
    """
    size = 32 if image_size == "auto" else image_size
    if size < SMALLEST_SIDE:
        raise DataError(f"image_size {size} is too small: {SMALLEST_SIDE} pixels or more, or auto for 32")
    kind, colon, path = name.partition(":")
    if kind not in DATA_SETS or bool(colon) != (kind == "folder") or bool(path) != bool(colon):
        raise DataError(f"dataset {name!r} is not known: take one of {', '.join(NAMES)}")
    dataset: Dataset = load_part(DATA_SETS, kind)(Request(data_dir, size, background_bias, progress, path))
    dataset = dataset if holdout else without_val(dataset)
    return dataset if train_images == "all" else with_fewer_train_images(dataset, train_images)

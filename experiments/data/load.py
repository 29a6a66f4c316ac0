"""Loads a data set by its name and reduces it to the requested images."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from ..settings.parts import DATA_DOORS, DATA_SETS, data_set, load_part
from .cifar10 import Unreachable, cifar10_folder, fetch_cifar10
from .csv_file import listed as listed_in_csv
from .dataset import (
    NO_BAR,
    SMALLEST_SIDE,
    Bar,
    DataError,
    Dataset,
    Progress,
    Request,
    with_fewer_train_images,
    without_val,
)
from .folder import listed as listed_in_folder
from .photos import median_side

NAMES = ("auto", *(name for name in DATA_SETS if name not in DATA_DOORS), *DATA_DOORS.values())
MOST_USUAL = 224  # the side for which most published networks were made
_LISTINGS = {"folder": listed_in_folder, "csv": listed_in_csv}


def resolve_name(dataset: str, data_dir: str, progress: Progress = print) -> str:
    """`cifar10` or `scenes` for `auto`, any other name unchanged.

    `auto` is CIFAR-10 if it is on disk or can be downloaded (it is then downloaded), else the built-in scenes. One line
    of output reports the choice and the reason. A damaged copy of CIFAR-10 still gives `cifar10`; loading it then
    reports the file.
    """
    if dataset != "auto":
        return dataset
    folder = cifar10_folder(data_dir)
    try:
        with _readable(f"data_dir={data_dir}"):
            if not folder.is_dir():
                fetch_cifar10(folder, progress)
    except Unreachable as error:
        progress(f"dataset=auto uses the built-in scenes: {error}")
        return "scenes"
    progress(f"dataset=auto uses CIFAR-10 from {folder}")
    return "cifar10"


def usual_side(dataset: str) -> int:
    """The median short side of one's own images, rounded to 32 pixels, 32 to 224; 32 for other data sets.

    Raises:
        DataError: there are no such images.
    """
    kind, _, path = dataset.partition(":")
    if kind not in _LISTINGS:
        return 32
    with _readable(f"dataset={dataset}"):
        listing = _LISTINGS[kind](Request("", 32, 0.0, lambda line: None, path))
        return min(max(32 * round(median_side(listing.files) / 32), 32), MOST_USUAL)


@contextmanager
def _readable(option: str) -> Iterator[None]:
    """Inside, each problem with a file or folder ends the work with one line that names the option and it."""
    try:
        yield
    except DataError as error:
        if isinstance(error, Unreachable) or option.partition("=")[0] in str(error):
            raise
        raise DataError(f"{option}: {error}") from error
    except OSError as error:
        where = f"{error.filename} cannot be used" if error.filename else "cannot be used"
        raise DataError(f"{option}: {where} ({error.strerror or error}); repair it, or give another path") from error


def load(
    name: str,
    *,
    data_dir: str,
    image_size: int | Literal["auto"],
    background_bias: float,
    train_images: int | Literal["all"],
    holdout: bool = True,
    skip_bad: bool = False,
    interpolation: str = "auto",
    centre_crop: float | Literal["auto"] = "auto",
    progress: Progress = print,
    bar: Bar = NO_BAR,
) -> Dataset:
    """The data set `name`: a name of `settings.parts.DATA_SETS`, or a form of `DATA_DOORS`, such as `folder:PATH`.

    `data_dir` contains CIFAR-10 (unless the environment variable CIFAR10_ROOT names another folder) and the cache of
    the scenes. `image_size` is the side in pixels; `auto` is 32. Images are resized with `interpolation`, `bilinear` or
    `bicubic`; `auto` is the latter. Of own images the square in the middle is kept that has `centre_crop` of the short
    side; `auto` is 1. `background_bias`, in [0, 1], has an effect only on scenes. `train_images` keeps
    the first images of the train split in a fixed order with the class shares of the whole split; val and test stay
    complete. Without `holdout` the val images are part of train, and there is no val. With
    `skip_bad`, image files that cannot be used are left out. Raises DataError for anything missing, damaged or out of
    range.
    """
    size = 32 if image_size == "auto" else image_size
    if size < SMALLEST_SIDE:
        raise DataError(f"image_size {size} is too small: {SMALLEST_SIDE} pixels or more, or auto for 32")
    kind, path = data_set(name)
    if kind not in DATA_SETS or bool(path) != (kind in DATA_DOORS) or (":" in name and not path):
        raise DataError(f"dataset {name!r} is not known: use one of {', '.join(NAMES)}")
    how = "bicubic" if interpolation == "auto" else interpolation
    share = 1.0 if centre_crop == "auto" else centre_crop
    with _readable(f"dataset={name}"):
        dataset: Dataset = load_part(DATA_SETS, kind)(
            Request(data_dir, size, background_bias, progress, path, skip_bad, how, share, holdout, bar)
        )
    dataset = dataset if holdout or "val" not in dataset.splits else without_val(dataset)
    return dataset if train_images == "all" else with_fewer_train_images(dataset, train_images)

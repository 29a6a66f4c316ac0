"""Data sets as uint8 arrays with fixed splits: CIFAR-10, the built-in scenes, a folder of one's own.

Splits depend on the data alone, never on a run's seed: where one has to be split off, images are ordered by the SHA-256
of their content, so that neither file names nor the version of a random generator decide. The digest of a data set is
taken over everything that can change a result.

Only numpy is imported with this module: the settings can be checked, and `--help` shown, without torch or OpenCV.
"""

import hashlib
import io
import os
import pickle
import socket
import tempfile
import urllib.request
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from http.client import HTTPException
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64, UInt8

if TYPE_CHECKING:
    from PIL import Image as PillowImage

NAMES = ("auto", "cifar10", "scenes", "folder:PATH")
SMALLEST_SIDE = 16
VAL_SHARE = 0.1
"""Share of the images of each class that becomes val, where a data set brings none."""
TEST_SHARE = 0.2
"""The same for test."""

_ORIENTATION = 0x0112  # of EXIF; 5 and more swap width and height

Progress = Callable[[str], None]


class DataError(ValueError):
    """A data set that is missing, damaged or not laid out as it must be; the message names the file and the way out."""


class _Unreachable(DataError):
    """CIFAR-10 is neither on disk nor to be had from the network."""


@dataclass(frozen=True)
class Split:
    """Images (uint8 RGB), the class of each (0 ... classes - 1) and, where there are any, masks of the object."""

    images: UInt8[np.ndarray, "n h w 3"]
    labels: Int64[np.ndarray, "n"]
    masks: Bool[np.ndarray, "n h w"] | None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A data set in memory: class names by label, splits by name, and 16 hex digits that tell it from any other.

    There are always the splits train and test, and val where it is held out; scenes also have test_shifted, own, other,
    background_only and object_only. `source` says where the data came from: a path, or the settings that generated it.
    """

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Split]
    digest: str
    source: str

    @cached_property
    def statistics(self) -> tuple[Float32[np.ndarray, "3"], Float32[np.ndarray, "3"]]:
        """`channel_statistics` of the train images, computed once."""
        return channel_statistics(self.splits["train"].images)


def resolve_name(dataset: str, data_dir: str, progress: Progress = print) -> str:
    """`cifar10` or `scenes` for `auto`, any other name unchanged.

    `auto` is CIFAR-10 where it is on disk or can be downloaded (which it then is), else the built-in scenes; one line
    says which and why. A copy of CIFAR-10 that is there but damaged is still `cifar10`: loading it names the file.
    """
    if dataset != "auto":
        return dataset
    folder = _cifar10_folder(data_dir)
    try:
        if not folder.is_dir():
            _fetch_cifar10(folder, progress)
    except _Unreachable as error:
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
    if name == "cifar10":
        dataset = _load_cifar10(data_dir, size, progress)
    elif name == "scenes":
        dataset = _load_scenes(Path(data_dir), size, background_bias, progress)
    elif name.startswith("folder:") and name != "folder:":
        dataset = _load_folder(Path(name.removeprefix("folder:")).expanduser(), size, progress)
    else:
        raise DataError(f"dataset {name!r} is not known: take one of {', '.join(NAMES)}")
    dataset = dataset if holdout else _without_val(dataset)
    return dataset if train_images == "all" else _with_fewer_train_images(dataset, train_images)


def channel_statistics(
    images: UInt8[np.ndarray, "n h w 3"],
) -> tuple[Float32[np.ndarray, "3"], Float32[np.ndarray, "3"]]:
    """Mean and standard deviation of each channel over all pixels, on the scale of 0 to 1, summed in float64.

    Raises DataError where a channel is the same everywhere, because nothing can be divided by its deviation.
    """
    total, squares = np.zeros(3), np.zeros(3)
    for first in range(0, len(images), 200):
        pixels = images[first : first + 200].reshape(-1, 3).astype(np.float64)
        total += np.ones(len(pixels)) @ pixels  # whole numbers, so the order of summing does not matter
        squares += np.diag(pixels.T @ pixels)
    count = images.size / 3
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    if not (std > 1e-3).all():
        raise DataError("the train images are of one colour: nothing can be learned from them, and nothing normalised")
    return (mean / 255).astype(np.float32), (std / 255).astype(np.float32)


# ---- order, subset, digest -----------------------------------------------------------------------------------------


def _content_ranks(images: UInt8[np.ndarray, "n h w 3"], labels: Int64[np.ndarray, "n"]) -> Int64[np.ndarray, "n"]:
    """The place of each image in its class, by the SHA-256 of its pixels."""
    hashes = [hashlib.sha256(image.tobytes()).digest() for image in images]
    ranks = np.empty(len(labels), np.int64)
    used: dict[int, int] = {}
    for i in sorted(range(len(labels)), key=hashes.__getitem__):
        ranks[i] = used.setdefault(int(labels[i]), 0)
        used[int(labels[i])] += 1
    return ranks


def _shares(ranks: Int64[np.ndarray, "n"], labels: Int64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    """The ranks as a share of the class, in (0, 1)."""
    return np.asarray((ranks + 0.5) / np.bincount(labels)[labels], np.float64)


def _part(split: Split, chosen: np.ndarray) -> Split:
    """The chosen images, in their old order; `chosen` is a mask or indices."""
    masks = None if split.masks is None else split.masks[chosen]
    return Split(split.images[chosen], split.labels[chosen], masks)


def _without_val(dataset: Dataset) -> Dataset:
    splits = dict(dataset.splits)
    train, val = splits["train"], splits.pop("val")
    masks = None if train.masks is None or val.masks is None else np.concatenate([train.masks, val.masks])
    images = np.concatenate([train.images, val.images])
    splits["train"] = Split(images, np.concatenate([train.labels, val.labels]), masks)
    return _assembled(dataset.name, dataset.classes, splits, dataset.source)


def _with_fewer_train_images(dataset: Dataset, count: int) -> Dataset:
    train = dataset.splits["train"]
    if not len(dataset.classes) <= count <= len(train):
        allowed = f"{len(dataset.classes)} (one of each class) to {len(train)}, or all"
        raise DataError(f"train_images {count} is out of range for {dataset.name}: {allowed}")
    ranks = _content_ranks(train.images, train.labels)
    shares = np.where(ranks == 0, 0, _shares(ranks, train.labels))  # first one of each class, however rare
    chosen = np.sort(np.lexsort((train.labels, shares))[:count])
    return _assembled(dataset.name, dataset.classes, {**dataset.splits, "train": _part(train, chosen)}, dataset.source)


def _digest(classes: tuple[str, ...], splits: Mapping[str, Split]) -> str:
    sha = hashlib.sha256(repr(classes).encode())
    for name, split in sorted(splits.items()):
        sha.update(f"{name} {split.images.shape} {split.masks is not None}".encode())
        sha.update(np.ascontiguousarray(split.images).data)
        sha.update(split.labels.astype("<i8").tobytes())
        if split.masks is not None:
            sha.update(np.packbits(split.masks).tobytes())
    return sha.hexdigest()[:16]


def _assembled(name: str, classes: tuple[str, ...], splits: Mapping[str, Split], source: str) -> Dataset:
    return Dataset(name, classes, MappingProxyType(dict(splits)), _digest(classes, splits), source)


# ---- CIFAR-10 ------------------------------------------------------------------------------------------------------


def _cifar10_folder(data_dir: str) -> Path:
    """Where torchvision puts the seven files, below CIFAR10_ROOT or else `data_dir`."""
    root = Path(os.environ.get("CIFAR10_ROOT") or data_dir).expanduser()
    return root if root.name == "cifar-10-batches-py" else root / "cifar-10-batches-py"


def _load_cifar10(data_dir: str, size: int, progress: Progress) -> Dataset:
    """45,000 / 5,000 / 10,000 images; val is the tenth of each class of the 50,000 whose pixels' SHA-256 are lowest."""
    from torchvision.datasets import CIFAR10

    folder = _cifar10_folder(data_dir)
    if not folder.is_dir():
        _fetch_cifar10(folder, progress)
    whole = _cifar10_split(folder, CIFAR10.train_list)
    test = _cifar10_split(folder, CIFAR10.test_list)
    meta = _unpickled(_verified_bytes(folder / CIFAR10.meta["filename"], CIFAR10.meta["md5"]))
    is_val = _shares(_content_ranks(whole.images, whole.labels), whole.labels) < VAL_SHARE
    splits = {"train": _part(whole, ~is_val), "val": _part(whole, is_val), "test": test}
    if size != 32:
        splits = {name: replace(split, images=_resized(split.images, size)) for name, split in splits.items()}
    return _assembled("cifar10", tuple(meta[CIFAR10.meta["key"]]), splits, str(folder))


def _cifar10_split(folder: Path, files: Iterable[Iterable[str]]) -> Split:
    batches = [_unpickled(_verified_bytes(folder / name, md5)) for name, md5 in files]
    pixels = np.concatenate([batch["data"] for batch in batches])
    images = np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return Split(images, np.concatenate([batch["labels"] for batch in batches]).astype(np.int64), None)


def _verified_bytes(path: Path, md5: str) -> bytes:
    """What is in the file, once its md5 is the published one; DataError otherwise."""
    cure = (
        f"delete {path.parent} and start again for a fresh copy, or set CIFAR10_ROOT to the folder that holds "
        "an intact cifar-10-batches-py"
    )
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"CIFAR-10: {path} cannot be read ({error.strerror}); {cure}") from error
    actual = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if actual != md5:
        raise DataError(f"CIFAR-10: {path} is damaged ({len(content):,} bytes, md5 {actual}, expected {md5}); {cure}")
    return content


def _unpickled(content: bytes) -> dict[str, Any]:
    with warnings.catch_warnings():
        # The files were written by Python 2 with align=0, where numpy 2.4 wants False.
        warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
        batch: dict[str, Any] = pickle.loads(content, encoding="latin1")
    return batch


def _resized(images: UInt8[np.ndarray, "n h w 3"], size: int) -> UInt8[np.ndarray, "n size size 3"]:
    import cv2

    method = cv2.INTER_AREA if size < images.shape[1] else cv2.INTER_CUBIC
    return np.stack([cv2.resize(image, (size, size), interpolation=method) for image in images])


def _fetch_cifar10(folder: Path, progress: Progress) -> None:
    """Puts the seven files into `folder`: from the archive beside it, or by download. Half a copy is never left."""
    from filelock import FileLock
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import extract_archive

    root = folder.parent
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".cifar10.lock"):
            if folder.is_dir():  # another process was first
                return
            with tempfile.TemporaryDirectory(dir=root, prefix=".cifar10-") as staging:
                archive = root / CIFAR10.filename
                if archive.is_file():
                    _check_archive(archive, CIFAR10.tgz_md5)
                    extract_archive(str(archive), staging)
                else:
                    _download_cifar10(staging, progress)
                os.replace(Path(staging) / CIFAR10.base_folder, folder)
    except (OSError, RuntimeError, HTTPException) as error:  # what urllib and torchvision raise
        raise _Unreachable(
            f"CIFAR-10 is not in {root} and cannot be downloaded from {CIFAR10.url} ({error}); put cifar-10-batches-py "
            "there, set CIFAR10_ROOT to the folder that holds it, or take dataset=scenes"
        ) from error


def _check_archive(archive: Path, md5: str) -> None:
    with archive.open("rb") as file:
        actual = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if actual != md5:
        raise DataError(f"CIFAR-10: {archive} is damaged (md5 {actual}, expected {md5}); delete it and start again")


def _download_cifar10(staging: str, progress: Progress) -> None:
    from torchvision.datasets import CIFAR10

    # Three seconds are enough to learn that there is no network; the download itself may take its time.
    urllib.request.urlopen(urllib.request.Request(CIFAR10.url, method="HEAD"), timeout=3).close()
    progress(f"downloading CIFAR-10 (170 MB) from {CIFAR10.url}")
    with _socket_timeout(30.0):
        CIFAR10(staging, download=True)


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """torchvision opens its connections without one, and a stalled download would hang for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


# ---- the built-in scenes -------------------------------------------------------------------------------------------


def _load_scenes(data_dir: Path, size: int, background_bias: float, progress: Progress) -> Dataset:
    """The scenes, generated once per setting and then read from `data_dir`.

    `test_shifted` never shows a class its own texture; that is what `other` is, so both names stand for one split.
    """
    from filelock import FileLock

    from experiments import scenes

    if not 0 <= background_bias <= 1:
        raise DataError(f"background_bias {background_bias} is out of range: 0 to 1")
    setting = f"version {scenes.VERSION}, seed {scenes.SEED}, background_bias {background_bias!r}, image_size {size}"
    key = f"v{scenes.VERSION}-seed{scenes.SEED}-bias{background_bias!r}-size{size}"
    path, source = data_dir.expanduser() / f"scenes-{key}.npz", f"generated: scenes, {setting}"
    if (dataset := _read_scenes(path, source, progress)) is not None:
        return dataset
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if (dataset := _read_scenes(path, source, lambda line: None)) is not None:  # another process was first
                return dataset
            progress(f"drawing the built-in scenes ({setting}) into {path}")
            drawn = scenes.generate(background_bias=background_bias, image_size=size)
            dataset = _scenes_dataset(
                {name: Split(scene.images, scene.labels, scene.masks) for name, scene in drawn.items()}, source
            )
            _write_scenes(path, dataset)
    except OSError as error:
        raise DataError(f"the scenes cannot be kept in {path.parent} ({error}); give another data_dir") from error
    return dataset


def _scenes_dataset(splits: dict[str, Split], source: str) -> Dataset:
    from experiments import scenes

    return _assembled("scenes", scenes.SHAPES, {**splits, "test_shifted": splits["other"]}, source)


def _write_scenes(path: Path, dataset: Dataset) -> None:
    arrays: dict[str, np.ndarray] = {"digest": np.array(dataset.digest)}
    for name, split in dataset.splits.items():
        if name != "test_shifted":
            assert split.masks is not None
            arrays |= {f"{name}.images": split.images, f"{name}.labels": split.labels}
            arrays[f"{name}.masks"] = np.packbits(split.masks, axis=2)
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    os.replace(part, path)


def _read_scenes(path: Path, source: str, progress: Progress) -> Dataset | None:
    """The cached scenes; None where there are none, or where they are not what was written."""
    import zipfile

    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        dataset = _scenes_dataset(_scene_splits(arrays), source)
        if dataset.digest == arrays["digest"].item():
            return dataset
        problem = f"digest {dataset.digest}, expected {arrays['digest'].item()}"
    except (OSError, ValueError, KeyError, EOFError, IndexError, zipfile.BadZipFile) as error:
        problem = f"{type(error).__name__}: {error}"
    progress(f"{path} is damaged ({problem}) and is made anew")
    return None


def _scene_splits(arrays: Mapping[str, np.ndarray]) -> dict[str, Split]:
    splits = {}
    for name in (key.removesuffix(".images") for key in arrays if key.endswith(".images")):
        images = arrays[f"{name}.images"]
        masks = np.unpackbits(arrays[f"{name}.masks"], axis=2, count=images.shape[2]).astype(bool)
        splits[name] = Split(images, arrays[f"{name}.labels"], masks)
    return splits


# ---- a folder of one's own -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _File:
    """One image file, its class and, where there are masks, the file of its mask."""

    path: Path
    label: int
    mask: Path | None


@dataclass(frozen=True)
class _Picture:
    """One image as it was read, with the SHA-256 of its file."""

    sha256: str
    label: int
    image: UInt8[np.ndarray, "h w 3"]
    mask: Bool[np.ndarray, "h w"] | None


def _load_folder(root: Path, size: int, progress: Progress) -> Dataset:
    """Images of a folder, short side `size` and cut to the middle square; what val or test lack is split off train.

    PATH/train, PATH/val and PATH/test with a folder per class each; or train alone; or the class folders right in PATH.
    PATH/masks may hold a mask for every image, at the image's own path below PATH, as PNG: not black is object.
    """
    if not root.is_dir():
        raise DataError(f"folder {root} does not exist: dataset=folder:PATH wants one with a folder per class")
    parts = _parts(root)
    classes = _classes(root, parts)
    pictures: dict[str, list[_Picture]] = {}
    skipped = 0
    for name, part in parts.items():
        files, others = _image_files(root, part, classes)
        skipped += others
        with ThreadPoolExecutor() as pool:  # decoding leaves Python's lock
            pictures[name] = list(pool.map(lambda file: _read_picture(file, size), files))
    pictures = _with_missing_parts(pictures, classes, root)
    splits = {name: _stacked(pictures[name]) for name in ("train", "val", "test")}
    counts = ", ".join(f"{name} {len(split)}" for name, split in splits.items())
    progress(f"{root}: {len(classes)} classes, {counts} images; {skipped} other files skipped")
    return _assembled(f"folder:{root.resolve().name}", classes, splits, str(root))


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _parts(root: Path) -> dict[str, Path]:
    """The folders of train, val and test that are there; the folder itself where it has the classes right in it."""
    found = {path.name: path for path in _subfolders(root) if path.name != "masks"}
    named: dict[str, Path] = {name: found.pop(name) for name in ("train", "val", "test") if name in found}
    if not named:
        return {"train": root}
    if "train" not in named:
        raise DataError(f"folder {root} has {' and '.join(named)} but no train: add it")
    if found:
        names = ", ".join(map(repr, found))
        raise DataError(f"folder {root} has {names} beside train: only train, val, test and masks may stand there")
    return named


def _classes(root: Path, parts: Mapping[str, Path]) -> tuple[str, ...]:
    """The names of train's folders, sorted; DataError unless each other part has the same."""
    names = {part: {path.name for path in _subfolders(folder)} for part, folder in parts.items()}
    if parts["train"] == root:
        names["train"].discard("masks")
    if (count := len(names["train"])) < 2:
        raise DataError(f"folder {parts['train']} has {count} class folders: two or more, named by class, are needed")
    for part in names:
        if missing := sorted(names["train"] - names[part]):
            raise DataError(f"folder {parts[part]} lacks the class {missing[0]!r} that {parts['train']} has")
        if extra := sorted(names[part] - names["train"]):
            raise DataError(f"folder {parts[part]} has the class {extra[0]!r} that {parts['train']} lacks")
    return tuple(sorted(names["train"]))


def _image_files(root: Path, part: Path, classes: tuple[str, ...]) -> tuple[list[_File], int]:
    """The images of a part, by class and name, and how many other files there were."""
    endings = _image_endings()
    has_masks = (root / "masks").is_dir()
    files, skipped = [], 0
    for label, name in enumerate(classes):
        entries = sorted((part / name).iterdir())
        images = [p for p in entries if p.is_file() and not p.name.startswith(".") and p.suffix.lower() in endings]
        if not images:
            raise DataError(f"folder {part / name} is empty: it has no image right in it, and a class needs some")
        skipped += len(entries) - len(images)
        masks = [root / "masks" / path.relative_to(root).with_suffix(".png") if has_masks else None for path in images]
        files += [_File(path, label, mask) for path, mask in zip(images, masks, strict=True)]
    return files, skipped


def _image_endings() -> set[str]:
    """Those of the formats that Pillow can read, such as `.png`."""
    from PIL import Image

    return {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}


def _read_picture(file: _File, size: int) -> _Picture:
    from PIL import Image, ImageOps

    with _naming(file.path):
        content = file.path.read_bytes()
        image = Image.open(io.BytesIO(content))
        upright_size = image.size[::-1] if image.getexif().get(_ORIENTATION, 1) >= 5 else image.size
        image.draft(None, (2 * size, 2 * size))  # a large JPEG need not be decoded in full
        pixels = np.array(ImageOps.fit(_to_rgb(image), (size, size), Image.Resampling.BICUBIC))
    mask = None if file.mask is None else _read_mask(file.mask, file.path, upright_size, size)
    return _Picture(hashlib.sha256(content).hexdigest(), file.label, pixels, mask)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    from PIL import UnidentifiedImageError

    try:
        yield
    except Exception as error:  # Pillow's readers raise whatever a broken file leads them to
        reason = "not an image that Pillow can read" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataError(f"image {path} cannot be used ({reason}): repair it or take it out of the folder") from error


def _to_rgb(image: "PillowImage.Image") -> "PillowImage.Image":
    """Upright 8-bit RGB: 16 bits scaled down, transparency laid on white, CMYK and palettes converted."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        return Image.fromarray(_eight_bits(np.asarray(image))).convert("RGB")
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers without a known range, save it with 8 or 16 bits")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")


def _eight_bits(pixels: np.ndarray) -> UInt8[np.ndarray, "h w"]:
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError(f"its pixels reach from {pixels.min()} to {pixels.max()}, save it with 8 or 16 bits")
    return np.rint(pixels / 257).astype(np.uint8)


def _read_mask(path: Path, image: Path, image_size: tuple[int, int], size: int) -> Bool[np.ndarray, "size size"]:
    """True where the mask is not black, cut as its image was; each pixel is that of the nearest in the file."""
    from PIL import Image, ImageOps

    if not path.is_file():
        raise DataError(f"image {image} has no mask: the folder has masks, but {path} is missing")
    with _naming(path):
        mask = Image.open(path)
        values = np.asarray(mask if mask.mode in ("1", "L", "F") or mask.mode[0] == "I" else mask.convert("RGB"))
    if mask.size != image_size:
        sizes = f"{mask.size[0]} x {mask.size[1]} pixels, its image {image_size[0]} x {image_size[1]}"
        raise DataError(f"mask {path} is of another size than {image}: {sizes}")
    is_object = values != 0 if values.ndim == 2 else (values != 0).any(axis=2)
    return np.array(ImageOps.fit(Image.fromarray(is_object), (size, size), Image.Resampling.NEAREST))


def _with_missing_parts(
    pictures: dict[str, list[_Picture]], classes: tuple[str, ...], root: Path
) -> dict[str, list[_Picture]]:
    """Splits test and val off train where they are missing; copies of one file stay together."""
    wanted = {name: share for name, share in (("test", TEST_SHARE), ("val", VAL_SHARE)) if name not in pictures}
    if not wanted:
        return pictures
    parts: dict[str, list[_Picture]] = {**pictures, "train": [], **{name: [] for name in wanted}}
    for label, name in enumerate(classes):
        of_class = [picture for picture in pictures["train"] if picture.label == label]
        part_of = _parts_by_hash(sorted({picture.sha256 for picture in of_class}), wanted)
        if "train" not in part_of.values():
            missing = " and ".join(wanted)
            raise DataError(
                f"folder {root}: class {name!r} has {len(part_of)} different images, too few to split {missing} off; "
                f"{len(wanted) + 1} or more are needed, or folders {missing} of their own"
            )
        for picture in of_class:
            parts[part_of[picture.sha256]].append(picture)
    return parts


def _parts_by_hash(hashes: list[str], wanted: Mapping[str, float]) -> dict[str, str]:
    """Which part each hash goes to: the first to those wanted, one at least to each, the rest to train."""
    parts = [name for name, share in wanted.items() for _ in range(max(1, round(share * len(hashes))))]
    parts += ["train"] * (len(hashes) - len(parts))
    return dict(zip(hashes, parts, strict=False))


def _stacked(pictures: list[_Picture]) -> Split:
    """In an order that no file name decides: by class, then by the hash of the file."""
    ordered = sorted(pictures, key=lambda picture: (picture.label, picture.sha256))
    masks = [picture.mask for picture in ordered if picture.mask is not None]
    return Split(
        images=np.stack([picture.image for picture in ordered]),
        labels=np.array([picture.label for picture in ordered], np.int64),
        masks=np.stack(masks) if masks else None,
    )

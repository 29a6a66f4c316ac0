"""CIFAR-10: finds or downloads the files, checks their published digests, and splits the images."""

import hashlib
import os
import pickle
import socket
import tempfile
import urllib.request
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ..system.files import open_file, user_path
from .dataset import DataError, Dataset, Progress, Request, Split, assembled, with_val

CORRUPTED, SEVERITIES = "corrupted/", 5
CORRUPTIONS = (
    *("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)


class Unreachable(DataError):
    """CIFAR-10 is not on disk and cannot be downloaded."""


def cifar10_folder(data_dir: str) -> Path:
    """The folder where torchvision puts the seven files, in CIFAR10_ROOT or else in `data_dir`."""
    root = user_path(os.environ.get("CIFAR10_ROOT", "").strip() or data_dir)
    return root if root.name == "cifar-10-batches-py" else root / "cifar-10-batches-py"


def load_cifar10(request: Request) -> Dataset:
    """45,000 / 5,000 / 10,000 images. val is the tenth of each class of the 50,000 with the lowest SHA-256."""
    from torchvision.datasets import CIFAR10

    folder = cifar10_folder(request.data_dir)
    if not folder.is_dir():
        fetch_cifar10(folder, request.progress)
    whole = _cifar10_split(folder, CIFAR10.train_list)
    test = _cifar10_split(folder, CIFAR10.test_list)
    meta = _unpickled(_verified_bytes(folder / CIFAR10.meta["filename"], CIFAR10.meta["md5"]))
    splits = with_val({"train": whole, "test": test})
    if request.size != 32:
        splits = {
            name: replace(split, images=_resized(split.images, request.size, request.interpolation))
            for name, split in splits.items()
        }
    return assembled("cifar10", tuple(meta[CIFAR10.meta["key"]]), splits, str(folder))


def load_cifar10_c(request: Request) -> Dataset:
    """CIFAR-10, and its test images with 15 corruptions in five severities (Hendrycks and Dietterich, ICLR 2019).

    The splits `corrupted/NAME` have the test images five times, the mildest first. They stay on the disk until they are
    needed. They are read from CIFAR-10-C in `data_dir` or beside CIFAR-10.

    Raises:
        DataError: it is not there, its files are not those of CIFAR-10-C, or the images are asked for in another size.
    """
    if request.size != 32:
        raise DataError(f"image_size {request.size}: the images of cifar10_c have 32 pixels; take image_size=32")
    plain = load_cifar10(request)
    folders = [user_path(request.data_dir) / "CIFAR-10-C", cifar10_folder(request.data_dir).parent / "CIFAR-10-C"]
    folder = next(filter(Path.is_dir, folders), None)
    if folder is None:
        raise DataError(
            f"{folders[0]} does not exist: unpack CIFAR-10-C.tar there (zenodo.org/records/2535967, 2.9 GB)"
        )
    test = plain.splits["test"]
    labels = np.tile(test.labels, SEVERITIES)
    found = {name: _array(folder / f"{name}.npy") for name in ("labels", *CORRUPTIONS)}
    for name, array in found.items():
        shape = (len(labels), *(test.images.shape[1:] if name != "labels" else ()))
        if array.shape != shape or (name == "labels" and not np.array_equal(array, labels)):
            raise DataError(f"{folder}/{name}.npy is not that of CIFAR-10-C, {shape} for the test images; get it again")
    corrupted = {f"{CORRUPTED}{name}": Split(found[name], labels, None) for name in CORRUPTIONS}
    return assembled("cifar10_c", plain.classes, {**plain.splits, **corrupted}, f"{plain.source}, {folder}")


def _array(path: Path) -> np.ndarray:
    """The array in the file, which stays on the disk."""
    try:
        return np.load(path, mmap_mode="c")  # torch warns about arrays that cannot be written
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read ({error}); get it again") from error


def _cifar10_split(folder: Path, files: Iterable[Iterable[str]]) -> Split:
    batches = [_unpickled(_verified_bytes(folder / name, md5)) for name, md5 in files]
    pixels = np.concatenate([batch["data"] for batch in batches])
    images = np.ascontiguousarray(pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return Split(images, np.concatenate([batch["labels"] for batch in batches]).astype(np.int64), None)


def _verified_bytes(path: Path, md5: str) -> bytes:
    """The content of the file; DataError unless its md5 is the published one."""
    cure = (
        f"delete {path.parent} and start again for a new copy, or set CIFAR10_ROOT to the folder that contains "
        "an intact cifar-10-batches-py"
    )
    try:
        with open_file(path) as file:
            content = file.read()
    except OSError as error:
        raise DataError(f"CIFAR-10: {path} cannot be read ({error.strerror}); {cure}") from error
    actual = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if actual != md5:
        raise DataError(f"CIFAR-10: {path} is damaged ({len(content):,} bytes, md5 {actual}, expected {md5}); {cure}")
    return content


def _unpickled(content: bytes) -> dict[str, Any]:
    with warnings.catch_warnings():
        # Python 2 wrote these files with align=0, but numpy 2.4 expects False.
        warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
        batch: dict[str, Any] = pickle.loads(content, encoding="latin1")
    return batch


def _resized(images: UInt8[np.ndarray, "n h w 3"], size: int, interpolation: str) -> UInt8[np.ndarray, "n size size 3"]:
    import cv2

    larger = cv2.INTER_CUBIC if interpolation == "bicubic" else cv2.INTER_LINEAR
    method = cv2.INTER_AREA if size < images.shape[1] else larger
    return np.stack([cv2.resize(image, (size, size), interpolation=method) for image in images])


def fetch_cifar10(folder: Path, progress: Progress) -> None:
    """Puts the seven files into `folder`, from the archive next to it or by download. Never leaves a partial copy."""
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
        raise Unreachable(
            f"CIFAR-10 is not in {root} and cannot be downloaded from {CIFAR10.url} ({error}); put cifar-10-batches-py "
            "there, set CIFAR10_ROOT to the folder that contains it, or use dataset=scenes"
        ) from error


def _check_archive(archive: Path, md5: str) -> None:
    with archive.open("rb") as file:
        actual = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if actual != md5:
        raise DataError(f"CIFAR-10: {archive} is damaged (md5 {actual}, expected {md5}); delete it and start again")


def _download_cifar10(staging: str, progress: Progress) -> None:
    from torchvision.datasets import CIFAR10

    # Three seconds are enough to notice that there is no network; the download itself may take longer.
    urllib.request.urlopen(urllib.request.Request(CIFAR10.url, method="HEAD"), timeout=3).close()
    progress(f"downloading CIFAR-10 (170 MB) from {CIFAR10.url}")
    with patient():
        CIFAR10(staging, download=True)


@contextmanager
def patient() -> Iterator[None]:
    """Inside, a download that stalls ends after 30 s: torchvision sets no limit, and it would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30.0)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)

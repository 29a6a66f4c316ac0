"""CIFAR-10: finds or downloads the files, checks their published digests, and splits the images."""

import hashlib
import os
import pickle
import socket
import tempfile
import urllib.request
import warnings
from collections.abc import Iterable
from dataclasses import replace
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ..system.files import open_file, user_path
from .dataset import (
    VAL_SHARE,
    DataError,
    Dataset,
    Progress,
    Request,
    Split,
    assembled,
    class_shares,
    content_ranks,
    subset,
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
    is_val = class_shares(content_ranks(whole.images, whole.labels), whole.labels) < VAL_SHARE
    splits = {"train": subset(whole, ~is_val), "val": subset(whole, is_val), "test": test}
    if request.size != 32:
        splits = {
            name: replace(split, images=_resized(split.images, request.size, request.interpolation))
            for name, split in splits.items()
        }
    return assembled("cifar10", tuple(meta[CIFAR10.meta["key"]]), splits, str(folder))


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
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30.0)  # torchvision sets none, and a stalled download would wait for ever
    try:
        CIFAR10(staging, download=True)
    finally:
        socket.setdefaulttimeout(before)

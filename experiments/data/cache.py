"""Decoded images on the disk: an uncompressed `.npz` with a digest, whose large arrays are mapped, not read.

The system loads the pages that are used and drops them again when memory is short.
"""

import glob
import os
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from ..system.files import Damaged, sealed, unsealed
from ..system.waiting import locked
from .dataset import DataError, Progress, Split

_READ_BYTES = 1 << 20  # smaller arrays are read
_WRITTEN_BYTES = 1 << 24  # at a time
_GB = 1e9


class Rows(NamedTuple):
    """These rows of an array, in this order; not copied yet."""

    array: np.ndarray
    order: Sequence[int]

    def taken(self) -> np.ndarray:
        """The rows, copied."""
        return np.asarray(self.array[np.asarray(self.order, np.int64)])


Arrays = Mapping[str, Rows]


def cached(path: Path, key: str, make: Callable[[], Arrays], progress: Progress) -> dict[str, np.ndarray]:
    """The arrays of the file; `make` gives them if it has none, is damaged, or was made with another `key`.

    Several programs at once make them once. One that is killed leaves nothing that another would take.

    Raises:
        OSError: the file cannot be written.
    """
    if (found := _mapped(path, key, progress)) is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_suffix(".lock"), f"the images in {path}"):
            if (found := _mapped(path, key, lambda line: None)) is None:  # if no other program was faster
                for left in path.parent.glob(f".{glob.escape(path.name)}.*"):  # by a program that was killed
                    left.unlink()
                with sealed(path) as file:
                    _write(file, {**make(), "key": Rows(np.array([key]), [0])})
                found = _mapped(path, key, progress) or {}
    return found


def splits_in(arrays: Mapping[str, np.ndarray]) -> dict[str, Split]:
    """The splits whose parts are named `train.images`, `train.labels` and so on."""
    names = [name.removesuffix(".images") for name in arrays if name.endswith(".images")]
    return {
        name: Split(**{field.name: arrays.get(f"{name}.{field.name}") for field in fields(Split)})  # type: ignore[arg-type]
        for name in names
    }


def scratch(folder: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A mapped uint8 array in a file without a name, which is gone with the program.

    Raises:
        DataError: the disk has too little room for it and for the file that is made of it.
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = int(np.prod(shape, dtype=np.int64)), shutil.disk_usage(folder).free
    if 2 * needed > free:
        room = f"{2 * needed / _GB:.1f} GB on the disk of {folder}, of which {free / _GB:.1f} GB are free"
        raise DataError(f"the decoded images need {room}; give a data_dir with more room, or a smaller image_size")
    with tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, needed)  # a disk that fills up later would kill the program
        return np.memmap(file, np.uint8, "w+", shape=shape)


def _write(file: BinaryIO, arrays: Arrays) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, (array, order) in arrays.items():
            shape = (len(order), *array.shape[1:])
            header = {"descr": np.lib.format.dtype_to_descr(array.dtype), "fortran_order": False, "shape": shape}
            step = max(1, _WRITTEN_BYTES // max(1, array[:1].nbytes))
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_2_0(member, header)
                for start in range(0, len(order), step):
                    member.write(Rows(array, order[start : start + step]).taken().tobytes())


def _mapped(path: Path, key: str, progress: Progress) -> dict[str, np.ndarray] | None:
    """The arrays in the file; None if there is no file, or one that is damaged or has another key."""
    if not path.is_file():
        return None
    try:
        with unsealed(path) as file, zipfile.ZipFile(file) as archive:
            arrays = {info.filename.removesuffix(".npy"): _member(file, info) for info in archive.infolist()}
    except Damaged as error:
        progress(f"{path} is damaged ({error}) and is made again")
        return None
    return arrays if "key" in arrays and arrays["key"].tolist() == [key] else None


def _member(file: BinaryIO, info: zipfile.ZipInfo) -> np.ndarray:
    file.seek(info.header_offset + 26)
    file.seek(sum(struct.unpack("<HH", file.read(4))), os.SEEK_CUR)  # the lengths of the name and of what follows
    version = np.lib.format.read_magic(file)
    header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = header(file)
    count, start = int(np.prod(shape, dtype=np.int64)), file.tell()
    if count * dtype.itemsize < _READ_BYTES:
        return np.frombuffer(file.read(count * dtype.itemsize), dtype).reshape(shape).copy()
    return np.memmap(file, dtype, "c", start, shape)

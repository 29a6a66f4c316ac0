"""Decoded images in a mapped file: the same as in memory, made once, made again when something changed or broke."""

import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from experiments.data import cache, photos
from experiments.data.cache import Rows, cached
from experiments.data.dataset import DataError, Dataset
from experiments.data.load import load
from tests.data.test_data import altered

OPTIONS = {"image_size": 16, "background_bias": 0.5, "train_images": "all"}


def pictures(root: Path, count: int = 6) -> Path:
    """Images of two classes with masks, white outside the object."""
    for c, name in enumerate(("cat", "dog")):
        for i in range(count):
            for place in (root / name, root / "masks" / name):
                place.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(10 * c + i).integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
            mask = np.full((20, 24), 255, np.uint8)
            mask[4:16, 6 : 18 - i] = 0
            Image.fromarray(mask).save(root / "masks" / name / f"{i}.png")
    return root


KILLED = """
import os, sys
from pathlib import Path
import numpy as np
from experiments.data.cache import Rows, cached

class Order(list):
    def __getitem__(self, index):  # called while the file is written
        os.kill(os.getpid(), 9)

cached(Path(sys.argv[1]), "key", lambda: {"images": Rows(np.zeros((3, 9), np.uint8), Order([0, 1]))}, print)
"""


class Loaded(NamedTuple):
    dataset: Dataset
    lines: list[str]


def loaded(root: Path, data_dir: Path, **options: object) -> Loaded:
    lines: list[str] = []
    given = OPTIONS | {"data_dir": str(data_dir), "progress": lines.append} | options
    return Loaded(load(f"folder:{root}", **given), lines)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every set counts as large; the list fills with the names of files that are decoded."""
    read, names = photos._read_photo, []

    def counted(file: photos.PhotoFile, request: object) -> object:
        names.append(file.path.name)
        return read(file, request)

    monkeypatch.setattr(photos, "IN_MEMORY", 0)
    monkeypatch.setattr(photos, "_read_photo", counted)
    monkeypatch.setattr(cache, "_READ_BYTES", 100)
    return names


@pytest.mark.parametrize("holdout", [True, False])
def test_mapped_images_are_those_in_memory_and_are_decoded_once(
    holdout: bool, decoded: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, place = pictures(tmp_path / "pets"), tmp_path / "data"
    first, second = (loaded(root, place, holdout=holdout) for _ in range(2))
    assert len(decoded) == 12
    (file,) = place.glob("*.npz")
    assert first.lines[0] == f"decoding 12 images once into {file} (0.0 GB)"
    assert second.lines == first.lines[1:]  # what is said about the images is said in each run
    assert any("masks are white at the border" in line for line in second.lines)
    monkeypatch.setattr(photos, "IN_MEMORY", 1 << 30)
    plain = loaded(root, place, holdout=holdout).dataset
    assert first.dataset.digest == second.dataset.digest == plain.digest
    for name, split in plain.splits.items():
        mapped = second.dataset.splits[name]
        assert isinstance(mapped.images, np.memmap)
        for field in ("images", "labels", "masks"):
            np.testing.assert_array_equal(getattr(mapped, field), getattr(split, field))
    torch.from_numpy(second.dataset.splits["train"].images)  # warns about arrays that cannot be written
    assert sorted(path.suffix for path in place.iterdir()) == [".lock", ".npz"]


def test_a_changed_file_an_added_one_and_another_size_are_decoded(decoded: list[str], tmp_path: Path) -> None:
    root, place = pictures(tmp_path / "pets"), tmp_path / "data"
    digests = [loaded(root, place).dataset.digest]
    Image.new("RGB", (20, 30), "red").resize((24, 20)).save(root / "cat" / "0.png")
    digests.append(loaded(root, place).dataset.digest)
    assert len(decoded) == 24
    digests.append(loaded(root, place, image_size=20).dataset.digest)
    digests.append(loaded(root, place, interpolation="bilinear").dataset.digest)
    assert len(decoded) == 48
    assert len(set(digests)) == 4
    assert loaded(root, place).dataset.digest == digests[1]
    assert len(decoded) == 48
    assert len(list(place.glob("*.npz"))) == 3  # a changed folder replaces its file


def test_files_that_are_left_out_are_remembered(decoded: list[str], tmp_path: Path) -> None:
    root, place = pictures(tmp_path / "pets"), tmp_path / "data"
    (root / "dog" / "3.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"3\.png cannot be used .*; or leave such files out with on_bad=skip"):
        loaded(root, place)
    assert not list(place.glob("*.npz")) + list(place.glob(".*"))
    found = [loaded(root, place, skip_bad=True).dataset for _ in range(2)]
    assert [len(each.left_out) for each in found] == [1, 1]
    assert found[0].left_out == found[1].left_out
    assert sum(len(split) for split in found[1].splits.values()) == 11


@pytest.mark.parametrize("damage", [altered, lambda content: content[:-9], lambda content: b""])
def test_a_damaged_file_is_made_again(damage: Callable[[bytes], bytes], decoded: list[str], tmp_path: Path) -> None:
    root, place = pictures(tmp_path / "pets"), tmp_path / "data"
    digest = loaded(root, place).dataset.digest
    (file,) = place.glob("*.npz")
    file.write_bytes(damage(file.read_bytes()))
    again = loaded(root, place)
    assert again.dataset.digest == digest
    assert again.lines[0].startswith(f"{file} is damaged (")
    assert len(decoded) == 24


def test_several_at_once_decode_once(decoded: list[str], tmp_path: Path) -> None:
    root, place = pictures(tmp_path / "pets"), tmp_path / "data"
    threads = [threading.Thread(target=loaded, args=(root, place)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == 12


def test_what_a_killed_program_left_is_removed_and_a_failure_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    half = tmp_path / ".images.npz.4242"
    half.write_bytes(b"half")
    with pytest.raises(ZeroDivisionError):
        cached(path, "key", lambda: 1 / 0, print)
    assert [each.name for each in tmp_path.iterdir()] == ["images.lock"]
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], cwd=Path(__file__).parents[2], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not path.exists()
    assert len(list(tmp_path.glob(".images.npz.*"))) == 1
    found = cached(path, "key", lambda: {"a": Rows(np.arange(4), [2, 0])}, print)
    assert found["a"].tolist() == [2, 0]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["images.lock", "images.npz"]


def test_a_disk_with_too_little_room_is_told_before_anything_is_decoded(
    decoded: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free)
    told = r"need 0\.0 GB on the disk of .*, of which 0\.0 GB are free; give a data_dir with more room"
    with pytest.raises(DataError, match=told):
        loaded(pictures(tmp_path / "pets"), tmp_path / "data")
    assert decoded == []
    assert not list((tmp_path / "data").glob("*.npz"))


@given(
    st.sampled_from(["u1", "?", "<i8", "<f4", "<U5"]),
    st.lists(st.integers(1, 7), min_size=0, max_size=3),
    st.lists(st.integers(0, 4), max_size=9),
    st.booleans(),
)
def test_arrays_of_any_kind_come_back(dtype: str, shape: list[int], order: list[int], is_large: bool) -> None:
    array = np.arange(5 * int(np.prod(shape))).reshape(5, *shape).astype(dtype)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "_READ_BYTES", 1 if is_large else 1 << 20)
        patch.setattr(cache, "_WRITTEN_BYTES", 50)
        given = {"first": Rows(array, order), "second": Rows(array, range(5))}
        found = [cached(Path(folder) / "a.npz", "key", lambda: given, print) for _ in range(2)]
    for each in found:
        np.testing.assert_array_equal(each["first"], array[np.array(order, int)])
        np.testing.assert_array_equal(each["second"], array)
        assert each["second"].dtype == array.dtype

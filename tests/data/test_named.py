"""Data sets by name and by a function: small files of the same layout as the published ones."""

import hashlib
import os
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from torchvision import datasets

from experiments.data.cifar10 import CORRUPTED, CORRUPTIONS
from experiments.data.dataset import DataError, Dataset
from experiments.data.load import load
from experiments.data.of_torchvision import SETS
from experiments.settings.base import SettingsError
from experiments.settings.train import TrainSettings

COUNT = 20
Made = tuple[tuple[str, ...], dict[str, np.ndarray], dict[str, np.ndarray]]
"""The names of the classes, then images and labels of train and test as they were drawn."""


def loaded(name: str, root: Path, size: int = 32, lines: list[str] | None = None) -> Dataset:
    said = [] if lines is None else lines
    options = {"data_dir": str(root), "image_size": size, "background_bias": 0.5, "train_images": "all"}
    return load(name, **options, progress=said.append)  # type: ignore[arg-type]


def drawn(size: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    random = np.random.default_rng(size)
    images = {part: random.integers(0, 256, (COUNT, size, size, 3), np.uint8) for part in ("train", "test")}
    return images, {part: random.permutation(np.arange(COUNT) % 2) for part in images}


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def cifar100(root: Path, patch: pytest.MonkeyPatch) -> Made:
    folder, (images, labels) = root / "cifar-100-python", drawn(32)
    folder.mkdir(parents=True)
    for part in images:
        data = images[part].transpose(0, 3, 1, 2).reshape(COUNT, -1)
        (folder / part).write_bytes(pickle.dumps({"data": data, "fine_labels": labels[part].tolist()}))
        patch.setattr(datasets.CIFAR100, f"{part}_list", [[part, md5(folder / part)]])
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": ["apple", "pine_tree"]}))
    patch.setattr(datasets.CIFAR100, "meta", {**datasets.CIFAR100.meta, "md5": md5(folder / "meta")})
    patch.setattr(datasets.CIFAR100, "url", "http://127.0.0.1:9/cifar-100-python.tar.gz")
    return ("apple", "pine_tree"), images, labels


def stl10(root: Path, patch: pytest.MonkeyPatch) -> Made:
    folder, (images, labels) = root / "stl10_binary", drawn(96)
    folder.mkdir(parents=True)
    files = {"unlabeled_X.bin": images["test"].transpose(0, 3, 2, 1).tobytes()}
    for part in images:  # column by column, and classes from 1
        files[f"{part}_X.bin"] = images[part].transpose(0, 3, 2, 1).tobytes()
        files[f"{part}_y.bin"] = (labels[part] + 1).astype(np.uint8).tobytes()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "class_names.txt").write_text("airplane\nbird\n")
    for part in images:
        named = [[name, md5(folder / name)] for name in (f"{part}_X.bin", f"{part}_y.bin")]
        more = [["unlabeled_X.bin", md5(folder / "unlabeled_X.bin")]] if part == "train" else []
        patch.setattr(datasets.STL10, f"{part}_list", named + more)
    return ("airplane", "bird"), images, labels


def fashion_mnist(root: Path, patch: pytest.MonkeyPatch) -> Made:
    folder, (images, labels) = root / "FashionMNIST" / "raw", drawn(28)
    folder.mkdir(parents=True)
    for part, name in (("train", "train"), ("test", "t10k")):
        images[part] = images[part][..., :1].repeat(3, 3)
        head = np.array([0x803, COUNT, 28, 28], ">i4").tobytes()
        (folder / f"{name}-images-idx3-ubyte").write_bytes(head + images[part][..., 0].tobytes())
        head = np.array([0x801, COUNT], ">i4").tobytes()
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(head + labels[part].astype(np.uint8).tobytes())
    return tuple(datasets.FashionMNIST.classes), images, labels


def svhn(root: Path, patch: pytest.MonkeyPatch) -> Made:
    images, labels = drawn(32)
    root.mkdir(parents=True)
    published = dict(datasets.SVHN.split_list)
    for part in images:  # the digit 0 is the class 10 there
        path = root / f"{part}_32x32.mat"
        written = {"X": images[part].transpose(1, 2, 3, 0), "y": np.where(labels[part], labels[part], 10)[:, None]}
        scipy.io.savemat(path, written)
        published[part] = [f"http://127.0.0.1:9/{path.name}", path.name, md5(path)]
    patch.setattr(datasets.SVHN, "split_list", published)
    return tuple("0123456789"), images, labels


def imagenette(root: Path, patch: pytest.MonkeyPatch, place: str = "imagenette2-160") -> Made:
    images, labels = drawn(32)
    for part, folder in (("train", "train"), ("test", "val")):
        for i, (pixels, label) in enumerate(zip(images[part], labels[part], strict=True)):
            path = root / place / folder / ("n01440764", "n02102040")[label] / f"{i}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path, "PNG")  # JPEG would change the pixels; the content decides
    return ("tench", "English springer"), images, labels


def pets(root: Path, patch: pytest.MonkeyPatch) -> Made:
    base, (images, labels) = root / "oxford-iiit-pet", drawn(32)
    (base / "annotations" / "trimaps").mkdir(parents=True)
    (base / "images").mkdir()
    trimap = np.full((32, 32), 2, np.uint8)
    trimap[8:24, 8:24], trimap[10:22, 10:22] = 3, 1
    for part, name in (("train", "trainval"), ("test", "test")):
        lines = []
        for i, (pixels, label) in enumerate(zip(images[part], labels[part], strict=True)):
            stem = f"{('Abyssinian', 'great_pyrenees')[label]}_{part}{i}"
            Image.fromarray(pixels).save(base / "images" / f"{stem}.jpg", "PNG")
            Image.fromarray(trimap).save(base / "annotations" / "trimaps" / f"{stem}.png")
            lines.append(f"{stem} {label + 1} {label + 1} 1\n")
        (base / "annotations" / f"{name}.txt").write_text("".join(lines))
    return ("Abyssinian", "Great Pyrenees"), images, labels


MAKERS: dict[str, tuple[Callable[[Path, pytest.MonkeyPatch], Made], int]] = {
    "CIFAR100": (cifar100, 32),
    "FashionMNIST": (fashion_mnist, 28),
    "Imagenette": (imagenette, 32),
    "OxfordIIITPet": (pets, 32),
    "STL10": (stl10, 96),
    "SVHN": (svhn, 32),
}


def pairs(*parts: tuple[np.ndarray, np.ndarray]) -> list[tuple[bytes, int]]:
    return sorted(
        (image.tobytes(), int(label)) for images, labels in parts for image, label in zip(images, labels, strict=True)
    )


@pytest.mark.parametrize("name", MAKERS)
def test_each_data_set_of_torchvision_is_what_its_files_contain(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker, size = MAKERS[name]
    classes, images, labels = maker(tmp_path / "data", monkeypatch)
    lines: list[str] = []
    found = loaded(f"torchvision:{name.swapcase()}", tmp_path / "data", size, lines)
    assert (found.name, found.classes) == (f"torchvision:{name}", classes)
    train, val, test = (found.splits[part] for part in ("train", "val", "test"))
    assert pairs((test.images, test.labels)) == pairs((images["test"], labels["test"]))
    parts = (train.images, train.labels), (val.images, val.labels)
    assert pairs(*parts) == pairs((images["train"], labels["train"]))
    assert np.bincount(val.labels).tolist() == [1, 1]
    assert (test.masks is not None) == (name == "OxfordIIITPet")
    if test.masks is not None:
        assert test.masks.sum((1, 2)).tolist() == [16 * 16] * COUNT  # the outline is object
    assert not lines


def test_every_data_set_by_name_is_tried() -> None:
    assert MAKERS.keys() == SETS.keys()


def test_an_archive_in_the_folder_is_unpacked_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cifar100(tmp_path / "made", monkeypatch)
    (tmp_path / "data").mkdir()
    archive = tmp_path / "data" / "cifar-100-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "made" / "cifar-100-python", "cifar-100-python")
    monkeypatch.setattr(datasets.CIFAR100, "tgz_md5", md5(archive))
    there = loaded("torchvision:cifar100", tmp_path / "made")
    assert loaded("torchvision:cifar100", tmp_path / "data").digest == there.digest
    assert not list((tmp_path / "data").glob(".*unfinished"))


@pytest.mark.parametrize("damage", ["missing", "altered"])
def test_without_network_the_message_names_the_place_and_nothing_is_left(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cifar100(tmp_path / "made", monkeypatch)
    root = tmp_path / ("data" if damage == "missing" else "made")
    if damage == "altered":
        (root / "cifar-100-python" / "test").write_bytes(b"another")
    with pytest.raises(DataError) as caught:
        loaded("torchvision:CIFAR100", root)
    for part in (f"cifar-100-python in {root} is missing or damaged", "cannot be downloaded", "refused", "data_dir"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in root.iterdir() if path.name.startswith(".")] == [".CIFAR100.lock"]


def test_what_a_download_that_was_ended_left_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    imagenette(tmp_path, monkeypatch)
    (tmp_path / ".imagenette2-160.unfinished").touch()
    with pytest.raises(DataError, match="imagenette2-160 is incomplete, because its download was ended: delete it"):
        loaded("torchvision:imagenette", tmp_path)


def test_of_several_sizes_the_smallest_that_is_large_enough_and_there_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imagenette(tmp_path, monkeypatch, "imagenette2")
    assert loaded("torchvision:imagenette", tmp_path).source == str(tmp_path / "imagenette2")
    imagenette(tmp_path, monkeypatch, "imagenette2-160")
    assert loaded("torchvision:imagenette", tmp_path).source == str(tmp_path / "imagenette2-160")
    assert loaded("torchvision:imagenette", tmp_path, 161).source == str(tmp_path / "imagenette2")


def test_a_damaged_image_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pets(tmp_path, monkeypatch)
    next((tmp_path / "oxford-iiit-pet" / "images").iterdir()).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"oxford-iiit-pet: image \d+ cannot be read"):
        loaded("torchvision:oxfordiiitpet", tmp_path)


def test_a_name_that_torchvision_or_this_suite_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"torchvision:cifar1000 is not known: use one of CIFAR100, .*mean 'CIFAR100'"):
        loaded("torchvision:cifar1000", tmp_path)
    with pytest.raises(SettingsError, match=r"must be auto, cifar10, .*torchvision:NAME or FILE\.py:function"):
        TrainSettings.of(dataset="torchvision:")


# ---- CIFAR-10-C ----------------------------------------------------------------------------------------------------


def cifar10(root: Path, patch: pytest.MonkeyPatch) -> np.ndarray:
    """A forgery of CIFAR-10 with 20 images in each part; returns the labels of test."""
    folder, (images, labels) = root / "cifar-10-batches-py", drawn(32)
    folder.mkdir(parents=True)
    for part in images:
        data = images[part].transpose(0, 3, 1, 2).reshape(COUNT, -1)
        (folder / part).write_bytes(pickle.dumps({"data": data, "labels": labels[part].tolist()}))
        patch.setattr(datasets.CIFAR10, f"{part}_list", [[part, md5(folder / part)]])
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["cat", "dog"]}))
    patch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": md5(folder / "batches.meta")})
    patch.delenv("CIFAR10_ROOT", raising=False)
    return labels["test"]


def corrupted(root: Path, labels: np.ndarray) -> Path:
    folder = root / "CIFAR-10-C"
    folder.mkdir()
    np.save(folder / "labels.npy", np.tile(labels, 5))
    for number, name in enumerate(CORRUPTIONS):
        np.save(folder / f"{name}.npy", np.full((5 * COUNT, 32, 32, 3), number, np.uint8))
    return folder


def test_cifar10_c_is_cifar10_with_further_test_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = cifar10(tmp_path, monkeypatch)
    corrupted(tmp_path, labels)
    found, plain = loaded("cifar10_c", tmp_path), loaded("cifar10", tmp_path)
    for name, split in plain.splits.items():
        assert np.array_equal(found.splits[name].images, split.images)
    assert list(found.splits)[len(plain.splits) :] == [f"{CORRUPTED}{name}" for name in CORRUPTIONS]
    assert len(CORRUPTIONS) == 15
    snow = found.splits["corrupted/snow"]
    assert (snow.images == CORRUPTIONS.index("snow")).all()
    assert snow.labels.tolist() == labels.tolist() * 5
    assert found.digest != plain.digest


def test_cifar10_c_that_is_missing_or_another_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = cifar10(tmp_path, monkeypatch)
    with pytest.raises(DataError, match=r"CIFAR-10-C does not exist: unpack CIFAR-10-C\.tar there"):
        loaded("cifar10_c", tmp_path)
    folder = corrupted(tmp_path, labels)
    with pytest.raises(DataError, match="image_size 64: the images of cifar10_c have 32 pixels; take image_size=32"):
        loaded("cifar10_c", tmp_path, 64)
    (folder / "fog.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"fog\.npy cannot be read"):
        loaded("cifar10_c", tmp_path)
    np.save(folder / "fog.npy", np.zeros((4, 32, 32, 3), np.uint8))
    with pytest.raises(DataError, match=r"fog\.npy is not that of CIFAR-10-C"):
        loaded("cifar10_c", tmp_path)
    np.save(folder / "labels.npy", np.tile(1 - labels, 5))
    with pytest.raises(DataError, match=r"labels\.npy is not that of CIFAR-10-C"):
        loaded("cifar10_c", tmp_path)


# ---- functions -----------------------------------------------------------------------------------------------------

SQUARES = """
import numpy as np
from experiments.data.dataset import Dataset, Split

def squares(size):
    labels = np.arange(40) % 2
    images = np.random.default_rng(0).integers(0, 256, (40, size, size, 3), np.uint8)
    split = Split(images, labels, None)
    return Dataset("squares", ("cat", "dog"), {"train": split, "test": split})

def broken(size):
    raise KeyError("nothing")

def number(size):
    return 3
"""


def file(tmp_path: Path, *change: str) -> Path:
    path = tmp_path / f"sets{hashlib.md5(repr((tmp_path, change)).encode()).hexdigest()}.py"
    path.write_text(SQUARES.replace(*change) if change else SQUARES)
    return path


def test_a_function_gives_a_data_set_whose_digest_is_that_of_its_pixels(tmp_path: Path) -> None:
    found = loaded(f"{file(tmp_path)}:squares", tmp_path)
    assert (found.name, found.classes, {name: len(split) for name, split in found.splits.items()}) == (
        *("squares", ("cat", "dog")),
        {"train": 36, "test": 40, "val": 4},
    )
    other = file(tmp_path, "default_rng(0)", "default_rng(1)")
    assert len({found.digest, loaded(f"{other}:squares", tmp_path).digest, ""}) == 3
    os.chdir(tmp_path)
    assert TrainSettings.of(dataset=f"{other.name}:squares").dataset == f"{other.name}:squares"
    assert loaded(f"{other.name}:squares", tmp_path).source == f"{other.name}:squares"


@pytest.mark.parametrize(
    ("function", "change", "problem"),
    [
        ("square", (), "has no function 'square'; did you mean 'squares'"),
        ("broken", (), r"KeyError: 'nothing' \(sets\w+\.py, line 12\)"),
        ("number", (), r"returns a int; must be an experiments\.data\.dataset\.Dataset"),
        ("squares", ("size, size, 3", "8, 8, 3"), r"split train: images are uint8 \(40, 8, 8, 3\); must be uint8"),
        (
            "squares",
            ("None)", "None); vars(split)['images'] = images.astype(np.int32)"),
            "split train: images are int32",
        ),
        ("squares", ("% 2", "% 3"), "split train: labels are from 0 to 2; must be from 0 to 1"),
        ("squares", ("% 2", "* 0"), "has no train image of class 'dog'; give some"),
        ("squares", ('("cat", "dog")', '("cat",)'), "labels are from 0 to 1; must be from 0 to 0"),
        ("squares", (', "test": split', ""), "has no split test; train and test are needed"),
        ("squares", ("40", "4"), "the classes have too few train images to split off val"),
        (
            "squares",
            ("None)", "None); vars(split)['masks'] = images > 3"),
            r"masks are bool \(40, 32, 32, 3\); must be bool",
        ),
        ("squares", ("import numpy", "import nowhere"), "cannot be imported: ModuleNotFoundError"),
    ],
)
def test_a_function_that_gives_no_data_set_is_refused(
    function: str, change: tuple[str, ...], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        loaded(f"{file(tmp_path, *change)}:{function}", tmp_path)
    assert "\n" not in str(caught.value)


def test_groups_of_a_function_stay(tmp_path: Path) -> None:
    lines = SQUARES.replace("labels, None)", "labels, None, labels)").replace("split})", 'split}, groups=("a", "b"))')
    (tmp_path / "grouped_set.py").write_text(lines)
    found = loaded(f"{tmp_path}/grouped_set.py:squares", tmp_path)
    assert found.groups == ("a", "b")
    assert all(np.array_equal(split.groups, split.labels) for split in found.splits.values())
    assert replace(found, digest="") != found

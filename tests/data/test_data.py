"""Data sets: fixed splits, digests that notice everything, and errors that name the file and the way out."""

import hashlib
import http.server
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.datasets import CIFAR10

from experiments.data import dataset as data
from experiments.data import load as loading
from experiments.data import scenes
from experiments.data.dataset import DataError, Dataset, Split, assembled, channel_statistics, with_fewer_train_images
from experiments.data.load import resolve_name

DEFAULTS = {"image_size": "auto", "background_bias": 0.5, "train_images": "all"}
UNREACHABLE = "http://127.0.0.1:9/cifar-10-python.tar.gz"


def silent(line: str) -> None:
    pass


def load(name: str, data_dir: Path, lines: list[str] | None = None, **settings: Any) -> Dataset:
    progress = silent if lines is None else lines.append
    return loading.load(name, data_dir=str(data_dir), progress=progress, **{**DEFAULTS, **settings})


def sha256(image: np.ndarray) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()


@pytest.fixture(autouse=True)
def _no_cifar10_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CIFAR10_ROOT", raising=False)


def test_the_module_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'torchvision', 'cv2', 'PIL', 'mlflow'}"
    code = f"import sys, experiments.data.dataset; assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(data.__file__).parents[2])


# ---- names and settings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cifar10", "scenes", "folder:photos", "nonsense"])
def test_only_auto_is_resolved(name: str, tmp_path: Path) -> None:
    assert resolve_name(name, str(tmp_path), silent) == name


@pytest.mark.parametrize("name", ["cifar", "folder:", "auto", ""])
def test_an_unknown_name_is_refused_with_those_allowed(name: str, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"dataset '.*' is not known: use one of auto, cifar10, cifar10_c, scenes, folder:PATH"
    ):
        load(name, tmp_path)


def test_an_image_size_too_small_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="image_size 8 is too small: 16 pixels or more, or auto for 32"):
        load("scenes", tmp_path, image_size=8)


# ---- statistics, order, subset, digest -----------------------------------------------------------------------------


def test_channel_statistics_are_those_of_numpy_over_more_than_one_chunk() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2345, 5, 4, 3), dtype=np.uint8)
    images[..., 1] //= 3
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255.0).mean(axis=(0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(std, (images / 255.0).std(axis=(0, 1, 2)), rtol=1e-6)
    assert mean.dtype == std.dtype == np.float32


def test_channel_statistics_of_black_and_white() -> None:
    images = np.zeros((2, 16, 16, 3), np.uint8)
    images[0] = 255
    mean, std = channel_statistics(images)
    np.testing.assert_array_equal(mean, np.full(3, 0.5, np.float32))
    np.testing.assert_array_equal(std, np.full(3, 0.5, np.float32))


def test_a_channel_without_variation_has_the_deviation_one() -> None:
    images = np.zeros((2, 16, 16, 3), np.uint8)
    images[0, ..., 0], images[..., 2] = 255, 51
    mean, std = channel_statistics(images)
    np.testing.assert_array_equal(mean, np.array([0.5, 0, 0.2], np.float32))
    np.testing.assert_array_equal(std, np.array([0.5, 1, 1], np.float32))


def test_channel_statistics_refuse_a_single_colour() -> None:
    with pytest.raises(DataError, match="only one colour"):
        channel_statistics(np.full((3, 16, 16, 3), 77, np.uint8))


def tiny(counts: list[int], seed: int = 0) -> Dataset:
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    images = np.random.default_rng(seed + 1).integers(0, 256, (len(labels), 2, 2, 3), dtype=np.uint8)
    other = Split(images[:1], labels[:1], None)
    names = tuple(f"class {k}" for k in range(len(counts)))
    return assembled("tiny", names, {"train": Split(images, labels, None), "val": other, "test": other}, "test")


@given(counts=st.lists(st.integers(1, 30), min_size=2, max_size=5), draw=st.data())
def test_a_smaller_train_split_keeps_every_class_and_their_proportions(counts: list[int], draw: st.DataObject) -> None:
    dataset = tiny(counts)
    n = draw.draw(st.integers(len(counts), sum(counts)))
    smaller = with_fewer_train_images(dataset, n)
    kept = np.bincount(smaller.splits["train"].labels, minlength=len(counts))
    assert kept.sum() == n
    assert kept.min() >= 1
    proportional = np.array(counts) * n / sum(counts)
    assert np.abs(kept - proportional).max() <= len(counts)
    assert smaller.splits["val"] is dataset.splits["val"]
    assert smaller.splits["test"] is dataset.splits["test"]
    assert (smaller.digest == dataset.digest) == (n == sum(counts))


def test_smaller_train_splits_are_nested_and_do_not_depend_on_the_order() -> None:
    dataset = tiny([12, 20, 8])
    whole = dataset.splits["train"]
    shuffle = np.random.default_rng(5).permutation(40)
    shuffled = Split(whole.images[shuffle], whole.labels[shuffle], None)
    shuffled_dataset = assembled("tiny", dataset.classes, {**dataset.splits, "train": shuffled}, "test")
    before: set[bytes] = set()
    for n in range(3, 41):
        kept = {sha256(image) for image in with_fewer_train_images(dataset, n).splits["train"].images}
        again = {sha256(image) for image in with_fewer_train_images(shuffled_dataset, n).splits["train"].images}
        assert len(kept) == n
        assert before < kept
        assert kept == again
        before = kept


@pytest.mark.parametrize("n", [-1, 0, 2, 41])
def test_a_train_split_of_impossible_size_is_refused(n: int) -> None:
    with pytest.raises(DataError, match=rf"train_images {n} is out of range for tiny: 3 \(one of each class\) to 40"):
        with_fewer_train_images(tiny([12, 20, 8]), n)


def test_without_holdout_the_val_images_are_trained_on(small_scenes: list[float], tmp_path: Path) -> None:
    held = load("scenes", tmp_path)
    joined = load("scenes", tmp_path, holdout=False)
    assert set(held.splits) - set(joined.splits) == {"val"}
    parts = [held.splits["train"], held.splits["val"]]
    for field in ("images", "labels", "masks"):
        expected = np.concatenate([getattr(part, field) for part in parts])
        assert np.array_equal(getattr(joined.splits["train"], field), expected)
    assert np.array_equal(joined.splits["test"].images, held.splits["test"].images)
    assert joined.digest != held.digest
    fewer = load("scenes", tmp_path, holdout=False, train_images=20)
    assert len(fewer.splits["train"]) == 20
    assert "val" not in fewer.splits


def test_the_digest_notices_whatever_can_change_a_result() -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (6, 3, 5, 3), dtype=np.uint8), np.array([0, 1, 0, 1, 0, 1])
    masks = rng.random((6, 3, 5)) < 0.5

    def digest(
        images: np.ndarray = images,
        labels: np.ndarray = labels,
        masks: np.ndarray | None = masks,
        classes: tuple[str, ...] = ("a", "b"),
        cut: int = 4,
        names: tuple[str, ...] = ("train", "val"),
    ) -> str:
        first = Split(images[:cut], labels[:cut], None if masks is None else masks[:cut])
        second = Split(images[cut:], labels[cut:], None if masks is None else masks[cut:])
        return data._digest(classes, dict(zip(names, (first, second), strict=True)))

    pixel, label, mask = images.copy(), labels.copy(), masks.copy()
    pixel[5, 2, 4, 2] ^= 1
    label[3] = 0
    mask[0, 0, 0] ^= True
    kinds = [
        digest(),
        digest(images=pixel),
        digest(labels=label),
        digest(masks=mask),
        digest(masks=None),
        digest(masks=np.zeros_like(masks)),
        digest(classes=("b", "a")),
        digest(cut=3),
        digest(names=("train", "test")),
        digest(images=images.reshape(6, 5, 3, 3), masks=None),
        digest(images=images[::-1]),
    ]
    assert len(set(kinds)) == len(kinds)
    assert digest() == kinds[0]
    assert all(len(kind) == 16 and int(kind, 16) >= 0 for kind in kinds)


# ---- CIFAR-10: a small forgery with md5 sums of its own -------------------------------------------------------------


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with cifar-10-batches-py of 200 + 20 images, and a torchvision that takes it for the real one."""
    folder = tmp_path / "root" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]
    for name in names:
        n = 20 if name == "test_batch" else 40
        labels = rng.permutation(np.arange(n) % 10).tolist()
        batch = {"data": rng.integers(0, 256, (n, 3072), dtype=np.uint8), "labels": labels}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {k}" for k in range(10)]}, protocol=2))
    sums = [[name, md5(folder / name)] for name in names]
    monkeypatch.setattr(CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(CIFAR10, "test_list", sums[5:])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5(folder / "batches.meta")})
    monkeypatch.setattr(CIFAR10, "url", UNREACHABLE)
    return folder.parent


def test_cifar10_is_what_torchvision_reads(cifar: Path) -> None:
    dataset = load("cifar10", cifar)
    reference = CIFAR10(cifar, train=True)
    label_of = {sha256(image): label for image, label in zip(reference.data, reference.targets, strict=True)}
    found = {
        sha256(image): label
        for name in ("train", "val")
        for image, label in zip(dataset.splits[name].images, dataset.splits[name].labels, strict=True)
    }
    assert found == label_of
    test = CIFAR10(cifar, train=False)
    np.testing.assert_array_equal(dataset.splits["test"].images, test.data)
    np.testing.assert_array_equal(dataset.splits["test"].labels, test.targets)
    assert dataset.classes == tuple(reference.classes)
    assert dataset.name == "cifar10"
    assert dataset.source == str(cifar / "cifar-10-batches-py")


def test_cifar10_val_is_the_tenth_of_each_class_with_the_lowest_sha256(cifar: Path) -> None:
    dataset = load("cifar10", cifar)
    reference = CIFAR10(cifar, train=True)
    for k in range(10):
        hashes = sorted(sha256(image) for image in reference.data[np.array(reference.targets) == k])
        val = dataset.splits["val"]
        assert sorted(sha256(image) for image in val.images[val.labels == k]) == hashes[: len(hashes) // 10]


def test_cifar10_is_read_from_the_environment_variable_first(
    cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    empty = tmp_path / "data"
    for root in (cifar, cifar / "cifar-10-batches-py"):
        monkeypatch.setenv("CIFAR10_ROOT", str(root))
        assert load("cifar10", empty).source == str(cifar / "cifar-10-batches-py")
        assert resolve_name("auto", str(empty), silent) == "cifar10"
    assert not empty.exists()


def test_cifar10_in_another_size_has_the_same_splits_and_another_digest(cifar: Path) -> None:
    plain, large = load("cifar10", cifar), load("cifar10", cifar, image_size=64)
    assert large.splits["val"].images.shape == (20, 64, 64, 3)
    np.testing.assert_array_equal(large.splits["train"].labels, plain.splits["train"].labels)
    assert large.digest != plain.digest
    means = [dataset.splits["test"].images.mean(axis=(1, 2)) for dataset in (plain, large)]
    np.testing.assert_allclose(*means, atol=4)


@pytest.mark.parametrize("name", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_damaged_file_is_named_and_nothing_else_is_taken_instead(cifar: Path, name: str, damage: str) -> None:
    path = cifar / "cifar-10-batches-py" / name
    content = path.read_bytes()
    expected = hashlib.md5(content).hexdigest()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "altered":
        path.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
    else:
        path.unlink()
    lines: list[str] = []
    assert resolve_name("auto", str(cifar), lines.append) == "cifar10"
    problem = (
        r"cannot be read \(No such file or directory\)"
        if damage == "missing"
        else rf"is damaged \([\d,]+ bytes, md5 {md5(path)}, expected {expected}\)"
    )
    cure = rf"delete {path.parent} and start again .*, or set CIFAR10_ROOT"
    with pytest.raises(DataError, match=rf"{path} {problem}; {cure}"):
        load("cifar10", cifar)


def test_without_network_cifar10_says_where_it_looked_and_what_to_do(cifar: Path, tmp_path: Path) -> None:
    empty = tmp_path / "data"
    with pytest.raises(DataError) as caught:
        load("cifar10", empty)
    for part in (str(empty), UNREACHABLE, "CIFAR10_ROOT", "dataset=scenes", "refused"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [path.name for path in empty.iterdir()] == [".cifar10.lock"]


def test_without_network_auto_takes_the_scenes_and_says_so(cifar: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    assert resolve_name("auto", str(tmp_path / "data"), lines.append) == "scenes"
    assert len(lines) == 1
    assert "built-in scenes" in lines[0]
    assert str(tmp_path / "data") in lines[0]


def packed(cifar: Path, archive: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(cifar / "cifar-10-batches-py", "cifar-10-batches-py")
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(archive))
    return archive


@pytest.fixture
def served(cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The archive on a server of this machine; the list fills with the requests."""
    archive = packed(cifar, tmp_path / "www" / "cifar-10-python.tar.gz", monkeypatch)
    requests: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            requests.append(self.command)

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """torchvision asks twice, and hangs up on the first answer when it has seen the address."""

    server = Server(("127.0.0.1", 0), partial(Handler, directory=str(archive.parent)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{archive.name}")
    yield requests
    server.shutdown()
    thread.join()
    server.server_close()


def test_cifar10_is_downloaded_once_where_it_is_missing(cifar: Path, served: list[str], tmp_path: Path) -> None:
    fresh = tmp_path / "data"
    lines: list[str] = []
    assert resolve_name("auto", str(fresh), lines.append) == "cifar10"
    assert "downloading CIFAR-10" in lines[0]
    assert load("cifar10", fresh).digest == load("cifar10", cifar).digest
    assert served.count("HEAD") == 1  # how each of our downloads begins
    assert sorted(path.name for path in fresh.iterdir()) == [".cifar10.lock", "cifar-10-batches-py"]


def test_two_at_once_download_once(served: list[str], tmp_path: Path) -> None:
    fresh = tmp_path / "data"
    threads = [threading.Thread(target=resolve_name, args=("auto", str(fresh), silent)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert served.count("HEAD") == 1  # how each of our downloads begins
    assert len(load("cifar10", fresh).splits["train"]) == 180


def test_a_download_that_arrives_altered_leaves_nothing_behind(
    served: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CIFAR10, "tgz_md5", "0" * 32)
    fresh = tmp_path / "data"
    with pytest.raises(DataError, match=r"cannot be downloaded from http://127.* \(File not found or corrupted"):
        load("cifar10", fresh)
    assert [path.name for path in fresh.iterdir()] == [".cifar10.lock"]


def test_an_archive_fetched_by_hand_is_unpacked_without_network(
    cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = tmp_path / "data"
    packed(cifar, fresh / "cifar-10-python.tar.gz", monkeypatch)
    assert load("cifar10", fresh).digest == load("cifar10", cifar).digest


def test_a_damaged_archive_is_named_even_for_auto(cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = packed(cifar, tmp_path / "data" / "cifar-10-python.tar.gz", monkeypatch)
    archive.write_bytes(archive.read_bytes()[:-100])
    with pytest.raises(DataError, match=rf"{archive} is damaged \(md5 .*\); delete it and start again"):
        resolve_name("auto", str(archive.parent), silent)


# ---- CIFAR-10: the real one ----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def real_cifar10_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if root := os.environ.get("CIFAR10_ROOT"):
        return Path(root)
    unpack = Path(__file__).parents[3] / "shared" / "data" / "cifar10" / "unpack.py"
    if not unpack.is_file():
        pytest.skip("no CIFAR-10 here: CIFAR10_ROOT is not set")
    root = tmp_path_factory.mktemp("cifar10")
    subprocess.run([sys.executable, str(unpack), str(root)], check=True, capture_output=True)
    return root


@pytest.mark.slow
def test_the_real_cifar10(real_cifar10_root: Path) -> None:
    dataset = load("cifar10", real_cifar10_root)
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 45000, "val": 5000, "test": 10000}
    for split in dataset.splits.values():
        assert np.bincount(split.labels).tolist() == [len(split) // 10] * 10
        assert split.masks is None
    assert dataset.classes[:3] == ("airplane", "automobile", "bird")
    mean, std = channel_statistics(dataset.splits["train"].images)
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=5e-4)  # published for the 50,000
    np.testing.assert_allclose(std, [0.2470, 0.2435, 0.2616], atol=5e-4)
    assert dataset.digest == "5768b9b58be38162"  # the splits are a contract: old and new runs must be comparable


# ---- the built-in scenes -------------------------------------------------------------------------------------------


@pytest.fixture
def small_scenes(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Scenes of a few images; the list fills with the bias of each time that they are drawn."""
    generate, calls = scenes.generate, []

    def counted(*, background_bias: float, image_size: int) -> dict[str, scenes.Scenes]:
        calls.append(background_bias)
        sizes = {"train": 60, "val": 20, "test": 30}
        return generate(background_bias=background_bias, image_size=image_size, sizes=sizes)

    monkeypatch.setattr(scenes, "generate", counted)
    return calls


def test_scenes_are_drawn_once_and_read_back_the_same(small_scenes: list[float], tmp_path: Path) -> None:
    lines: list[str] = []
    first, second = load("scenes", tmp_path, lines), load("scenes", tmp_path, lines)
    assert small_scenes == [0.5]
    assert len(lines) == 1
    assert first.digest == second.digest
    assert first.source == second.source == "generated: scenes, version 1, seed 0, background_bias 0.5, image_size 32"
    assert set(second.splits) == {*scenes.VARIANTS["test"], "train", "val", "test_shifted"}
    for name, split in first.splits.items():
        np.testing.assert_array_equal(split.images, second.splits[name].images)
        np.testing.assert_array_equal(split.labels, second.splits[name].labels)
        np.testing.assert_array_equal(split.masks, second.splits[name].masks)
    assert second.splits["test_shifted"] is second.splits["other"]


def test_scenes_of_a_size_that_is_no_multiple_of_eight_keep_their_masks(
    small_scenes: list[float], tmp_path: Path
) -> None:
    first, second = (load("scenes", tmp_path, image_size=21) for _ in range(2))
    np.testing.assert_array_equal(first.splits["test"].masks, second.splits["test"].masks)
    assert small_scenes == [0.5]


def test_bias_size_and_number_of_train_images_show_in_the_digest(small_scenes: list[float], tmp_path: Path) -> None:
    settings = [{}, {"background_bias": 0.0}, {"image_size": 16}, {"train_images": 40}, {"train_images": 50}]
    digests = [load("scenes", tmp_path, **setting).digest for setting in settings]
    assert len(set(digests)) == len(settings)
    fewer = load("scenes", tmp_path, train_images=40).splits
    assert np.bincount(fewer["train"].labels).tolist() == [4] * 10
    assert (len(fewer["val"]), len(fewer["test"])) == (20, 30)
    assert small_scenes == [0.5, 0.0, 0.5]


def altered(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [altered, lambda c: c[: len(c) // 2], lambda c: b"", lambda c: b"no archive"])
def test_a_damaged_cache_is_drawn_anew_with_a_note(
    small_scenes: list[float], tmp_path: Path, damage: Callable[[bytes], bytes]
) -> None:
    digest = load("scenes", tmp_path).digest
    (cache,) = tmp_path.glob("*.npz")
    cache.write_bytes(damage(cache.read_bytes()))
    lines: list[str] = []
    assert load("scenes", tmp_path, lines).digest == digest
    assert len(small_scenes) == 2
    assert lines[0].startswith(f"{cache} is damaged (")
    assert lines[0].endswith("and is made again")
    assert load("scenes", tmp_path).digest == digest
    assert len(small_scenes) == 2


def test_a_cache_with_another_pixel_is_drawn_anew(small_scenes: list[float], tmp_path: Path) -> None:
    """A flipped bit that an archive without compression hides from nobody but its checksum."""
    dataset = load("scenes", tmp_path)
    (cache,) = tmp_path.glob("*.npz")
    content = cache.read_bytes()
    at = content.index(dataset.splits["test"].images[7].tobytes())
    cache.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    lines: list[str] = []
    assert load("scenes", tmp_path, lines).digest == dataset.digest
    assert lines[0] == f"{cache} is damaged (its content does not match its digest) and is made again"
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".lock", ".npz"]


def test_several_at_once_draw_once(small_scenes: list[float], tmp_path: Path) -> None:
    threads = [threading.Thread(target=load, args=("scenes", tmp_path)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert small_scenes == [0.5]


@pytest.mark.parametrize("bias", [-0.01, 1.5, float("nan")])
def test_a_bias_out_of_range_is_refused_before_anything_is_written(tmp_path: Path, bias: float) -> None:
    with pytest.raises(DataError, match=r"background_bias .* is out of range: 0 to 1"):
        load("scenes", tmp_path / "data", background_bias=bias)
    assert not (tmp_path / "data").exists()


def test_a_data_dir_that_cannot_be_made_is_named(small_scenes: list[float], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"the scenes cannot be stored in .*file/data .*; give another data_dir"):
        load("scenes", tmp_path / "file" / "data")


# ---- a folder of one's own -----------------------------------------------------------------------------------------


def picture(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def fill(folder: Path, counts: dict[str, int], seed: int = 0) -> Path:
    for k, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            picture(1000 * seed + 100 * k + i).save(folder / name / f"{i}.png")
    return folder


def load_folder(root: Path, lines: list[str] | None = None, **settings: Any) -> Dataset:
    return load(f"folder:{root}", root, lines, **settings)


def test_a_folder_with_all_three_parts_is_taken_as_it_is(tmp_path: Path) -> None:
    root = tmp_path / "pets"
    for seed, (part, count) in enumerate({"train": 4, "val": 2, "test": 3}.items()):
        fill(root / part, {"dog": count, "cat": count + 1}, seed)
    lines: list[str] = []
    dataset = load_folder(root, lines)
    assert dataset.name == "folder:pets"
    assert dataset.classes == ("cat", "dog")
    assert dataset.source == str(root)
    counts = {name: np.bincount(split.labels).tolist() for name, split in dataset.splits.items()}
    assert counts == {"train": [5, 4], "val": [3, 2], "test": [4, 3]}
    assert dataset.splits["val"].images.shape == (5, 32, 32, 3)
    assert lines == [f"{root}: 2 classes, train 9, val 5, test 7 images; 0 other files skipped"]


@pytest.mark.parametrize("layout", ["classes", "train", "train and val", "train and test"])
def test_missing_parts_are_split_off_by_class(tmp_path: Path, layout: str) -> None:
    root = tmp_path / "set"
    fill(root if layout == "classes" else root / "train", {"a": 20, "b": 50})
    for part in ("val", "test"):
        if part in layout:
            fill(root / part, {"a": 1, "b": 2}, seed=9)
    dataset = load_folder(root)
    counts = {name: np.bincount(split.labels).tolist() for name, split in dataset.splits.items()}
    test = [1, 2] if "test" in layout else [4, 10]
    val = [1, 2] if "val" in layout else [2, 5]
    taken = [0, 0] if "test" in layout else test
    taken = [t + v for t, v in zip(taken, [0, 0] if "val" in layout else val, strict=True)]
    assert counts == {"train": [20 - taken[0], 50 - taken[1]], "val": val, "test": test}
    hashes = [sha256(image) for split in dataset.splits.values() for image in split.images]
    assert len(set(hashes)) == len(hashes)


def test_the_split_depends_on_the_content_alone(tmp_path: Path) -> None:
    first = fill(tmp_path / "first", {"a": 15, "b": 15})
    second = tmp_path / "second"
    for path in first.glob("*/*.png"):
        renamed = second / path.parent.name / f"{99 - int(path.stem)}.png"
        renamed.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, renamed)
    assert load_folder(first).digest == load_folder(second).digest
    picture(7777).save(second / "a" / "one more.png")
    assert load_folder(first).digest != load_folder(second).digest


def test_copies_of_a_file_stay_in_one_part(tmp_path: Path) -> None:
    root = fill(tmp_path, {"a": 10, "b": 10})
    for path in list(root.glob("*/*.png")):
        for k in range(3):
            shutil.copy(path, path.with_name(f"{path.stem} ({k}).png"))
    dataset = load_folder(root)
    parts = [{sha256(image) for image in split.images} for split in dataset.splits.values()]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 20
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 56, "val": 8, "test": 16}


def test_other_files_are_skipped_and_counted(tmp_path: Path) -> None:
    root = fill(tmp_path, {"a": 5, "b": 5})
    (root / "a" / "notes.txt").write_text("none")
    (root / "a" / ".hidden.png").write_text("none")
    (root / "b" / "without ending").write_text("none")
    (root / ".git").mkdir()
    lines: list[str] = []
    load_folder(root, lines)
    assert lines[0].endswith("2 other files skipped")


def one_of(root: Path, image: Image.Image, name: str = "x.png", **options: Any) -> np.ndarray:
    """The image as the data set has it: the only one of class `a` in `test`."""
    for part in ("train", "val"):
        fill(root / part, {"a": 1, "b": 1})
    fill(root / "test", {"b": 1})
    (root / "test" / "a").mkdir()
    image.save(root / "test" / "a" / name, **options)
    return load_folder(root, image_size=16).splits["test"].images[0]


def test_an_image_is_scaled_to_its_short_side_and_cut_to_the_middle(tmp_path: Path) -> None:
    """64 x 32: a quarter red, a half green, a quarter blue; the middle square is green alone."""
    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, :16, 0] = pixels[:, 16:48, 1] = pixels[:, 48:, 2] = 255
    small = one_of(tmp_path, Image.fromarray(pixels))
    np.testing.assert_array_equal(small[:, 1:-1], np.full((16, 14, 3), (0, 255, 0)))
    assert np.abs(small.astype(int) - (0, 255, 0)).max() < 25  # the outermost columns see a bit of their neighbours


def test_an_image_of_the_wanted_size_is_kept_bit_for_bit(tmp_path: Path) -> None:
    image = picture(3, 16, 16)
    np.testing.assert_array_equal(one_of(tmp_path, image), np.asarray(image))


def test_scaling_down_averages_over_all_pixels(tmp_path: Path) -> None:
    """A checkerboard of single pixels becomes grey, not black or white."""
    board = np.indices((128, 128)).sum(axis=0) % 2 * 255
    small = one_of(tmp_path, Image.fromarray(board.astype(np.uint8)))
    assert np.abs(small[2:-2, 2:-2].astype(int) - 127).max() <= 2


COLOUR = (200, 100, 50)


def sixteen_bits() -> Image.Image:
    return Image.fromarray(np.full((20, 20), 100 * 257, np.uint16))


def half_transparent() -> Image.Image:
    return Image.new("RGBA", (20, 20), (0, 100, 200, 128))


def transparent_palette() -> Image.Image:
    image = Image.new("P", (20, 20), 1)
    image.putpalette([9, 9, 9, 10, 20, 30])
    image.info["transparency"] = 1
    return image


@pytest.mark.parametrize(
    ("image", "name", "expected", "tolerance"),
    [
        (Image.new("RGB", (20, 20), COLOUR), "x.bmp", COLOUR, 0),
        (Image.new("RGB", (20, 20), COLOUR), "x.JPG", COLOUR, 3),
        (Image.new("RGB", (20, 20), COLOUR), "x.webp", COLOUR, 4),
        (Image.new("RGB", (20, 20), COLOUR), "x.tiff", COLOUR, 0),
        (Image.new("RGB", (20, 20), COLOUR).quantize(4), "x.gif", COLOUR, 1),
        (Image.new("L", (20, 20), 77), "x.png", (77, 77, 77), 0),
        (Image.new("1", (20, 20), 1), "x.png", (255, 255, 255), 0),
        (sixteen_bits(), "x.png", (100, 100, 100), 0),
        (sixteen_bits(), "x.tif", (100, 100, 100), 0),
        (half_transparent(), "x.png", (127, 177, 227), 1),
        (transparent_palette(), "x.png", (255, 255, 255), 0),
        (Image.new("RGB", (20, 20), COLOUR).convert("CMYK"), "x.jpg", COLOUR, 4),
    ],
)
def test_any_kind_of_image_becomes_rgb(
    tmp_path: Path, image: Image.Image, name: str, expected: tuple[int, int, int], tolerance: int
) -> None:
    pixels = one_of(tmp_path, image, name).astype(int)
    assert np.abs(pixels - expected).max() <= tolerance


def test_a_photo_taken_sideways_is_turned_upright(tmp_path: Path) -> None:
    """Orientation 6 is shown turned clockwise by a quarter: what is stored on the left, here red, is seen on top."""
    pixels = np.zeros((20, 20, 3), np.uint8)
    pixels[:, :10, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    upright = one_of(tmp_path, Image.fromarray(pixels), exif=exif.tobytes())
    np.testing.assert_array_equal(upright[:7], np.full((7, 16, 3), (255, 0, 0)))
    np.testing.assert_array_equal(upright[9:], np.zeros((7, 16, 3)))


def test_a_large_jpeg_is_as_good_as_when_decoded_in_full(tmp_path: Path) -> None:
    ramp = np.linspace(0, 255, 800).astype(np.uint8)
    image = Image.fromarray(np.stack([np.tile(ramp, (640, 1)), np.tile(ramp[:640, None], (1, 800))] * 2, -1)[..., :3])
    expected = image.crop((80, 0, 720, 640)).resize((16, 16), Image.Resampling.BICUBIC)
    assert np.abs(one_of(tmp_path, image, "x.jpg").astype(int) - np.asarray(expected)).max() <= 6


# ---- masks of one's own --------------------------------------------------------------------------------------------


def with_masks(root: Path, layout: str = "train", size: tuple[int, int] = (64, 32)) -> Path:
    """Images of which a white square is the object, on black; each mask has the same square."""
    for k, name in enumerate(("a", "b")):
        for i in range(5):
            image = np.zeros((size[1], size[0], 3), np.uint8)
            image[4 * k : 4 * k + 16, 20 + i : 36 + i] = 255
            for folder in (root / layout / name, root / "masks" / layout / name):
                folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(root / layout / name / f"{i}.bmp")
            Image.fromarray(image[..., 0] // 255).save(root / "masks" / layout / name / f"{i}.png")
    return root


@pytest.mark.parametrize("layout", ["train", ""])
@pytest.mark.parametrize("size", [32, 16])
def test_masks_are_cut_as_their_images_are(tmp_path: Path, layout: str, size: int) -> None:
    dataset = load_folder(with_masks(tmp_path, layout), image_size=size)
    for split in dataset.splits.values():
        assert split.masks is not None
        seen = split.images[..., 0] > 127
        assert split.masks.any(axis=(1, 2)).all()
        if size == 32:
            np.testing.assert_array_equal(split.masks, seen)
        else:  # a pixel that is half object may fall to either side
            assert (split.masks != seen).sum(axis=(1, 2)).max() <= 8


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "1", "I;16"])
def test_any_kind_of_mask_is_object_where_it_is_not_black(tmp_path: Path, mode: str) -> None:
    with_masks(tmp_path)
    reference = load_folder(tmp_path)
    for path in (tmp_path / "masks").rglob("*.png"):
        values = np.asarray(Image.open(path))
        mask = Image.fromarray(values * np.uint8(255))
        if mode == "I;16":
            mask = Image.fromarray(values.astype(np.uint16))
        mask.convert(mode).save(path)
    assert load_folder(tmp_path).digest == reference.digest


def test_masks_show_in_the_digest(tmp_path: Path) -> None:
    with_masks(tmp_path)
    digest = load_folder(tmp_path).digest
    shutil.rmtree(tmp_path / "masks")
    assert load_folder(tmp_path).digest != digest


def test_an_image_without_a_mask_is_named(tmp_path: Path) -> None:
    with_masks(tmp_path)
    (tmp_path / "masks" / "train" / "b" / "2.png").unlink()
    with pytest.raises(DataError, match=r"train/b/2.bmp has no mask: .*masks/train/b/2.png is missing"):
        load_folder(tmp_path)


def test_a_mask_of_another_size_is_named(tmp_path: Path) -> None:
    with_masks(tmp_path)
    Image.new("L", (32, 32)).save(tmp_path / "masks" / "train" / "a" / "0.png")
    problem = r"mask .*a/0.png has another size than .*a/0.bmp: 32 x 32 pixels, its image 64 x 32"
    with pytest.raises(DataError, match=problem):
        load_folder(tmp_path)


def test_the_mask_of_a_photo_taken_sideways_is_as_the_photo_is_seen(tmp_path: Path) -> None:
    with_masks(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    for path in (tmp_path / "train").rglob("*.bmp"):
        stored = Image.open(path).transpose(Image.Transpose.ROTATE_90)  # a viewer turns it back
        stored.save(path.with_suffix(".png"), exif=exif.tobytes())
        path.unlink()
    split = load_folder(tmp_path).splits["train"]
    np.testing.assert_array_equal(split.masks, split.images[..., 0] > 127)


# ---- folders that cannot be used -----------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"folder .*nowhere does not exist"):
        load_folder(tmp_path / "nowhere")


@pytest.mark.parametrize("count", [0, 1])
def test_a_folder_without_two_classes_is_refused(tmp_path: Path, count: int) -> None:
    fill(tmp_path, {"a": 5} if count else {})
    with pytest.raises(DataError, match=rf"has {count} class folders: it needs two or more"):
        load_folder(tmp_path)


@pytest.mark.parametrize("part", ["train", "val"])
def test_an_empty_class_is_named(tmp_path: Path, part: str) -> None:
    for name in ("train", "val"):
        fill(tmp_path / name, {"a": 9, "b": 0 if name == part else 9})
    with pytest.raises(DataError, match=rf"folder .*{part}/b is empty"):
        load_folder(tmp_path)
    (tmp_path / part / "b" / "notes.txt").touch()
    with pytest.raises(DataError, match=rf"folder .*{part}/b has no image among its 1 files"):
        load_folder(tmp_path)


def test_pixels_without_a_known_range_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 5, "b": 5})
    Image.fromarray(np.full((20, 20), 0.5, np.float32)).save(tmp_path / "a" / "float.tiff")
    with pytest.raises(DataError, match=r"float.tiff cannot be used \(its pixels are floating-point numbers"):
        load_folder(tmp_path)


@pytest.mark.parametrize(
    ("classes", "problem"),
    [
        ({"a": 3}, r"val has no class 'b', but .*train has it"),
        ({"a": 3, "b": 3, "c": 3}, r"val has the class 'c', but .*train does not"),
    ],
)
def test_classes_that_differ_between_parts_are_named(tmp_path: Path, classes: dict[str, int], problem: str) -> None:
    fill(tmp_path / "train", {"a": 3, "b": 3})
    fill(tmp_path / "val", classes)
    with pytest.raises(DataError, match=problem):
        load_folder(tmp_path)


def test_a_class_too_small_to_be_split_is_named(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 9, "b": 2})
    with pytest.raises(DataError, match=r"class 'b' has 2 different images, too few .*; give 3 or more"):
        load_folder(tmp_path)
    picture(555).save(tmp_path / "b" / "third.png")
    assert {name: len(split) for name, split in load_folder(tmp_path).splits.items()} == {
        "train": 7,
        "val": 2,
        "test": 3,
    }


def test_a_part_without_train_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "val", {"a": 3, "b": 3})
    with pytest.raises(DataError, match="has val but no train"):
        load_folder(tmp_path)


def test_a_misspelt_part_is_named_and_not_left_out(tmp_path: Path) -> None:
    fill(tmp_path / "train", {"a": 9, "b": 9})
    fill(tmp_path / "vali", {"a": 3, "b": 3})
    with pytest.raises(DataError, match="has 'vali' next to train: only train, val, test and masks"):
        load_folder(tmp_path)

"""Transforms from a file of one's own, and torchvision's policies: computed image by image, or refused in one line."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from experiments.augmentation.image_by_image import ImageFailed, seed_all
from experiments.augmentation.streams import stream
from experiments.augmentation.whole_batches import Augmentation
from experiments.comparison.trained import Trained
from experiments.errors import CannotStart
from experiments.runs.prepare import prepare
from experiments.settings.base import SettingsError
from experiments.settings.train import TrainSettings
from experiments.tracking.reading import FinishedRun
from tests.augmentation.test_whole_batches import MEAN, chosen, pictures
from tests.toys.networks import toy_dataset
from tests.toys.runs import toy_config

pytestmark = pytest.mark.usefixtures("one_thread")

OWN = """
import random

import albumentations as A
import numpy as np
import torch
from torchvision.transforms import v2

pipeline = A.Compose([A.HorizontalFlip(p=0.5), A.RandomBrightnessContrast(p=0.5), A.Affine(rotate=(-20, 20))])
alone = A.HorizontalFlip(p=0.5)
one_of = A.OneOf([A.HorizontalFlip(p=1), A.VerticalFlip(p=1)], p=1)
transform = v2.Compose([v2.ToImage(), v2.RandomHorizontalFlip(), v2.RandomResizedCrop(32, antialias=True)])
independent = A.Compose([A.HorizontalFlip(p=0.5), A.VerticalFlip(p=0.5)])


def made():
    return pipeline


def darker(image, **more):
    return (image * np.random.uniform(0.2, 0.8) * random.uniform(0.2, 0.8) * float(torch.rand(()))).astype(np.uint8)


globally = A.Compose([A.Lambda(image=darker, p=1)])
"""


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return pictures(48)


def own(folder: Path, name: str, text: str = OWN, **options: object) -> Augmentation:
    (folder / "own.py").write_text(text)
    return made(augmentation=f"{folder / 'own.py'}:{name}", **options)


def made(**options: object) -> Augmentation:
    settings = chosen(**{"batch_size": 16, "augment_workers": 0, **options})
    return Augmentation(settings, settings.side, MEAN, "cpu", torch.channels_last)


def epoch_of(path: Augmentation, images: np.ndarray, epoch: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The images of an epoch, uint8, in the order of the data set, and the order in which they came."""
    batches = list(path.batches(images, np.arange(len(images)), epoch))
    order = torch.cat([labels for _, labels in batches]).numpy()
    pixels = torch.cat([inputs for inputs, _ in batches]).mul(255).round().to(torch.uint8).permute(0, 2, 3, 1)
    return pixels.numpy()[order.argsort()], order


# Every image is changed alike, whoever computes it


@pytest.mark.parametrize(
    "options", [{"trivial_augment": True}, {"augmentation": "pipeline"}, {"augmentation": "transform"}]
)
def test_the_number_of_workers_does_not_matter(options: dict[str, object], images: np.ndarray, tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    if "augmentation" in options:
        options = {"augmentation": f"{tmp_path / 'own.py'}:{options['augmentation']}"}
    found = [epoch_of(made(**options | {"augment_workers": n, "batch_size": size}), images, 3) for n, size in WORKERS]
    for pixels, order in found:
        assert np.array_equal(pixels, found[0][0])
        assert np.array_equal(order, found[0][1])
    assert not np.array_equal(found[0][0], images)


WORKERS = [(0, 16), (1, 16), (2, 12)]


@pytest.mark.parametrize("name", ["pipeline", "alone", "one_of", "transform", "made", "globally"])
def test_each_epoch_seed_and_image_is_another_and_the_same_again(name: str, images: np.ndarray, tmp_path: Path) -> None:
    one = np.repeat(images[:1], 48, 0)
    first, _ = epoch_of(own(tmp_path, name), one)
    assert np.array_equal(epoch_of(own(tmp_path, name), one)[0], first)
    assert len(np.unique(first, axis=0)) > 1
    for other in (epoch_of(own(tmp_path, name), one, 1), epoch_of(own(tmp_path, name, seed=1), one)):
        assert not np.array_equal(other[0], first)


def test_nothing_else_in_the_process_is_seeded(images: np.ndarray, tmp_path: Path) -> None:
    def drawn() -> tuple[float, ...]:
        return float(np.random.random()), float(torch.rand(()))  # beartype draws from `random`

    seed_all(np.random.default_rng(5))
    expected = drawn()
    seed_all(np.random.default_rng(5))
    path = own(tmp_path, "globally")
    epoch_of(path, images)
    path.examples(images)
    assert drawn() == expected


def test_transforms_of_one_pipeline_draw_independently(images: np.ndarray, tmp_path: Path) -> None:
    one = np.repeat(images[:1], 400, 0)
    seen, _ = epoch_of(own(tmp_path, "independent"), one)
    views = [one[0], one[0][:, ::-1], one[0][::-1], one[0][::-1, ::-1]]
    shares = [float((seen == view).all((1, 2, 3)).mean()) for view in views]
    assert sum(shares) == 1
    assert shares == pytest.approx([0.25] * 4, abs=4 * np.sqrt(0.25 * 0.75 / 400))


POLICIES: dict[str, tuple[object, Callable[[], v2.Transform]]] = {
    "trivial_augment": (True, v2.TrivialAugmentWide),
    "rand_augment": (9, lambda: v2.RandAugment(magnitude=9)),
    "auto_augment": ("cifar10", lambda: v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)),
    "augmix": (3, lambda: v2.AugMix(severity=3)),
}


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_is_that_of_torchvision_with_the_seed_of_the_image(name: str, images: np.ndarray) -> None:
    value, theirs = POLICIES[name]
    seen, _ = epoch_of(made(**{name: value}), images[:8], 2)
    for index, image in enumerate(images[:8]):
        seed_all(stream(0, 2, name, index))
        assert np.array_equal(seen[index], np.array(theirs()(Image.fromarray(image))))


# Beside other options


def test_it_replaces_geometry_and_colour_and_cutout_stays(images: np.ndarray, tmp_path: Path) -> None:
    nothing = "import albumentations as A\nnothing = A.Compose([])\n"
    path = own(tmp_path, "nothing", nothing, hflip=0.5, crop_padding=4, hsv_p=1, value=50, gaussian_noise=0.1)
    assert np.array_equal(epoch_of(path, images)[0], images)
    holed = own(tmp_path, "nothing", nothing, hflip=0.5, cutout=True, cutout_size=8, cutout_placement="inside")
    changed = (epoch_of(holed, images)[0] != images).any(3)
    assert 0.9 * 64 < changed.sum((1, 2)).mean() <= 64
    assert "own.py:nothing" in str(holed)
    assert "CoarseDropout" in str(holed)
    assert "Flip" not in str(path)


def test_options_that_it_replaces_are_refused() -> None:
    settings = TrainSettings.of(
        augmentation="own.py:train", hflip=0.25, rand_augment=9, cutout=True, augment_by="batch"
    )
    assert set(settings.without_effect()) == {"hflip", "rand_augment"}
    assert settings.without_effect()["hflip"] == (
        "hflip=0.25: has no effect while augmentation is own.py:train; add augmentation=none or leave hflip out"
    )
    assert set(TrainSettings.of(augment_workers=2).without_effect()) == {"augment_workers"}


# The run


def test_its_source_and_what_it_imports_from_beside_it_decide_the_fingerprint(tmp_path: Path) -> None:
    text = (
        "from helpers import p\n\n\ndef train():\n    from later import flip\n    return flip(p)\n\n\nother = train\n"
    )

    def fingerprint(p: float, name: str = "train", folder: str = "one") -> str:
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "helpers.py").write_text(f"p = {p}\n")
        (tmp_path / folder / "later.py").write_text(
            "import albumentations as A\nflip = lambda p: A.HorizontalFlip(p=p)\n"
        )
        (tmp_path / folder / "own.py").write_text(text)
        options = {"augmentation": f"{tmp_path / folder}/own.py:{name}", "image_size": 16, "device": "cpu"}
        ready = prepare(TrainSettings.of(**options), dataset=toy_dataset())
        assert set(ready.augmentation.sources) == {"own.py", "helpers.py", "later.py"}
        assert f"p={p}" in str(ready.augmentation)
        return ready.fingerprint

    first = fingerprint(0.25)
    assert fingerprint(0.25) == fingerprint(0.25, folder="two") == first
    assert len({first, fingerprint(0.75), fingerprint(0.25, "other")}) == 3


# Mistakes

NAN = "\ndef f(image, **more):\n    return image / np.float32(image.max())\nx = A.Compose([A.Lambda(image=f, p=1)])\n"
SEEDED = """
def f(image, **more):
    return np.random.default_rng().integers(0, 255, image.shape, np.uint8)
x = A.Compose([A.Lambda(image=f, p=1)])
"""
MISTAKES = {
    "x = (": "is no Python: SyntaxError: '(' was never closed (own.py, line 4)",
    "y = 1": "own.py has no 'x'; it defines A, np, v2, y",
    "def x():\n    return 1 / 0": "ZeroDivisionError: division by zero (own.py, line 5)",
    "def x(image): return image": "x(image) takes arguments; must be an albumentations or torchvision transform",
    "x = 3": "is a int; must be an albumentations or torchvision transform, or a function without arguments",
    "x = v2.Normalize([0.5], [0.5])": "Got torch.uint8.; leave out what normalises, or makes floats",
    "import nowhere": "ModuleNotFoundError: No module named 'nowhere' (own.py, line 4)",
    "raise SystemExit(3)": "SystemExit: 3 (own.py, line 4)",
    "x = A.RandomCrop(8, 8)": "gives uint8 (8, 8, 3) instead of uint8 (16, 16, 3); let it end with images of 16 x 16",
    "x = v2.Resize(8)": "gives uint8 (8, 8, 3) instead of uint8 (16, 16, 3); let it end with images of 16 x 16",
    "x = A.Normalize()": "gives float32 (16, 16, 3) instead of uint8 (16, 16, 3); leave out what normalises",
    "x = A.ToTensorV2()": "gives uint8 (3, 16, 16) instead of uint8 (16, 16, 3); leave out what normalises",
    "x = A.ToGray(num_output_channels=1, p=1)": "gives uint8 (16, 16) instead of uint8 (16, 16, 3); leave out",
    "x = A.CoarseDropout(max_holes=1)": "Argument(s) 'max_holes' are not valid for transform CoarseDropout (own.py",
    NAN: "NaN",
    SEEDED: "gives another image with the same seed; draw random numbers from random, np.random or torch",
}


def refused(spec: object) -> str:
    with pytest.raises(CannotStart) as error:
        made(augmentation=str(spec), image_size=16)
    [line] = error.value.problems
    assert line.startswith(f"augmentation={spec}: ")
    assert "\n" not in line
    return line


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_in_the_file_is_told_in_one_line(text: str, tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(f"import albumentations as A\nimport numpy as np\nfrom torchvision.transforms import v2\n{text}")
    assert MISTAKES[text] in refused(f"{path}:x")


def test_a_file_that_cannot_be_read_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "bytes.py").write_bytes(b"x = '\xff\xfe'")
    (tmp_path / "folder.py").mkdir()
    assert "is no Python: UnicodeDecodeError" in refused(f"{tmp_path}/bytes.py:x")
    assert "there is no file" in refused(f"{tmp_path}/folder.py:x")
    assert "there is no file" in refused(f"{tmp_path}/none.py:x")
    assert "cannot be read as YAML (FileNotFoundError" in refused(f"{tmp_path}/none.yaml")


@pytest.mark.parametrize("text", ["own.py", "own.py:", "own.py:1x", "own.txt:x", ":x", "own.json"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"must be none, FILE\.py:NAME or FILE\.yaml"):
        TrainSettings.of(augmentation=text)


YAML = """__version__: 2.0.8
transform:
  __class_fullname__: Compose
  p: 1.0
  transforms:
  - __class_fullname__: HorizontalFlip
    p: 0.5
"""


def test_albumentations_own_files_are_read(images: np.ndarray, tmp_path: Path) -> None:
    import albumentations as A

    pipeline = A.Compose([A.HorizontalFlip(p=0.5), A.GaussianBlur(p=0.5)])
    A.save(pipeline, tmp_path / "own.yaml", data_format="yaml")
    path = made(augmentation=str(tmp_path / "own.yaml"))
    text = "import albumentations as A\nx = A.Compose([A.HorizontalFlip(p=0.5), A.GaussianBlur(p=0.5)])\n"
    assert np.array_equal(epoch_of(path, images)[0], epoch_of(own(tmp_path, "x", text), images)[0])
    assert set(path.sources) == {"own.yaml"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("    p: 0.5", "    p: 0.5\n    foo: 3", "Argument(s) 'foo' are not valid"),
        ("HorizontalFlip", "HorizFlip", "has no 'HorizFlip'"),
        ("transform:", "extra: 1\ntransform:", "extra: not part of albumentations' format"),
        ("  p: 1.0", "  p: 1.0\n  bar: 2", "unexpected keyword argument 'bar'"),
        ("    p: 0.5\n", "", "Transform HorizontalFlip has no 'p' parameter"),
        ("transform:", "[1", "cannot be read as YAML (ScannerError: while scan"),
    ],
)
def test_a_mistake_in_such_a_file_is_told_in_one_line(old: str, new: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(YAML.replace(old, new, 1))
    assert said in refused(tmp_path / "own.yaml")


LATER = {
    "return image[:8]": r"gives uint8 \(8, 32, 3\) instead of uint8 \(32, 32, 3\)",
    "raise SystemExit('bye')": r"SystemExit: bye \(own\.py, line 4\)",
}


@pytest.mark.parametrize("what", LATER)
def test_an_image_that_fails_later_is_told_in_one_line(what: str, images: np.ndarray, tmp_path: Path) -> None:
    text = f"import albumentations as A\ndef f(image, **more):\n  if image[0, 0, 0] == 7:\n    {what}\n  return image\n"
    images = images.copy()
    images[5, 0, 0, 0] = 7
    for workers in (0, 1):
        path = own(tmp_path, "x", text + "x = A.Compose([A.Lambda(image=f, p=1)])\n", augment_workers=workers)
        with pytest.raises(ImageFailed, match=LATER[what]) as error:
            epoch_of(path, images)
        assert "\n" not in str(error.value)


def test_runs_of_another_version_of_the_file_are_another_variant(tmp_path: Path) -> None:
    dataset = toy_dataset()

    def options(text: str) -> dict[str, str]:
        path = own(tmp_path, "alone", text, image_size=16)
        config = toy_config(dataset, ("stem",), augmentation=f"{tmp_path / 'own.py'}:alone", image_size=16)
        run = FinishedRun("0" * 32, "own, seed 0", "0", {}, {}, {})
        return Trained(run, replace(config, augmentation=str(path))).options

    assert options(OWN) == options(OWN)
    assert options(OWN)["augmentation"].startswith(f"{tmp_path / 'own.py'}:alone (")
    assert options(OWN) != options(OWN + "\n# another version\n")

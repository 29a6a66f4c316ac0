"""What is done by name has the pixels and the distributions of torchvision's transforms."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import beta, ks_2samp, kstest
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from experiments.augmentation.batch_colour import add_noise, grey
from experiments.augmentation.batch_geometry import geometry_steps, resized_crop
from experiments.augmentation.batch_holes import hole_steps
from experiments.augmentation.declared import RATIO, SCALE
from experiments.augmentation.mixing import cut_mix, hard, mix_up, mixed, mixed_batches
from experiments.augmentation.streams import stream
from experiments.augmentation.whole_batches import Augmentation
from experiments.settings.train import TrainSettings
from tests.augmentation.test_whole_batches import MEAN, MEAN_PIXEL, UNLIKELY, alike, chosen, pictures

N = 2000  # draws per distribution
CLASSES = 5

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.from_numpy(pictures(64))


@pytest.fixture
def batch(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Images `(8, 3, 32, 32)` in [0, 1] and their classes."""
    pixels = images[:8].permute(0, 3, 1, 2).float().div(255)
    return pixels.contiguous(memory_format=torch.channels_last), torch.arange(8) % CLASSES


def mixing(seed: int = 0, **options: float) -> TrainSettings:
    return TrainSettings.of(seed=seed, **options)


# MixUp and CutMix


def test_mixup_has_the_pixels_and_labels_of_torchvision(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, labels = batch
    inputs, soft = mixed(mixing(mixup=0.2), images, labels, CLASSES, epoch=3, step=4)
    rng = stream(0, 3, "mixup", 4)
    share = rng.beta(0.2, 0.2)
    theirs = v2.MixUp(num_classes=CLASSES)
    given = {"lam": share, "labels": labels, "batch_size": 8}
    torch.testing.assert_close(inputs, theirs.transform(images, given))
    torch.testing.assert_close(soft, theirs.transform(labels, given))
    assert inputs.is_contiguous(memory_format=torch.channels_last)


def test_cutmix_has_the_pixels_and_labels_of_torchvision(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, labels = batch
    for step in range(10):
        inputs, soft = mixed(mixing(cutmix=1), images, labels, CLASSES, 0, step)
        rng = stream(0, 0, "cutmix", step)
        half = 0.5 * (1 - rng.beta(1, 1)) ** 0.5
        x, y, reach = int(rng.integers(32)), int(rng.integers(32)), int(half * 32)
        box = (max(x - reach, 0), max(y - reach, 0), min(x + reach, 32), min(y + reach, 32))
        left = 1 - (box[2] - box[0]) * (box[3] - box[1]) / 32**2
        given = {"box": box, "lam_adjusted": left, "labels": labels, "batch_size": 8}
        theirs = v2.CutMix(num_classes=CLASSES)
        assert torch.equal(inputs, theirs.transform(images, given))
        torch.testing.assert_close(soft, theirs.transform(labels, given))


def test_shares_are_drawn_as_torchvision_draws_them(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    image, label = batch[0][:2], torch.tensor([0, 1])
    made = {name: mixing(**{name: 0.4}) for name in ("mixup", "cutmix")}
    ours = {
        name: np.array([float(mixed(one, image, label, 2, 0, step)[1][0, 0]) for step in range(N)])
        for name, one in made.items()
    }
    assert kstest(ours["mixup"], beta(0.4, 0.4).cdf).pvalue > UNLIKELY
    torch.manual_seed(0)
    cutmix = v2.CutMix(alpha=0.4, num_classes=2)
    theirs = [cutmix.make_params([image])["lam_adjusted"] for _ in range(N)]
    assert ks_2samp(ours["cutmix"], theirs).pvalue > UNLIKELY


def test_the_loss_of_soft_labels_is_the_mixed_loss_of_both_classes(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    images, labels = batch
    share, _ = mix_up(images, 0.7, np.random.default_rng(0))
    _, soft = mixed(mixing(mixup=0.2), images, labels, CLASSES, 0, 0)
    logits = torch.randn(8, CLASSES, generator=torch.Generator().manual_seed(0))
    own = float(soft[0, labels[0]])
    for smoothing in (0.0, 0.1):
        loss = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)
        both = own * loss(logits, labels) + (1 - own) * loss(logits, labels.roll(1))
        assert float(loss(logits, soft)) == pytest.approx(float(both), abs=1e-6)
    assert share == 0.7
    assert torch.equal(hard(soft), labels if own > 0.5 else labels.roll(1))
    assert torch.equal(hard(labels), labels)


def test_without_mixing_the_batches_are_the_same_objects(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    [(images, labels)] = mixed_batches(mixing(), [batch], CLASSES, 0)
    assert images is batch[0]
    assert labels is batch[1]


def test_with_both_each_batch_gets_one_of_them(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    alone = {name: list(mixed_batches(mixing(**{name: 1}), [batch] * 200, CLASSES, 0)) for name in ("mixup", "cutmix")}
    both = list(mixed_batches(mixing(mixup=1, cutmix=1), [batch] * 200, CLASSES, 0))
    same = np.array([[torch.equal(one[0], other[0]) for one, other in zip(both, alone[n], strict=True)] for n in alone])
    assert (same.sum(0) == 1).all()
    assert same[0].mean() == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / 200))


def test_a_box_of_nothing_and_of_everything(batch: tuple[torch.Tensor, torch.Tensor]) -> None:
    images = batch[0]
    share, same = cut_mix(images, 1.0, np.random.default_rng(0))
    assert (share, torch.equal(same, images)) == (1.0, True)
    share, other = cut_mix(images, 0.0, np.random.default_rng(0))
    changed = (other != images).any(1).float().mean((1, 2))
    assert changed.max() <= 1 - share + 1e-6


# Crops, erasing, noise, grey


def test_resized_crops_have_the_pixels_of_torchvision(images: torch.Tensor) -> None:
    [step] = geometry_steps(chosen(random_resized_crop=0.08), 32, 64, partial(stream, 0, 0))
    boxes = step.drawn[0]
    ours = resized_crop(images, torch.from_numpy(boxes))
    for image, (left, top, right, bottom), found in zip(images, boxes.tolist(), ours, strict=True):
        theirs = F.resized_crop(image.permute(2, 0, 1), top, left, bottom - top, right - left, [32, 32], antialias=True)
        assert (found.permute(2, 0, 1).int() - theirs.int()).abs().max() <= 1


def test_a_crop_of_the_whole_image_changes_nothing(images: torch.Tensor) -> None:
    whole = torch.tensor([[0, 0, 32, 32]]).expand(64, 4)
    assert torch.equal(resized_crop(images, whole), images)


@pytest.mark.parametrize("smallest", [0.08, 0.7])
def test_crops_are_drawn_alike(smallest: float) -> None:
    [step] = geometry_steps(chosen(random_resized_crop=smallest), 32, N, partial(stream, 0, 0))
    torch.manual_seed(0)
    transform, image = v2.RandomResizedCrop(32, scale=(smallest, 1)), torch.zeros(3, 32, 32)
    drawn = [transform.make_params([image]) for _ in range(N)]
    theirs = np.array([[p["left"], p["top"], p["left"] + p["width"], p["top"] + p["height"]] for p in drawn])
    _same_boxes(step.drawn[0], theirs)


def test_erased_rectangles_are_drawn_alike() -> None:
    [step] = hole_steps(chosen(random_erasing=1), 32, MEAN, N, partial(stream, 0, 0))
    torch.manual_seed(0)
    transform, image = v2.RandomErasing(p=1, scale=SCALE, ratio=RATIO), torch.zeros(3, 32, 32)
    drawn = [transform.make_params([image]) for _ in range(N)]
    theirs = np.array([[p["j"], p["i"], p["j"] + p["w"], p["i"] + p["h"]] for p in drawn])
    _same_boxes(step.drawn[0][:, 0], theirs)
    assert step.chosen.all()  # ten tries in vain are too rare to be seen


def _same_boxes(ours: np.ndarray, theirs: np.ndarray) -> None:
    for view in (
        lambda box: box[:, 0] // 2,  # left
        lambda box: box[:, 1] // 2,  # top
        lambda box: (box[:, 2] - box[:, 0]) // 2,  # width
        lambda box: (box[:, 3] - box[:, 1]) // 2,  # height
        lambda box: (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) // 64,  # area
        lambda box: (box[:, 2] - box[:, 0] > box[:, 3] - box[:, 1]) * 2 + (box[:, 0] > 8),  # both together
    ):
        assert alike(view(ours), view(theirs))


def test_what_is_erased_gets_the_mean_colour() -> None:
    white = np.full((200, 32, 32, 3), 255, np.uint8)
    path = Augmentation(chosen(random_erasing=0.5), 32, MEAN, "cpu", torch.channels_last)
    shown = path.examples(white)
    erased = (shown != 255).any(3)
    assert (shown[erased] == MEAN_PIXEL).all()
    assert erased.any((1, 2)).mean() == pytest.approx(0.5, abs=4 * np.sqrt(0.25 / 200))


def test_noise_is_that_of_torchvision_but_rounded(images: torch.Tensor) -> None:
    grey_images = torch.full((64, 32, 32, 3), 128, dtype=torch.uint8)
    ours = add_noise(grey_images, 0.1, np.random.default_rng(0)).double() - 128
    torch.manual_seed(0)
    theirs = v2.GaussianNoise(sigma=0.1)(grey_images).double() - 128
    assert float(ours.mean()) == pytest.approx(0, abs=4 * 25.5 / ours.numel() ** 0.5)
    assert float(ours.std()) == pytest.approx(25.5, rel=0.01)
    assert float(theirs.std()) == pytest.approx(float(ours.std()), rel=0.02)  # torchvision cuts towards 0
    assert add_noise(images, 0.5, np.random.default_rng(0)).dtype == torch.uint8
    rng = np.random.default_rng(0)
    halves = [add_noise(part, 0.1, rng) for part in images.split(32)]
    assert torch.equal(torch.cat(halves), add_noise(images, 0.1, np.random.default_rng(0)))


def test_grey_is_that_of_torchvision(images: torch.Tensor) -> None:
    theirs = F.rgb_to_grayscale(images.permute(0, 3, 1, 2), num_output_channels=3).permute(0, 2, 3, 1)
    assert (grey(images).int() - theirs.int()).abs().max() <= 1
    assert torch.equal(grey(grey(images)), grey(images))


@pytest.mark.parametrize("name", ["random_erasing", "random_resized_crop", "grayscale", "gaussian_noise"])
def test_albumentations_does_the_same_by_name(name: str) -> None:
    images = pictures(400)
    made = chosen(**{name: 0.1 if name == "gaussian_noise" else 0.9})
    ours = Augmentation(made, 32, MEAN, "cpu", torch.channels_last).examples(images)
    theirs = Augmentation(made.model_copy(update={"augment_by": "albumentations"}), 32, MEAN).examples(images)
    changes = [np.abs(found.astype(int) - images).mean((1, 2, 3)) for found in (ours, theirs)]
    if name == "gaussian_noise":  # albumentations cuts towards 0, which is half a level less
        assert changes[0].mean() == pytest.approx(changes[1].mean(), abs=0.7)
    else:
        assert ks_2samp(*changes, method="asymp").pvalue > UNLIKELY

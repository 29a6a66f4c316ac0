"""Training images are changed as declared, and the same way again with the same seed."""

import numpy as np
import pytest
import torch
from albumentations import CoarseDropout
from hypothesis import given
from hypothesis import strategies as st

from experiments.augmentation.declared import geometry, holes
from experiments.augmentation.transforms import Cutout, strict
from experiments.augmentation.whole_batches import Augmentation
from experiments.data.tensors import to_tensor
from experiments.settings.train import TrainSettings

MEAN = np.array([0.2, 0.4, 0.6], np.float32)
MEAN_PIXEL = [51, 102, 153]  # MEAN * 255
ONE_BY_ONE = {"augment_by": "albumentations", "augment_workers": 0}
WHITE = np.full((32, 32, 3), 255, np.uint8)


def erased(count: int, **options: object) -> np.ndarray:
    """Where `count` white images got a hole, bool (count, 32, 32)."""
    pipeline = holes(TrainSettings.of(cutout=True, **options), MEAN)
    pipeline.set_random_seed(0)
    return np.stack([(pipeline(image=WHITE)["image"] != 255).any(2) for _ in range(count)])


def test_published_cutout_erases_what_the_paper_erases() -> None:
    area = erased(4000).mean((1, 2))
    # Side clipped at each border: centre c in 0..31 covers min(c + 8, 32) - max(c - 8, 0) pixels.
    side = np.mean([min(c + 8, 32) - max(c - 8, 0) for c in range(32)])
    assert side == 14.0
    # The mean over 4,000 images of an area with standard deviation below 0.06 lies within 0.004 (four errors).
    assert area.mean() == pytest.approx((side / 32) ** 2, abs=0.004)
    assert area.max() == (16 / 32) ** 2
    assert area.min() == (8 / 32) ** 2  # centre in a corner


def test_published_holes_reach_every_pixel_and_hang_over_the_border() -> None:
    hit = erased(4000, cutout_size=8).mean(0)
    assert (hit > 0).all()
    assert hit[0, 0] < hit[16, 16]  # a corner is covered by fewer centres


def test_coarse_dropout_keeps_the_whole_hole_inside() -> None:
    area = erased(500, cutout_placement="inside").mean((1, 2))
    assert (area == (16 / 32) ** 2).all()


@pytest.mark.parametrize(
    ("placement", "size", "first", "second"),
    [
        ("published", "16", [[8, 0, 24, 10], [11, 17, 27, 32]], [[10, 0, 26, 16], [8, 0, 24, 14]]),
        ("published", "8-20", [[0, 16, 12, 32], [19, 25, 31, 32]], [[2, 7, 15, 20], [0, 2, 12, 14]]),
        ("inside", "16", [[8, 14, 24, 30], [4, 10, 20, 26]], [[0, 0, 16, 16], [2, 1, 18, 17]]),
        ("inside", "8-20", [[1, 4, 15, 23], [0, 0, 11, 16]], [[10, 9, 29, 27], [12, 16, 26, 32]]),
    ],
)
def test_a_seed_draws_the_holes_it_has_always_drawn(
    placement: str, size: str, first: list[list[int]], second: list[list[int]]
) -> None:
    options = TrainSettings.of(cutout=True, cutout_size=size, cutout_placement=placement, cutout_holes=2)
    pipeline = holes(options, MEAN)
    pipeline.set_random_seed(0)
    for expected in (first, second):
        pipeline(image=WHITE)
        assert pipeline.transforms[0].get_applied_params()["holes"].tolist() == expected


@pytest.mark.parametrize("placement", ["published", "inside"])
def test_probability_and_number_of_holes(placement: str) -> None:
    assert not erased(20, cutout_p=0, cutout_placement=placement).any()
    share = erased(2000, cutout_p=0.3, cutout_placement=placement).any((1, 2)).mean()
    assert share == pytest.approx(0.3, abs=4 * np.sqrt(0.3 * 0.7 / 2000))
    one, three = (erased(500, cutout_size=4, cutout_holes=n, cutout_placement=placement).mean() for n in (1, 3))
    assert 2.5 * one < three <= 3 * one * 1.05  # holes overlap now and then


@given(low=st.integers(1, 20), more=st.integers(0, 12))
def test_holes_have_a_side_within_the_range(low: int, more: int) -> None:
    for hole in erased(10, cutout_size=f"{low}-{low + more}", cutout_placement="inside"):
        rows, columns = hole.any(1).sum(), hole.any(0).sum()
        assert low <= rows <= low + more
        assert low <= columns <= low + more


def test_fills() -> None:
    def inside(fill: str) -> np.ndarray:
        pipeline = holes(TrainSettings.of(cutout=True, cutout_fill=fill, cutout_placement="inside"), MEAN)
        pipeline.set_random_seed(1)
        image = pipeline(image=WHITE)["image"]
        return image[(image != 255).any(2)]

    assert (inside("mean") == MEAN_PIXEL).all()
    assert (inside("black") == 0).all()
    assert len(np.unique(inside("random"), axis=0)) == 1
    assert len(np.unique(inside("noise"), axis=0)) > 100


def test_mean_fill_is_zero_after_normalisation() -> None:
    from experiments.models.layers import Normalise

    image = np.broadcast_to(np.array(MEAN_PIXEL, np.uint8), (1, 4, 4, 3))
    normalised = Normalise(MEAN.tolist(), [0.2, 0.2, 0.2])(to_tensor(image))
    assert torch.allclose(normalised, torch.zeros(1, 3, 4, 4), atol=1e-6)


def test_no_cutout_changes_nothing() -> None:
    assert not holes(TrainSettings.of(), MEAN).transforms
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert (geometry(TrainSettings.of(hflip=0, crop_padding=0), 32)(image=image)["image"] == image).all()


def test_old_argument_names_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"Argument\(s\) 'max_holes' are not valid for transform CoarseDropout"):
        strict(CoarseDropout, max_holes=1)
    with pytest.raises(ValueError, match="max_height"):
        strict(Cutout, max_height=16, num_holes_range=(1, 1))


def test_a_flip_gives_the_image_or_its_mirror_and_a_crop_a_shift() -> None:
    image = np.random.default_rng(0).integers(1, 256, (32, 32, 3), np.uint8)
    flips = geometry(TrainSettings.of(recipe="resnet18", hflip=0.5, crop_padding=0), 32)
    seen = {bytes(flips(image=image)["image"]) for _ in range(40)}
    assert seen == {bytes(image), bytes(np.ascontiguousarray(image[:, ::-1]))}
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    shifts = {bytes(np.ascontiguousarray(padded[y : y + 32, x : x + 32])) for y in range(5) for x in range(5)}
    crops = geometry(TrainSettings.of(recipe="resnet18", hflip=0, crop_padding=2), 32)
    assert {bytes(np.ascontiguousarray(crops(image=image)["image"])) for _ in range(400)} == shifts


def epoch_of(seed: int, epoch: int, **options: object) -> tuple[torch.Tensor, torch.Tensor]:
    chosen = TrainSettings.of(**ONE_BY_ONE, batch_size=8, seed=seed, **options)
    images = np.random.default_rng(0).integers(0, 256, (20, 32, 32, 3), np.uint8)
    batches = list(Augmentation(chosen, 32, MEAN).batches(images, np.arange(20), epoch))
    return torch.cat([batch for batch, _ in batches]), torch.cat([labels for _, labels in batches])


def test_an_epoch_is_the_same_again_and_another_epoch_or_seed_is_not() -> None:
    images, labels = epoch_of(0, 3, cutout=True)
    again, same_labels = epoch_of(0, 3, cutout=True)
    assert torch.equal(images, again)
    assert torch.equal(labels, same_labels)
    assert sorted(labels.tolist()) == list(range(20))
    for other in (epoch_of(0, 4, cutout=True), epoch_of(1, 3, cutout=True)):
        assert not torch.equal(other[1], labels)


def test_with_and_without_cutout_see_the_same_crops_and_flips() -> None:
    plain, order = epoch_of(0, 0)
    holed, same_order = epoch_of(0, 0, cutout=True, cutout_size=8)
    assert torch.equal(order, same_order)
    changed = (plain != holed).any(1)
    assert 0 < changed.float().mean() <= (8 / 32) ** 2
    assert changed.flatten(1).any(1).all()


def test_a_last_batch_of_one_is_left_out() -> None:
    chosen = TrainSettings.of(**ONE_BY_ONE, batch_size=4)
    augmentation = Augmentation(chosen, 32, MEAN)
    for n in range(2, 14):
        batches = list(augmentation.batches(np.zeros((n, 32, 32, 3), np.uint8), np.zeros(n, np.int64), 0))
        assert len(batches) == n // 4 + (n % 4 > 1)
        assert all(len(labels) > 1 for _, labels in batches)


def test_to_tensor_is_channels_first_in_0_to_1() -> None:
    image = np.zeros((1, 2, 3, 3), np.uint8)
    image[0, 1, 2] = [255, 51, 0]
    tensor = to_tensor(image)
    assert tensor.shape == (1, 3, 2, 3)
    assert tensor[0, :, 1, 2].tolist() == pytest.approx([1.0, 0.2, 0.0])

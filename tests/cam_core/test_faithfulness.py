"""Deletion, insertion and what masking costs, on models whose answers are known."""

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from cam_core.faithfulness import (
    Curve,
    average_drop,
    average_gain,
    blur_fill,
    colour_fill,
    deletion,
    deletion_margin,
    increase_in_confidence,
    inpaint,
    insertion,
    masked_confidence,
    mean_fill,
    noisy_inpaint,
)
from cam_core.quality import random_maps

pytestmark = pytest.mark.usefixtures("one_thread")

black = colour_fill(torch.zeros(1))


class Sum(nn.Module):
    """Logits (s, 0) with s the sum of all pixels, so the probability of class 0 is 1 / (1 + exp(-s))."""

    def forward(self, x: Tensor) -> Tensor:
        total = x.sum((1, 2, 3))
        return torch.stack([total, torch.zeros_like(total)], 1)


class Brightness(nn.Module):
    """The probability of class 0 is the mean pixel itself, which must lie between 0 and 1."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((1, 2, 3)).clamp(1e-9, 1 - 1e-9)
        return torch.stack([mean, 1 - mean], 1).log()


class Stubborn(nn.Module):
    """Says the same about every image."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tensor([2.0, 0.0, -1.0]).expand(len(x), -1)


class Net(nn.Module):
    """A small network with everything that could be disturbed: BatchNorm, dropout, an operation on its own input."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x -= 0.1
        return self.head(self.body(x).mean((2, 3)))


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def batch(n: int = 5, size: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(n, 3, size, size, generator=generator)
    return images, torch.rand(n, size, size, generator=generator), torch.arange(n) % 4


def zeros(n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.int64)


# Pixels in units of log 3: with their sum k the probability is 3^k / (1 + 3^k).
PIXELS = math.log(3) * torch.tensor([[[[2.0, 1.0], [0.0, -1.0]]]])
ORDER = torch.tensor([[[9.0, 5.0], [4.0, 0.0]]])


def test_deletion_by_hand() -> None:
    curve = deletion(Sum(), PIXELS, ORDER, zeros(1), steps=4, remove=black)
    # Sums 2, 0, -1, -1, 0
    assert curve.probabilities[0].tolist() == pytest.approx([9 / 10, 1 / 2, 1 / 4, 1 / 4, 1 / 2])
    assert curve.fractions.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert curve.auc.tolist() == pytest.approx([(0.9 / 2 + 0.5 + 0.25 + 0.25 + 0.5 / 2) / 4])
    other = deletion(Sum(), PIXELS, ORDER, zeros(1) + 1, steps=4, remove=black)
    assert (curve.probabilities + other.probabilities).tolist()[0] == pytest.approx([1] * 5)


def test_insertion_by_hand() -> None:
    curve = insertion(Sum(), PIXELS, ORDER, zeros(1), steps=4, remove=black)
    # Sums 0, 2, 3, 3, 2
    assert curve.probabilities[0].tolist() == pytest.approx([1 / 2, 9 / 10, 27 / 28, 27 / 28, 9 / 10])
    assert curve.auc.tolist() == pytest.approx([(0.25 + 0.9 + 27 / 28 + 27 / 28 + 0.45) / 4])


def test_steps_that_do_not_divide_the_pixels() -> None:
    curve = deletion(Sum(), PIXELS, ORDER, zeros(1), steps=3, remove=black)
    assert curve.fractions.tolist() == [0, 0.25, 0.75, 1]  # 1.33 and 2.67 pixels, rounded
    assert curve.probabilities[0].tolist() == pytest.approx([9 / 10, 1 / 2, 1 / 4, 1 / 2])
    assert curve.auc.tolist() == pytest.approx([0.25 * 0.7 + 0.5 * 0.375 + 0.25 * 0.375])


def test_the_area_is_the_trapezoid_s() -> None:
    curve = Curve(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.5, 1.0]]))
    assert curve.auc.tolist() == [0.25, 1.0, 0.5]


@given(st.integers(0, 2**31), st.integers(1, 16), st.sampled_from([deletion, insertion]))
def test_no_order_beats_the_true_one_and_none_is_worse_than_its_inverse(
    seed: int, steps: int, measure: Callable[..., Curve]
) -> None:
    images = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(seed))
    truth, other = images[:, 0], torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(seed + 1))
    true, random, inverse = (
        measure(Brightness(), images, maps, zeros(3), steps=steps, remove=black).auc
        for maps in (truth, other, 1.001 - truth)
    )
    low, high = (true, inverse) if measure is deletion else (inverse, true)
    assert (low <= random + 1e-6).all()
    assert (random <= high + 1e-6).all()


def test_the_whole_curve_of_an_additive_model() -> None:
    images = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    curve = deletion(Brightness(), images, images[:, 0], zeros(4), steps=36, remove=black)
    left = images.flatten(1).sort(1).values.cumsum(1).flip(1) / 36
    torch.testing.assert_close(curve.probabilities[:, :-1], left, atol=1e-5, rtol=0)
    # Insertion of what deletion takes: the two always add up to the whole image.
    other = insertion(Brightness(), images, images[:, 0], zeros(4), steps=36, remove=black)
    whole = images.mean((1, 2, 3))[:, None].expand(-1, 37)
    torch.testing.assert_close(curve.probabilities + other.probabilities, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("measure", [deletion, insertion])
@pytest.mark.parametrize("remove", [mean_fill, blur_fill, inpaint])
def test_a_model_that_ignores_the_image_has_a_flat_curve(measure: Callable[..., Curve], remove: object) -> None:
    images, maps, _ = batch()
    curve = measure(Stubborn(), images, maps, zeros(5) + 1, remove=remove)
    expected = torch.tensor([2.0, 0.0, -1.0]).softmax(0)[1].item()
    assert curve.auc.tolist() == pytest.approx([expected] * 5)
    assert curve.probabilities.shape == (5, 11)


def test_equal_values_come_in_a_seeded_random_order_below_all_higher_ones() -> None:
    images = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    maps = torch.zeros(1, 8, 8)
    maps[0, 6:, :] = 1  # two rows, 16 of 64 pixels, go first
    run = partial(deletion, Brightness(), images, maps, zeros(1), steps=64, remove=black)
    curves = [run(seed=seed).probabilities[0] for seed in range(50)]
    assert torch.equal(curves[0], run().probabilities[0])
    assert not torch.equal(curves[0], curves[1])
    for curve in curves:
        assert curve[16].item() == pytest.approx(images[0, 0, :6].sum().item() / 64, abs=1e-5)
    # Averaged over orders the curve is straight between the levels.
    mean = torch.stack(curves).mean(0)
    straight = torch.linspace(mean[16].item(), 0, 49)
    torch.testing.assert_close(mean[16:], straight, atol=0.02, rtol=0)


@pytest.mark.parametrize("measure", [deletion, insertion])
def test_a_batch_is_its_images_and_chunks_change_nothing(measure: Callable[..., Curve]) -> None:
    images, maps, classes = batch()
    model = net().eval()
    for remove in (inpaint, blur_fill, mean_fill):
        together = measure(model, images, maps, classes, remove=remove, chunk=2).probabilities
        one_by_one = [
            measure(model, images[i : i + 1], maps[i : i + 1], classes[i : i + 1], remove=remove).probabilities
            for i in range(5)
        ]
        torch.testing.assert_close(together, torch.cat(one_by_one), atol=1e-5, rtol=0)


def counted(model: nn.Module, run: Callable[[], object]) -> tuple[int, int]:
    """How many forward passes `run` takes, and how many images go through them."""
    sizes: list[int] = []
    handle = model.register_forward_hook(lambda _, args, output: sizes.append(len(output)))
    run()
    handle.remove()
    return len(sizes), sum(sizes)


def test_forward_passes_are_counted() -> None:
    images, maps, classes = batch(5)
    model = net()
    for curve in (deletion, insertion):
        assert counted(model, lambda curve=curve: curve(model, images, maps, classes, steps=3, chunk=2)) == (12, 20)
    margin = partial(deletion_margin, model, images, maps, classes, (2, 2), steps=3, chunk=2)
    assert counted(model, margin) == (24, 40)
    assert counted(model, partial(masked_confidence, model, images, maps, classes, chunk=2)) == (6, 10)


RUNS: list[Callable[..., object]] = [
    deletion,
    insertion,
    masked_confidence,
    lambda *args: deletion_margin(*args, (2, 2)),
]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("fails", [False, True])
def test_the_model_and_the_images_are_as_before(run: Callable[..., object], fails: bool) -> None:
    model, (images, maps, classes) = net(), batch()
    model.head.eval()
    model.head.weight.grad = torch.ones_like(model.head.weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kept = images.clone()
    torch.manual_seed(123)
    random = torch.get_rng_state()
    with pytest.raises(ValueError, match="target contains class 9") if fails else nullcontext():
        run(model, images, maps, classes + (9 if fails else 0) * (classes == 0))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in (model, model.body, model.body[1], model.head)] == [True, True, True, False]
    assert torch.equal(model.head.weight.grad, torch.ones_like(model.head.weight))
    assert torch.equal(images, kept)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.is_grad_enabled()


def test_the_model_runs_in_eval_mode_without_gradients() -> None:
    images, maps, classes = batch()
    expected = net().eval()(images.clone()).softmax(1).gather(1, classes[:, None])[:, 0]
    curve = deletion(net(), images, maps, classes)
    torch.testing.assert_close(curve.probabilities[:, 0], expected.detach())
    assert not curve.probabilities.requires_grad
    full, masked = masked_confidence(net(), images, maps, classes)
    torch.testing.assert_close(full, expected.detach())
    by_hand = net().eval()(images * (maps / maps.amax((1, 2), keepdim=True))[:, None]).softmax(1)
    torch.testing.assert_close(masked, by_hand.gather(1, classes[:, None])[:, 0].detach())


def test_dead_maps_are_missing_not_zero() -> None:
    images, maps, classes = batch()
    maps[1] = 0
    missing = [False, True, False, False, False]
    for curve in (deletion(net(), images, maps, classes), insertion(net(), images, maps, classes)):
        assert curve.auc.isnan().tolist() == missing
        assert curve.probabilities.isnan().all(1).tolist() == missing
        assert curve.auc.dtype == curve.probabilities.dtype == curve.fractions.dtype == torch.float32
    assert deletion_margin(net(), images, maps, classes, (2, 2)).isnan().tolist() == missing
    full, masked = masked_confidence(net(), images, maps, classes)
    assert not full.isnan().any()
    for measure in (average_drop, increase_in_confidence, average_gain):
        assert measure(full, masked).isnan().tolist() == missing


def test_half_precision_fills_as_float32_does() -> None:
    images, maps, classes = batch(size=16)
    plain = deletion(net(), images, maps, classes)
    with torch.autocast("cpu", torch.bfloat16):
        lowered = deletion(net(), images, maps, classes)
    assert lowered.probabilities.dtype == torch.float32
    torch.testing.assert_close(lowered.probabilities, plain.probabilities, atol=0.02, rtol=0)
    seen: list[Tensor] = []

    def spy(some: Tensor, removed: Tensor) -> Tensor:
        with torch.no_grad():
            seen.append(nn.functional.conv2d(some, torch.ones(1, 3, 1, 1)))
        return mean_fill(some, removed)

    with torch.autocast("cpu", torch.bfloat16):
        deletion(net(), images, maps, classes, steps=1, remove=spy)
    assert {tensor.dtype for tensor in seen} == {torch.float32}
    low = deletion(net().bfloat16(), images.bfloat16(), maps, classes)
    torch.testing.assert_close(low.probabilities, plain.probabilities, atol=0.05, rtol=0)
    masked_confidence(net().bfloat16(), images.bfloat16(), maps, classes)


# What removal leaves


def spot(h: int, w: int, y: int, x: int) -> Tensor:
    mask = torch.zeros(1, h, w, dtype=torch.bool)
    mask[0, y, x] = True
    return mask


def test_fills_by_hand() -> None:
    images = torch.tensor([[[[1.0, 2.0], [3.0, 6.0]], [[0.0, 0.0], [0.0, 4.0]]]])
    removed = spot(2, 2, 0, 1)
    assert mean_fill(images, removed).tolist() == [[[[1, 3], [3, 6]], [[0, 1], [0, 4]]]]
    assert colour_fill(torch.tensor([7.0, 8.0]))(images, removed).tolist() == [[[[1, 7], [3, 6]], [[0, 8], [0, 4]]]]
    # A corner has three neighbours: 1 and 6 across an edge, 3 across a corner.
    expected = (1 / 6 * 1 + 1 / 6 * 6 + 1 / 12 * 3) / (5 / 12)
    assert inpaint(images, removed)[0, 0].flatten().tolist() == pytest.approx([1, expected, 3, 6], abs=1e-4)
    assert inpaint(images, torch.ones(1, 2, 2, dtype=torch.bool))[0, :, 0, 0].tolist() == [3, 1]


def test_blur_is_opencv_s() -> None:
    images, _, _ = batch(2, 16)
    everything = torch.ones(2, 16, 16, dtype=torch.bool)
    found = blur_fill(images, everything)[1].permute(1, 2, 0).numpy()
    photo = images[1].permute(1, 2, 0).numpy()
    expected = cv2.GaussianBlur(np.ascontiguousarray(photo), (11, 11), 5, borderType=cv2.BORDER_REPLICATE)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@given(st.integers(0, 2**31), st.floats(0, 1))
def test_every_fill_leaves_other_pixels_alone_and_nothing_of_the_removed(seed: int, share: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(2, 3, 7, 9, generator=generator)
    removed = torch.rand(2, 7, 9, generator=generator) < share
    for remove in (mean_fill, blur_fill, inpaint, colour_fill(torch.ones(3))):
        found = remove(images, removed)
        assert torch.equal(torch.where(removed[:, None], 0, found), torch.where(removed[:, None], 0, images))
    # What lies in a hole has no say in its filling, unless nothing else is left.
    if not removed.flatten(1).all(1).any():
        changed = torch.where(removed[:, None], 0.5 - images, images)
        torch.testing.assert_close(inpaint(changed, removed), inpaint(images, removed), atol=0.02, rtol=0)


def smooth_images(n: int, size: int) -> Tensor:
    return nn.functional.interpolate(torch.randn(n, 3, 5, 5, generator=torch.Generator().manual_seed(2)), size)


def holes(n: int, size: int) -> Iterator[Tensor]:
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    yield ((y - size / 2) ** 2 + (x - size / 3) ** 2 < (size / 3) ** 2).expand(n, -1, -1)
    yield (x < size / 2).expand(n, -1, -1)
    yield (y * size + x != 40).expand(n, -1, -1)
    yield torch.rand(n, size, size, generator=torch.Generator().manual_seed(3)) < 0.8


# grad-cam's code calls numpy functions on tensors in a way that numpy is giving up.
@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning")
@pytest.mark.parametrize(
    ("size", "atol"), [(16, 0.02), (75, 0.06)]
)  # of values about 1; below and above COARSEST, even and odd
def test_inpainting_is_road_s_imputation(size: int, atol: float) -> None:
    road = pytest.importorskip("pytorch_grad_cam.metrics.road").NoisyLinearImputer(noise=0)
    images = smooth_images(3, size)
    for removed in holes(3, size):
        expected = torch.stack([road(image, (~mask).float()) for image, mask in zip(images, removed, strict=True)])
        torch.testing.assert_close(inpaint(images, removed), expected, atol=atol, rtol=0)


def test_a_large_image_that_is_removed_as_a_whole_becomes_its_mean_colour() -> None:
    images = smooth_images(2, 75)
    expected = images.mean((2, 3), keepdim=True).expand_as(images)
    torch.testing.assert_close(inpaint(images, torch.ones(2, 75, 75, dtype=torch.bool)), expected, atol=0.01, rtol=0)


def test_inpainting_restores_a_slope_and_depends_on_no_neighbour_in_the_batch() -> None:
    y, x = torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij")
    images = torch.stack([2 * y - x, torch.full((12, 12), 0.3)])[:, None]
    removed = torch.zeros(2, 12, 12, dtype=torch.bool)
    removed[:, 3:9, 2:8] = True
    torch.testing.assert_close(inpaint(images, removed), images, atol=0.01, rtol=0)
    mixed = torch.cat([images, torch.zeros(1, 1, 12, 12)])
    masks = torch.cat([removed, torch.ones(1, 12, 12, dtype=torch.bool)])
    torch.testing.assert_close(inpaint(mixed, masks)[:2], inpaint(images, removed), atol=1e-5, rtol=0)


def test_noise_is_on_removed_pixels_only_and_its_generator_s() -> None:
    images, removed = smooth_images(4, 32), next(holes(4, 32))
    once, again = (
        noisy_inpaint(images, removed, generator=torch.Generator().manual_seed(4), noise=0.3) for _ in range(2)
    )
    assert torch.equal(once, again)
    added = (once - inpaint(images, removed)).permute(0, 2, 3, 1)
    assert added[~removed].count_nonzero() == 0
    assert added[removed].std().item() == pytest.approx(0.3, rel=0.05)


# The margin


def test_the_margin_of_a_map_that_knows_nothing_is_zero_and_of_the_truth_is_not() -> None:
    images = nn.functional.interpolate(torch.rand(300, 1, 4, 4, generator=torch.Generator().manual_seed(5)), 16)
    chance = random_maps(300, (4, 4), (16, 16), torch.Generator().manual_seed(1))
    measure = partial(deletion_margin, Brightness(), images, classes=zeros(300), grid=(4, 4), steps=8)
    nothing = measure(maps=chance, remove=black)
    assert nothing.mean().item() == pytest.approx(0, abs=4 * nothing.std().item() / math.sqrt(300))
    assert measure(maps=images[:, 0], remove=black).mean().item() > 0.05
    assert measure(maps=1.001 - images[:, 0], remove=black).mean().item() < -0.05


def test_the_margin_is_the_random_map_s_area_minus_the_map_s() -> None:
    images, maps, classes = batch()
    chance = random_maps(5, (2, 2), (8, 8), torch.Generator().manual_seed(7))
    for remove in (inpaint, mean_fill):
        areas = [deletion(net(), images, some, classes, remove=remove, seed=7).auc for some in (chance, maps)]
        margin = deletion_margin(net(), images, maps, classes, (2, 2), remove=remove, seed=7)
        torch.testing.assert_close(margin, areas[0] - areas[1])


class Texture(nn.Module):
    """The more contrast, the more class 0."""

    def forward(self, x: Tensor) -> Tensor:
        contrast = 20 * x.std((1, 2, 3))
        return torch.stack([contrast, torch.full_like(contrast, 8)], 1)


def test_scattered_pixels_are_no_fair_comparison_for_patches() -> None:
    # The reason for `grid`: beside single random pixels, which are restored, even a map that knows nothing seems wise.
    y, x = torch.meshgrid(torch.arange(16) / 2.5, torch.arange(16) / 2.5, indexing="ij")
    images = (y.sin() * x.sin()).expand(100, 1, -1, -1)
    chance = random_maps(100, (4, 4), (16, 16), torch.Generator().manual_seed(1))
    patches, pixels = (
        deletion_margin(Texture(), images, chance, zeros(100), grid).mean().item() for grid in ((4, 4), (16, 16))
    )
    assert patches == pytest.approx(0, abs=0.04)
    assert pixels > 0.1


# Drop, increase, gain


def test_drop_increase_and_gain_by_hand() -> None:
    full = torch.tensor([0.8, 0.5, 0.2, 1.0, 0.0, 0.4])
    masked = torch.tensor([0.6, 0.5, 0.6, 0.5, 0.1, torch.nan])
    torch.testing.assert_close(
        average_drop(full, masked), torch.tensor([0.25, 0, 0, 0.5, 0, torch.nan]), equal_nan=True
    )
    assert increase_in_confidence(full, masked).nan_to_num(-1).tolist() == [0, 0, 1, 0, 1, -1]
    torch.testing.assert_close(average_gain(full, masked), torch.tensor([0, 0, 0.5, 0, 0.1, torch.nan]), equal_nan=True)


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32)), min_size=1, max_size=20))
def test_drop_and_gain_are_shares_and_never_both_positive(pairs: list[tuple[float, float]]) -> None:
    full, masked = torch.tensor(pairs).T
    drop, gain = average_drop(full, masked), average_gain(full, masked)
    for share in (drop, gain):
        assert ((share >= 0) & (share <= 1)).all()
    assert ((drop == 0) | (gain == 0)).all()
    assert torch.equal(increase_in_confidence(full, masked) == 1, full < masked)


def test_a_map_of_ones_drops_nothing() -> None:
    images, maps, classes = batch()
    full, masked = masked_confidence(net(), images, torch.full_like(maps, 0.3), classes)
    torch.testing.assert_close(average_drop(full, masked), torch.zeros(5), atol=1e-5, rtol=0)


# Parity


class Careful(nn.Module):
    """The network on a copy of its input, which torchcam would hand it changed the second time."""

    def __init__(self) -> None:
        super().__init__()
        self.net = net().eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.clone())


class Given:
    """What torchcam's metrics ask of an extractor of maps, with maps given."""

    def __init__(self, model: nn.Module, maps: Tensor) -> None:
        self.model, self.maps = model, maps
        self._hooks_off = nullcontext

    def __call__(self, *args: object, **settings: object) -> list[Tensor]:
        return [self.maps]

    def fuse_cams(self, maps: list[Tensor]) -> Tensor:
        return maps[0]


@pytest.mark.parametrize("steps", [4, 16])
def test_areas_are_torchcam_s(steps: int) -> None:
    metrics = pytest.importorskip("torchcam.metrics")
    images, maps, classes = batch()
    metric = metrics.DeletionInsertionMetric(Given(Careful(), maps), partial(torch.softmax, dim=-1), steps=steps)
    metric.update(images, classes.tolist())
    expected = metric.summary()
    remove = colour_fill(torch.zeros(3))
    found = [
        measure(net(), images, maps, classes, steps=steps, remove=remove).auc.mean().item()
        for measure in (deletion, insertion)
    ]
    assert found == pytest.approx([expected["deletion_auc"], expected["insertion_auc"]], abs=1e-5)


def test_drop_and_increase_are_torchcam_s() -> None:
    metrics = pytest.importorskip("torchcam.metrics")
    images, maps, classes = batch(32)
    maps = maps / maps.amax((1, 2), keepdim=True)
    metric = metrics.ClassificationMetric(Given(Careful(), maps), partial(torch.softmax, dim=-1))
    metric.update(images, classes.tolist())
    full, masked = masked_confidence(net(), images, maps, classes)
    found = {
        "avg_drop": average_drop(full, masked).mean().item(),
        "conf_increase": increase_in_confidence(full, masked).mean().item(),
    }
    assert metric.summary() == pytest.approx(found, abs=1e-5)
    assert 0 < found["conf_increase"] < 1


# Bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, m, c: (x[0], m, c), r"images must be floats \(n, channels, h, w\), n > 0, got .*\(3, 8, 8\)"),
        (lambda x, m, c: (x[:0], m[:0], c[:0]), "images must be floats"),
        (lambda x, m, c: (x.byte(), m, c), "images must be floats .* torch.uint8"),
        (lambda x, m, c: (x, m[:, :4], c), r"maps must be \(5, 8, 8\) like the images, got \(5, 4, 8\)"),
        (lambda x, m, c: (x, m * torch.inf, c), "maps contain NaN, infinity or negative"),
        (lambda x, m, c: (x, m, c[:4]), r"classes must be 5 whole numbers, one per image, got torch.int64 \(4,\)"),
        (lambda x, m, c: (x, m, c.float()), "classes must be 5 whole numbers"),
        (lambda x, m, c: (x, m, c + 1), "contains class 4, but the model has 4 classes: 0 to 3"),
    ],
)
@pytest.mark.parametrize("run", [deletion, insertion, masked_confidence])
def test_bad_input_is_named_in_one_line(
    run: Callable[..., object], change: Callable[..., tuple[Tensor, Tensor, Tensor]], message: str
) -> None:
    # Outside the tests nothing checks shapes before our own checks do, so here they run without the type checker.
    with pytest.raises(ValueError, match=message) as error:
        inspect.unwrap(run)(net(), *change(*batch()))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "steps must be between 1 and the 64 pixels of an image, got 0"),
        ({"steps": 65}, "steps must be between 1 and the 64 pixels of an image, got 65"),
        ({"chunk": 0}, "chunk must be at least 1 image, got 0"),
    ],
)
def test_bad_settings(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        deletion(net(), *batch(), **settings)


def test_a_model_without_logits() -> None:
    with pytest.raises(ValueError, match=r"the model must return logits \(5, classes\), got \(5, 3, 8, 8\)"):
        deletion(nn.Identity(), *batch())

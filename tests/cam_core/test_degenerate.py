"""Maps that are constant, zero, NaN, one cell or one row: no measure reads rounding from them."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from cam_core import METHODS, agreement, cams, capture, quality, resize
from cam_core.maps import finish

ONE = [
    *(quality.coverage, quality.entropy, quality.spread, quality.centre_distance),
]
WITH_MASK = [
    *(quality.energy_inside, quality.lift, quality.pointing_game, quality.pixel_auc, quality.rank_accuracy),
    *(quality.object_iou, quality.object_recall, quality.object_precision),
]
TWO = [agreement.rank_correlation, agreement.top_iou, agreement.cosine, agreement.centre_shift]


def mask_of(shape: tuple[int, int]) -> Tensor:
    mask = torch.zeros(1, *shape, dtype=torch.bool)
    mask[:, : max(1, shape[0] // 2), : max(1, shape[1] // 3)] = True
    return mask


@given(
    value=st.floats(2.0**-100, 2.0**100, width=32),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_a_constant_map_stays_constant_to_the_last_bit(
    value: float, grid: tuple[int, int], size: tuple[int, int]
) -> None:
    found, strength = finish(torch.full((1, *grid), value), size)
    assert torch.equal(found, torch.ones(1, *size))
    assert strength.tolist() == [pytest.approx(value)]
    mask = mask_of(size)
    share = mask.float().mean().item()
    assert quality.pointing_game(found, mask).item() == pytest.approx(share)
    assert quality.energy_inside(found, mask).item() == pytest.approx(share)
    if share < 1:
        assert quality.pixel_auc(found, mask).item() == 0.5
    other = torch.rand(1, *size)
    assert quality.coverage(found).item() == 1
    assert math.isnan(agreement.rank_correlation(found, other).item())


@given(seed=st.integers(0, 10**6), size=st.tuples(st.integers(1, 30), st.integers(1, 30)))
def test_resizing_keeps_the_bounds(seed: int, size: tuple[int, int]) -> None:
    maps = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(seed))
    large = resize(maps, size)
    assert bool((large.amax((1, 2)) <= maps.amax((1, 2))).all())
    assert bool((large.amin((1, 2)) >= maps.amin((1, 2))).all())


@pytest.mark.parametrize("value", [0.0, math.nan])
@pytest.mark.parametrize("shape", [(1, 1), (1, 6), (5, 1), (4, 6)])
def test_measures_of_zero_and_nan_maps_are_nan_and_the_map_counts_as_dead(value: float, shape: tuple[int, int]) -> None:
    maps, live = torch.full((1, *shape), value), torch.rand(1, *shape) + 0.1
    for measure in ONE:
        assert measure(maps).isnan().all(), measure
    for of_mask in WITH_MASK:
        assert of_mask(maps, mask_of(shape)).isnan().all(), of_mask
    for of_two in TWO:
        assert of_two(maps, live).isnan().all(), of_two
        assert of_two(live, maps).isnan().all(), of_two
    assert quality.dead_rate(maps).tolist() == [1]


@pytest.mark.parametrize(
    ("measure", "expected"),
    [(quality.coverage, 1), (quality.spread, 0), (quality.centre_distance, 0), (quality.entropy, math.nan)],
)
def test_one_cell(measure: Callable[[Tensor], Tensor], expected: float) -> None:
    assert measure(torch.full((1, 1, 1), 0.3)).item() == pytest.approx(expected, nan_ok=True)


def test_one_row_is_measured_along_the_row() -> None:
    row = torch.tensor([[[0.0, 1.0, 0.0, 1.0]]])
    mask = torch.tensor([[[True, True, False, False]]])
    assert quality.energy_inside(row, mask).item() == 0.5
    assert quality.pixel_auc(row, mask).item() == 0.5
    assert quality.spread(row).item() == pytest.approx(0.25)
    assert agreement.cosine(row, row).item() == pytest.approx(1)


class BeforeNorm(nn.Module):
    """A LayerNorm over the channels, then the mean and a linear head: gradient times activation cancels before it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.LayerNorm(16, eps=0)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x).permute(0, 2, 3, 1) - 0).mean((1, 2)))


def test_a_map_of_rounding_alone_is_dead() -> None:
    """The output of a norm without an epsilon does not change with the scale of its input, so sum(g A) is 0."""
    torch.manual_seed(0)
    model, images = BeforeNorm(), torch.randn(2, 3, 6, 6)
    with torch.no_grad():  # without means over the channels, the norm only scales
        weight = model.conv.weight
        weight -= weight.mean(0, keepdim=True)
        model.conv.bias.zero_()  # type: ignore[union-attr]
    evidence = capture(model, images, ["conv"], 1)
    product = evidence.gradients["conv"] * evidence.activations["conv"]
    assert product.sum(1).abs().max() < 1e-5 * product.abs().sum(1).max()  # or this test shows nothing
    found = cams(model, images, ["conv"], 1, method="hirescam")
    assert found.strength.tolist() == [[0, 0]]
    assert found.maps.count_nonzero() == 0
    assert cams(model, images, ["conv"], 1, method="elementwise").strength.min() > 0


@pytest.mark.parametrize(("share", "dead"), [(1e-8, True), (1e-4, False)])
def test_weak_is_dead_only_below_a_millionth_of_its_bound(share: float, dead: bool) -> None:
    activations = torch.tensor([[[[1.0, 0.5]], [[-1.0 + share, -0.5]]]], dtype=torch.float64)
    raw = METHODS["hirescam"](activations, torch.ones_like(activations))
    assert bool((raw <= 0).all()) == dead


def test_grad_cam_plus_plus_gives_no_weight_beyond_the_pole_of_equation_19() -> None:
    """With S < 0, alpha = 1 / (2 + S g) grows without bound up to g = -2/S, and is negative beyond.

    The paper derives alpha as weights of positive gradients, for maps behind a ReLU, where S >= 0. A negative weight
    would count a place that raises the score as one that lowers it; grad-cam 1.5.7 lets it.
    """
    activations = torch.tensor([[[[-3.0, 1.0]]]])  # S = -2, the pole is at g = 1
    below, beyond = torch.tensor([[[[0.5, 0.0]]]]), torch.tensor([[[[2.0, 0.0]]]])
    # w = 0.5 / (2 - 2 * 0.5) = 1/2
    assert METHODS["gradcam++"](activations, below).tolist() == [[[-1.5, 0.5]]]
    assert 2.0 / (2 - 2 * 2.0) < 0  # what the formula gives
    assert METHODS["gradcam++"](activations, beyond).tolist() == [[[0.0, 0.0]]]

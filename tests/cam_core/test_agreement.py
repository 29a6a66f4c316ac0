"""The measures of agreement on maps small enough for paper, against scipy, at their limits and for unrelated maps."""

import math
from collections.abc import Callable

import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cam_core.agreement import centre_shift, cosine, flip_consistency, rank_correlation, top_iou
from cam_core.quality import centre_blob, random_maps, uniform_map

SYMMETRIC = [rank_correlation, top_iou, cosine, centre_shift]
ALL = [*SYMMETRIC, flip_consistency]
TIED = st.lists(st.integers(0, 3), min_size=12, max_size=12)
SEEDS = st.integers(0, 2**31)

Measure = Callable[[Tensor, Tensor], Tensor]


def row(*values: float) -> Tensor:
    return torch.tensor(values).float().view(1, 1, -1)


def pair(seed: int, n: int = 3) -> tuple[Tensor, Tensor]:
    """Two batches of sparse maps, with many zeros as after a ReLU."""
    values = torch.randn(2, n, 8, 12, generator=torch.Generator().manual_seed(seed)).relu()
    return values[0], values[1]


def test_by_hand() -> None:
    a, b = row(3, 1, 0, 0), row(4, 0, 3, 0)
    assert cosine(a, b).item() == pytest.approx(12 / (math.sqrt(10) * 5))
    # Ranks 4, 3, 1.5, 1.5 and 4, 1.5, 3, 1.5, all less 2.5: products 2.25, -.5, -.5, 1; squares 4.5 each.
    assert rank_correlation(a, b).item() == pytest.approx(2.25 / 4.5)
    # Centres at (3 * 1 + 1 * 3) / 4 = 1.5 and (4 * 1 + 3 * 5) / 7 = 19 / 7 eighths.
    assert centre_shift(a, b).item() == pytest.approx((19 / 7 - 1.5) / 8)
    assert top_iou(a, b, share=0.5).item() == pytest.approx(1 / 3)  # the first two; the first and third
    assert flip_consistency(a, b).item() == pytest.approx((1 * 3 + 0 * 0) / (math.sqrt(10) * 5))


def test_centre_shift_is_in_fractions_of_each_side() -> None:
    maps = torch.zeros(2, 4, 10)
    maps[0, 0, 1] = maps[1, 3, 5] = 1
    assert centre_shift(maps[:1], maps[1:]).item() == pytest.approx(math.hypot(3 / 4, 4 / 10))


def test_top_iou_without_ties_is_that_of_the_sets() -> None:
    a, b = pair(0, 1)
    a, b = a + torch.rand_like(a), b + torch.rand_like(b)  # no zeros, no ties
    for share in (0.1, 0.2, 0.5):
        count = round(share * 96)
        sets = [set(maps.flatten().topk(count).indices.tolist()) for maps in (a, b)]
        assert top_iou(a, b, share).item() == pytest.approx(len(sets[0] & sets[1]) / len(sets[0] | sets[1]))


def test_top_iou_of_ties() -> None:
    flat, sharp = row(*[1] * 10), row(9, 8, *[1] * 8)
    assert top_iou(flat, flat).item() == 1
    # Each of ten equal pixels is in to a fifth, two of them wholly in the other: .2 * 2 / (2 + .2 * 8)
    assert top_iou(flat, sharp).item() == pytest.approx(0.4 / 3.6)
    # What is 0 is not in, though there is room for two.
    assert top_iou(row(1, *[0] * 9), row(0, 1, *[0] * 8)).item() == 0
    assert top_iou(row(1, *[0] * 9), row(2, *[0] * 9)).item() == 1


def test_top_iou_takes_at_least_one_pixel_and_refuses_no_share() -> None:
    assert top_iou(row(1, 2, 3), row(2, 1, 3), share=0.01).item() == 1
    for wrong in (0.0, -0.2, 20.0, math.nan):
        with pytest.raises(ValueError, match=f"share must be above 0 and at most 1, .*, not {wrong}"):
            top_iou(row(1, 2), row(1, 2), wrong)


@given(TIED, TIED)
def test_rank_correlation_is_that_of_scipy(a: list[int], b: list[int]) -> None:
    result = rank_correlation(torch.tensor(a).float().view(1, 3, 4), torch.tensor(b).float().view(1, 3, 4)).item()
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert math.isnan(result)
    else:
        assert result == pytest.approx(scipy.stats.spearmanr(a, b).statistic, abs=1e-6)


def test_rank_correlation_is_that_of_scipy_on_large_maps() -> None:
    a = torch.rand(2, 224, 224, generator=torch.Generator().manual_seed(0))
    b = (a + torch.rand(2, 224, 224, generator=torch.Generator().manual_seed(1)) - 0.7).relu()
    for one, other, value in zip(a, b, rank_correlation(a, b).tolist(), strict=True):
        assert value == pytest.approx(scipy.stats.spearmanr(one.flatten(), other.flatten()).statistic, abs=1e-6)


@given(SEEDS, st.sampled_from([1e-30, 1e-3, 7.0, 1e30]))
def test_scale_mirror_and_order_do_not_matter(seed: int, scale: float) -> None:
    a, b = pair(seed)
    for measure in ALL:
        value = measure(a, b)
        order = torch.tensor([2, 0, 1])
        for other in (
            measure(a * scale, b),
            measure(a, b * scale),
            measure(a.flip(1), b.flip(1)),
            measure(a.flip(2), b.flip(2)),
            measure(a[order], b[order])[order.argsort()],
            torch.cat([measure(a[i : i + 1], b[i : i + 1]) for i in range(3)]),
        ):
            torch.testing.assert_close(other, value, atol=1e-5, rtol=1e-5)
    for measure in SYMMETRIC:
        assert torch.equal(measure(a, b), measure(b, a))


@given(SEEDS)
def test_where_pixels_lie_in_memory_does_not_matter(seed: int) -> None:
    a, b = (maps.round() for maps in pair(seed))  # small whole numbers: full of ties
    order = torch.randperm(96, generator=torch.Generator().manual_seed(seed))
    for measure in (rank_correlation, top_iou, cosine):
        moved = [maps.flatten(1)[:, order].view(maps.shape) for maps in (a, b)]
        torch.testing.assert_close(measure(*moved), measure(a, b), atol=1e-6, rtol=1e-5)


@given(SEEDS)
def test_ranges_and_identity(seed: int) -> None:
    a, b = pair(seed)
    for measure in (top_iou, cosine, flip_consistency):
        assert ((measure(a, b) >= 0) & (measure(a, b) <= 1)).all()
    assert (rank_correlation(a, b).abs() <= 1).all()
    assert ((centre_shift(a, b) >= 0) & (centre_shift(a, b) < math.sqrt(2))).all()
    for measure in (rank_correlation, top_iou, cosine):
        torch.testing.assert_close(measure(a, 3 * a), torch.ones(3))
    assert (cosine(a, 3 * a) <= 1).all()
    torch.testing.assert_close(flip_consistency(a, a.flip(2)), torch.ones(3))
    torch.testing.assert_close(centre_shift(a, 3 * a), torch.zeros(3), atol=1e-6, rtol=0)
    torch.testing.assert_close(rank_correlation(a, a.amax() - a), -torch.ones(3))


@pytest.mark.parametrize("measure", ALL)
def test_dead_maps_are_missing_not_zero(measure: Measure) -> None:
    a, b = pair(0, 4)
    a[0] = b[1] = a[2] = b[2] = 0
    assert measure(a, b).isnan().tolist() == [True, True, True, False]
    assert measure(a, b).dtype == torch.float32


def test_unrelated_maps() -> None:
    first, second = (torch.rand(300, 32, 32, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    assert rank_correlation(first, second).mean().item() == pytest.approx(0, abs=0.005)
    assert top_iou(first, second).mean().item() == pytest.approx(0.2 / 1.8, abs=0.005)
    assert cosine(first, second).mean().item() == pytest.approx(3 / 4, abs=0.005)
    coarse = [random_maps(300, (4, 4), (32, 32), torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    assert cosine(*coarse).mean().item() > 0.8
    assert rank_correlation(*coarse).mean().item() == pytest.approx(0, abs=0.05)


def test_the_references_agree_in_place_and_not_in_shape() -> None:
    blob, flat = centre_blob(16, 16)[None], uniform_map(16, 16)[None]
    assert centre_shift(blob, flat).item() == pytest.approx(0, abs=1e-6)
    assert cosine(blob, flat).item() < 0.9
    assert rank_correlation(blob, flat).isnan().all()
    assert flip_consistency(blob, blob).item() == pytest.approx(1)


def test_everything_stays_on_the_device_of_the_maps() -> None:
    a, b = torch.rand(2, 2, 8, 8, device="meta")
    for measure in ALL:  # on the meta device every operation with a tensor from elsewhere raises
        assert measure(a, b).device.type == "meta"

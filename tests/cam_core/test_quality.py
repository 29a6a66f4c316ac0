"""The measures on maps small enough for paper, at their limits, and at the references."""

import itertools
import math
from collections.abc import Callable
from functools import partial

import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from cam_core.maps import resize
from cam_core.quality import (
    border_share,
    centre,
    centre_blob,
    centre_distance,
    coverage,
    dead_rate,
    energy_inside,
    entropy,
    focus_index,
    lift,
    live,
    object_iou,
    object_precision,
    object_recall,
    pixel_auc,
    pointing_game,
    random_maps,
    rank_accuracy,
    ranks,
    spread,
    top,
    uniform_map,
    with_references,
)

MAP = torch.tensor([[[1.0, 3.0], [0.0, 4.0]]])
MASK = torch.tensor([[[True, True], [False, False]]])


def focus_on_4_by_4(maps: Tensor, masks: Tensor) -> Tensor:
    return focus_index(maps, masks, (4, 4))


WITH_MASK = [
    energy_inside,
    lift,
    focus_on_4_by_4,
    pointing_game,
    pixel_auc,
    rank_accuracy,
    object_iou,
    object_recall,
    object_precision,
]
WITHOUT = [spread, coverage, entropy, border_share, centre_distance]
TIED = st.lists(st.integers(0, 3), min_size=6, max_size=6)  # as many equal pixels as can be, and dead maps


def square(size: int = 16, start: int = 4, stop: int = 10) -> Tensor:
    mask = torch.zeros(1, size, size, dtype=torch.bool)
    mask[:, start:stop, start:stop] = True
    return mask


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        (energy_inside, 4 / 8),
        (lift, (4 / 8) / (2 / 4)),
        (pointing_game, 0.0),
        (pixel_auc, 2 / 4),  # 1 > 0, 1 < 4, 3 > 0, 3 < 4
        (rank_accuracy, 1 / 2),  # of the two highest, 4 and 3, the second
        (object_iou, 1 / 3),  # 3 of 1, 3 and 4
        (object_recall, 1 / 2),  # 3 and 4 reach half of 4; of the object's two pixels one does
        (object_precision, 1 / 2),
    ],
)
def test_by_hand(measure: Callable[[Tensor, Tensor], Tensor], expected: float) -> None:
    assert measure(MAP, MASK).tolist() == pytest.approx([expected])


def test_shape_measures_by_hand() -> None:
    assert coverage(MAP).tolist() == [0.5]
    assert entropy(torch.tensor([[[2.0, 0.0], [0.0, 2.0]]])).tolist() == pytest.approx([0.5])  # log 2 / log 4
    assert centre(MAP)[0].tolist() == pytest.approx([1 / 2, 1 / 8 * 1 / 4 + 7 / 8 * 3 / 4])
    assert centre_distance(MAP).tolist() == pytest.approx([3 / 16])
    # Mass 1/8 at x = 1/4, 7/8 at x = 3/4; half at y = 1/4: var = 7/64 * 1/4 and 1/4 * 1/4.
    assert spread(MAP).tolist() == pytest.approx([math.sqrt(7 / 256 + 1 / 16)])
    corners = torch.zeros(1, 100, 100)
    corners[0, 0, 0] = corners[0, -1, -1] = 5
    assert spread(corners).item() == pytest.approx(math.sqrt(2) * 0.495)
    assert spread(uniform_map(200, 300)[None]).item() == pytest.approx(math.sqrt(1 / 6), abs=1e-4)
    point = torch.zeros(1, 7, 9)
    point[0, 2, 5] = 0.1
    assert spread(point).item() == pytest.approx(0, abs=1e-6)


def test_pixel_auc_counts_equal_pixels_half() -> None:
    maps = torch.tensor([[[2.0, 1.0], [1.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]], [[5.0, 7.0], [4.0, 0.0]]])
    # 2 > 1, 2 > 0, 1 = 1, 1 > 0; then 0 < 1 and 0 = 0, twice; then all four above.
    assert pixel_auc(maps, MASK.expand(3, -1, -1)).tolist() == [3.5 / 4, 1 / 4, 1]
    assert pixel_auc(uniform_map(2, 2)[None], MASK).item() == 0.5
    assert pixel_auc(MAP, torch.ones(1, 2, 2, dtype=torch.bool)).isnan().all()


@given(TIED, st.lists(st.booleans(), min_size=6, max_size=6))
def test_pixel_auc_is_the_mann_whitney_statistic(values: list[int], mask: list[bool]) -> None:
    result = pixel_auc(torch.tensor(values).float().view(1, 2, 3), torch.tensor(mask).view(1, 2, 3)).item()
    inside = [value for value, object_ in zip(values, mask, strict=True) if object_]
    outside = [value for value, object_ in zip(values, mask, strict=True) if not object_]
    if not any(values) or not inside or not outside:
        assert math.isnan(result)
    else:
        u = scipy.stats.mannwhitneyu(inside, outside, method="asymptotic", use_continuity=False).statistic
        assert result == pytest.approx(u / (len(inside) * len(outside)))


def test_pixel_auc_is_exact_on_large_maps() -> None:
    h = w = 1500  # inside * outside is beyond 2^31
    maps = torch.zeros(1, h, w)
    maps[:, :, : w // 2] = 1
    masks = torch.zeros(1, h, w, dtype=torch.bool)
    masks[:, : h // 2] = True
    assert pixel_auc(maps, masks).item() == 0.5
    assert pixel_auc(maps, maps > 0).item() == 1


@given(TIED)
def test_ranks_are_the_average_ranks_centred(values: list[int]) -> None:
    expected = 2 * scipy.stats.rankdata(values) - 7
    assert ranks(torch.tensor(values).float().view(1, 3, 2)).flatten().tolist() == expected.tolist()


@given(st.lists(st.integers(0, 2), min_size=4, max_size=4), st.integers(0, 4))
def test_equal_pixels_are_in_the_top_as_often_as_in_random_order(values: list[int], count: int) -> None:
    orders = list(itertools.permutations(range(4)))
    firsts = [sorted(order, key=lambda i: -values[i])[:count] for order in orders]
    expected = [sum(i in first for first in firsts) / len(orders) for i in range(4)]
    degrees = top(torch.tensor(values).float().view(1, 2, 2), torch.tensor([count]))
    assert degrees.flatten().tolist() == pytest.approx(expected)


def test_rank_accuracy_shares_equal_pixels_and_knows_each_mask_s_size() -> None:
    maps = torch.tensor([[4.0, 1.0, 1.0, 0.0], [4.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]]).view(3, 1, 4)
    masks = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 0], [0, 1, 1, 1]]).bool().view(3, 1, 4)
    # 4 and half of the one 1; the highest is not it; three quarters of each of its three.
    assert rank_accuracy(maps, masks).tolist() == pytest.approx([1.5 / 2, 0, 3 * 0.75 / 3])


def test_threshold_moves_the_area() -> None:
    for measure, expected in [(object_iou, 2 / 3), (object_recall, 1), (object_precision, 2 / 3)]:
        assert measure(MAP, MASK, threshold=0.25).item() == pytest.approx(expected)  # 1, 3 and 4 of at most 4
        assert measure(MAP, MASK, threshold=1.0).item() == 0  # 4 alone
        for wrong in (0.0, 1.5, math.nan):
            with pytest.raises(ValueError, match=f"threshold must be above 0 and at most 1, .*, not {wrong}"):
                measure(MAP, MASK, threshold=wrong)


@given(TIED.filter(any))
def test_entropy_is_that_of_scipy(values: list[int]) -> None:
    assert entropy(torch.tensor(values).float().view(1, 2, 3)).item() == pytest.approx(
        scipy.stats.entropy(values, base=6), abs=1e-6
    )


def test_border_share_by_hand() -> None:
    maps = torch.zeros(1, 4, 6)
    maps[0, 0, 0], maps[0, 1, 1], maps[0, 2, 4] = 1, 2, 5
    assert border_share(maps).tolist() == border_share(maps, 1).tolist() == [1 / 8]
    for wrong in (0, -1, 2):
        with pytest.raises(ValueError, match=f"width must be at least 1 and below half .* 4 x 6 maps, not {wrong}"):
            border_share(maps, wrong)


@given(st.integers(3, 40), st.integers(3, 40), st.data())
def test_border_share_of_a_uniform_map(h: int, w: int, data: st.DataObject) -> None:
    width = data.draw(st.integers(1, (min(h, w) - 1) // 2))
    expected = 1 - (h - 2 * width) * (w - 2 * width) / (h * w)
    assert border_share(uniform_map(h, w)[None], width).item() == pytest.approx(expected, abs=1e-6)


def test_border_share_is_an_eighth_of_the_shorter_side_by_default() -> None:
    assert border_share(uniform_map(32, 32)[None]).item() == pytest.approx(7 / 16)
    maps = random_maps(3, (4, 8), (32, 64), torch.Generator().manual_seed(0))
    assert torch.equal(border_share(maps), border_share(maps, 4))


def test_shape_measures_at_their_limits() -> None:
    point = torch.zeros(1, 100, 100)
    point[0, 0, 0] = 3
    assert entropy(point).item() == 0
    assert border_share(point).item() == 1
    assert centre_distance(point).item() == pytest.approx(math.sqrt(2) * 0.495)
    assert entropy(uniform_map(9, 5)[None]).item() == pytest.approx(1)
    for symmetric in (uniform_map(9, 5), centre_blob(9, 5)):
        assert centre_distance(symmetric[None]).item() == pytest.approx(0, abs=1e-6)


def test_focus_index_by_hand() -> None:
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[:, :, :4] = True  # the left half, exactly representable on a 1 x 2 grid
    # Seen on that grid: 1 | 0, resized to 8 columns: 1, 1, .875, .625 | .375, .125, 0, 0
    best = 3.5 / 4
    maps = torch.zeros(3, 8, 8)
    maps[0], maps[1, :, :4], maps[2, :, 4:] = 1, 1, 1
    expected = [0, (1 - 0.5) / (best - 0.5), (0 - 0.5) / (best - 0.5)]
    assert focus_index(maps, mask.expand(3, -1, -1), (1, 2)).tolist() == pytest.approx(expected)


def test_focus_index_is_0_for_a_uniform_map_and_1_for_the_object_at_the_layer_s_resolution() -> None:
    mask = square()
    assert focus_on_4_by_4(uniform_map(16, 16)[None], mask).item() == pytest.approx(0, abs=1e-6)
    seen = torch.nn.functional.avg_pool2d(mask[:, None].float(), 4)[:, 0]
    assert focus_on_4_by_4(resize(seen, (16, 16)), mask).item() == pytest.approx(1)


def test_focus_index_is_undefined_where_the_grid_sees_no_object() -> None:
    maps = torch.rand(1, 16, 16) + 0.1
    assert focus_index(maps, square(), (1, 1)).isnan().all()
    assert focus_on_4_by_4(maps, torch.ones(1, 16, 16, dtype=torch.bool)).isnan().all()


@pytest.mark.parametrize("measure", WITH_MASK)
def test_dead_maps_and_empty_masks_are_missing_not_zero(measure: Callable[[Tensor, Tensor], Tensor]) -> None:
    maps = torch.rand(3, 16, 16) + 0.1
    maps[0] = 0
    masks = square().repeat(3, 1, 1)
    masks[1] = False
    result = measure(maps, masks)
    assert result.isnan().tolist() == [True, True, False]
    assert result.dtype == torch.float32


@pytest.mark.parametrize("measure", WITHOUT)
def test_dead_maps_are_missing_without_a_mask_too(measure: Callable[[Tensor], Tensor]) -> None:
    maps = torch.rand(2, 16, 16)
    maps[1] = 0
    assert measure(maps).isnan().tolist() == [False, True]
    assert dead_rate(maps).tolist() == [0, 1]


def test_pointing_game_shares_equal_maxima() -> None:
    assert pointing_game(torch.tensor([[[1.0, 2.0], [0.0, 0.0]]]), MASK).item() == 1
    assert pointing_game(torch.ones(1, 2, 2), MASK).item() == 0.5
    assert pointing_game(torch.tensor([[[2.0, 2.0], [2.0, 0.0]]]), MASK).item() == pytest.approx(2 / 3)


@given(st.integers(0, 2**31), st.sampled_from([1e-30, 1e-3, 7.0, 1e30]))
def test_no_measure_knows_the_scale_the_mirror_or_the_other_images(seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(3, 8, 12, generator=generator)
    masks = torch.rand(3, 8, 12, generator=generator) > 0.6
    for measure in WITH_MASK:
        value = measure(maps, masks)
        for other in (
            measure(maps * scale, masks),
            measure(maps.flip(2), masks.flip(2)),
            torch.cat([measure(maps[i : i + 1], masks[i : i + 1]) for i in range(3)]),
        ):
            # Around the middle a rounding error may move a pixel across the half: one pixel of 96 at most here.
            torch.testing.assert_close(other, value, atol=2e-3, rtol=2e-3, equal_nan=True)
    for shape in WITHOUT:
        torch.testing.assert_close(shape(maps * scale), shape(maps), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(shape(maps.flip(1)), shape(maps), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(shape(maps[[2, 0, 1]]), shape(maps)[[2, 0, 1]], atol=1e-6, rtol=1e-6)


@given(st.integers(0, 2**31))
def test_ranges(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(4, 8, 8, generator=generator) ** 4
    masks = torch.rand(4, 8, 8, generator=generator) > 0.5
    for measure in [energy_inside, *WITH_MASK[3:]]:
        assert ((measure(maps, masks) >= 0) & (measure(maps, masks) <= 1 + 1e-6)).all()
    for shape in (entropy, border_share):
        assert ((shape(maps) >= 0) & (shape(maps) <= 1 + 1e-6)).all()
    assert ((centre_distance(maps) >= 0) & (centre_distance(maps) < math.sqrt(0.5))).all()
    assert ((coverage(maps) > 0) & (coverage(maps) <= 1)).all()
    assert ((spread(maps) >= 0) & (spread(maps) <= math.sqrt(0.5))).all()


def test_references_score_as_they_should() -> None:
    mask = square(start=5, stop=11)  # in the middle
    assert lift(uniform_map(16, 16)[None], mask).item() == pytest.approx(1)
    assert lift(centre_blob(16, 16)[None], mask).item() > 1.5
    noise = random_maps(400, (4, 4), (16, 16), torch.Generator().manual_seed(0))
    assert noise.shape == (400, 16, 16)
    assert focus_on_4_by_4(noise, mask.expand(400, -1, -1)).mean().item() == pytest.approx(0, abs=0.05)
    assert torch.equal(noise, random_maps(400, (4, 4), (16, 16), torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("measure", WITH_MASK)
def test_a_uniform_map_knows_nothing(measure: Callable[[Tensor, Tensor], Tensor]) -> None:
    area = square().float().mean().item()
    score = {lift: 1, focus_on_4_by_4: 0, pixel_auc: 0.5, object_recall: 1}.get(measure, area)
    assert measure(uniform_map(16, 16)[None], square()).item() == pytest.approx(score, abs=1e-6)


def test_references_stand_beside_any_measure() -> None:
    maps = random_maps(300, (4, 4), (16, 16), torch.Generator().manual_seed(1))
    maps[7] = 0
    masks = square(start=5, stop=11).repeat(300, 1, 1)  # in the middle
    for measure in (partial(pixel_auc, masks=masks), spread):
        values = with_references(measure, maps, (4, 4), torch.Generator().manual_seed(0))
        assert list(values) == ["map", "random", "centre"]
        torch.testing.assert_close(values["map"], measure(maps), equal_nan=True)
        for value in values.values():
            assert value.isnan().nonzero().tolist() == [[7]]  # all over the same images
        again = with_references(measure, maps, (4, 4), torch.Generator().manual_seed(0))
        assert torch.equal(again["random"].nan_to_num(), values["random"].nan_to_num())
        blob = measure(centre_blob(16, 16).repeat(300, 1, 1))
        torch.testing.assert_close(values["centre"][8:], blob[8:])
    auc = with_references(partial(pixel_auc, masks=masks), maps, (4, 4), torch.Generator().manual_seed(0))
    assert auc["random"].nanmean().item() == pytest.approx(0.5, abs=0.03)
    assert auc["centre"].nanmean().item() > 0.95


def test_everything_stays_on_the_device_of_the_maps() -> None:
    maps, masks = torch.rand(2, 16, 16, device="meta"), torch.ones(2, 16, 16, dtype=torch.bool, device="meta")
    for measure in WITH_MASK:  # on the meta device every operation with a tensor from elsewhere raises
        assert measure(maps, masks).device.type == "meta"
    for shape in [*WITHOUT, dead_rate, live]:
        assert shape(maps).device.type == "meta"
    values = with_references(partial(pixel_auc, masks=masks), maps, (4, 4), torch.Generator())
    assert {value.device.type for value in values.values()} == {"meta"}


def test_views_are_measured_as_their_copies() -> None:
    masks = torch.rand(3, 6, 8) > 0.5
    for view in (torch.rand(1, 6, 8).expand(3, -1, -1), torch.rand(3, 8, 6).transpose(1, 2)):
        for measure in WITH_MASK:
            torch.testing.assert_close(measure(view, masks), measure(view.contiguous(), masks))
        for shape in WITHOUT:
            torch.testing.assert_close(shape(view), shape(view.contiguous()))


def test_centre_blob_is_a_centred_gaussian() -> None:
    blob = centre_blob(9, 13)
    assert blob[4, 6] == blob.max() == 1
    assert torch.equal(blob, blob.flip(0))
    assert torch.equal(blob, blob.flip(1))
    # Two pixels of 9 away from the middle: exp(-(2/9)^2 / (2 / 16))
    assert blob[6, 6].item() == pytest.approx(math.exp(-((2 / 9) ** 2) * 8))

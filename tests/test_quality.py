"""The measures on maps small enough for paper, at their limits, and at the references."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cam_core import (
    centre_blob,
    coverage,
    dead_rate,
    energy_inside,
    focus_index,
    lift,
    object_precision,
    object_recall,
    pointing_game,
    random_maps,
    resize,
    spread,
    uniform_map,
)

MAP = torch.tensor([[[1.0, 3.0], [0.0, 4.0]]])
MASK = torch.tensor([[[True, True], [False, False]]])


def focus_on_4_by_4(maps: Tensor, masks: Tensor) -> Tensor:
    return focus_index(maps, masks, (4, 4))


WITH_MASK = [energy_inside, lift, focus_on_4_by_4, pointing_game, object_recall, object_precision]
WITHOUT = [spread, coverage]


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
        (object_recall, 1 / 2),  # 3 and 4 reach half of 4; of the object's two pixels one does
        (object_precision, 1 / 2),
    ],
)
def test_by_hand(measure: Callable[[Tensor, Tensor], Tensor], expected: float) -> None:
    assert measure(MAP, MASK).tolist() == pytest.approx([expected])


def test_shape_measures_by_hand() -> None:
    assert coverage(MAP).tolist() == [0.5]
    # Mass 1/8 at x = 1/4, 7/8 at x = 3/4; half at y = 1/4: var = 7/64 * 1/4 and 1/4 * 1/4.
    assert spread(MAP).tolist() == pytest.approx([math.sqrt(7 / 256 + 1 / 16)])
    corners = torch.zeros(1, 100, 100)
    corners[0, 0, 0] = corners[0, -1, -1] = 5
    assert spread(corners).item() == pytest.approx(math.sqrt(2) * 0.495)
    assert spread(uniform_map(200, 300)[None]).item() == pytest.approx(math.sqrt(1 / 6), abs=1e-4)
    point = torch.zeros(1, 7, 9)
    point[0, 2, 5] = 0.1
    assert spread(point).item() == pytest.approx(0, abs=1e-6)


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


@settings(deadline=None)
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


@settings(deadline=None)
@given(st.integers(0, 2**31))
def test_ranges(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(4, 8, 8, generator=generator) ** 4
    masks = torch.rand(4, 8, 8, generator=generator) > 0.5
    for measure in (energy_inside, pointing_game, object_recall, object_precision):
        assert ((measure(maps, masks) >= 0) & (measure(maps, masks) <= 1 + 1e-6)).all()
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


def test_centre_blob_is_a_centred_gaussian() -> None:
    blob = centre_blob(9, 13)
    assert blob[4, 6] == blob.max() == 1
    assert torch.equal(blob, blob.flip(0))
    assert torch.equal(blob, blob.flip(1))
    # Two pixels of 9 away from the middle: exp(-(2/9)^2 / (2 / 16))
    assert blob[6, 6].item() == pytest.approx(math.exp(-((2 / 9) ** 2) * 8))

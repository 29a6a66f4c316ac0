"""Pictures by the pixel: colours that mean numbers."""

import inspect

import cv2
import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cam_core import SCALE_MAX, colour_bar, enlarge, heat, heat_bar, overlay
from cam_core.overlay import COLOUR_MAPS, DIFFERENCE_MAX, LESS, MORE, difference_bar, difference_overlay

TABLE = np.rint(matplotlib.colormaps["inferno"](np.arange(256))[:, :3] * 255).astype(int)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
# Machado et al. 2009, table of severity 1: linear RGB as those without one kind of cone see it.
COLOUR_VISION = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def photo(height: int = 6, width: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def flat(value: float, height: int = 6, width: int = 8) -> np.ndarray:
    return np.full((height, width), value, np.float32)


def test_where_the_map_is_zero_the_image_shows_whatever_else_is_there() -> None:
    image, map_ = photo(), flat(0)
    assert np.array_equal(overlay(image, map_), image)
    map_[2, 3], map_[5, 7] = 50, 1
    result = overlay(image, map_)
    untouched = map_ == 0
    assert np.array_equal(result[untouched], image[untouched])
    assert not np.array_equal(result[2, 3], image[2, 3])


@pytest.mark.parametrize("value", [SCALE_MAX, 5, 1e6])
def test_at_the_top_of_the_scale_and_above_it_is_the_top_colour_over_grey(value: float) -> None:
    image = photo()
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].astype(float)
    expected = 0.3 * grey + 0.7 * TABLE[255]
    assert np.abs(overlay(image, flat(value)) - expected).max() <= 1


def test_at_one_the_image_is_grey_under_a_quarter_of_the_opacity() -> None:
    image = photo()
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].astype(float)
    expected = (1 - 0.7 / 4) * grey + 0.7 / 4 * TABLE[64]
    assert np.abs(overlay(image, flat(1)) - expected).max() <= 1


@given(st.integers(0, 2**31))
def test_a_pixel_depends_on_itself_alone(seed: int) -> None:
    rng = np.random.default_rng(seed)
    image, map_ = photo(seed=seed), rng.gamma(1, 1, (6, 8)).astype(np.float32)
    whole = overlay(image, map_)
    y, x = rng.integers(6), rng.integers(8)
    assert np.array_equal(overlay(image[y : y + 1, x : x + 1], map_[y : y + 1, x : x + 1])[0, 0], whole[y, x])
    order = rng.permutation(8)
    assert np.array_equal(overlay(image[:, order], map_[:, order]), whole[:, order])


def test_more_evidence_is_brighter_and_nothing_wraps() -> None:
    ramp = np.linspace(0, 8, 801, dtype=np.float32)[None]
    red = heat(ramp)[0].astype(int).sum(1)
    assert (np.diff(red) >= 0).all()
    assert (heat(ramp)[0, 400:] == heat(ramp)[0, 400]).all()
    on_black = overlay(np.zeros((1, 801, 3), np.uint8), ramp)[0].astype(int).sum(1)
    assert (np.diff(on_black) >= -1).all()
    assert on_black[400] == on_black[-1] > 400


def test_value_v_has_colour_v_of_a_perceptually_uniform_table() -> None:
    values = np.arange(256, dtype=np.float32)[None] / 255 * SCALE_MAX
    assert np.abs(heat(values)[0].astype(int) - TABLE).max() <= 1
    assert np.array_equal(heat(values * 2, scale_max=2 * SCALE_MAX), heat(values))


@pytest.mark.parametrize("name", [name for name in COLOUR_MAPS if name != "jet"])
def test_named_colours_are_those_of_matplotlib(name: str) -> None:
    values = np.arange(256, dtype=np.float32)[None] / 255 * SCALE_MAX
    published = np.rint(matplotlib.colormaps[name](np.arange(256))[:, :3] * 255)
    assert np.abs(heat(values, colours=name)[0] - published).max() <= 1
    image = photo()
    assert np.array_equal(overlay(image, flat(0), colours=name), image)


def test_jet_on_request_from_dark_blue_to_dark_red() -> None:
    low, middle, high = heat(np.array([[0, 2, 4]], np.float32), colours="jet")[0].astype(int)
    assert np.abs(low - (0, 0, 128)).max() <= 1
    assert middle[1] == 255
    assert np.abs(high - (128, 0, 0)).max() <= 1
    image = photo()
    assert np.array_equal(overlay(image, flat(0), colours="jet"), image)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].astype(float)
    assert np.abs(overlay(image, flat(9), colours="jet") - (0.3 * grey + 0.7 * high)).max() <= 1


@given(arrays.arrays(np.float32, (2, 3), elements=FINITE), st.floats(0.01, 1e6), st.sampled_from(sorted(COLOUR_MAPS)))
def test_nothing_wraps_whatever_the_map(map_: np.ndarray, scale_max: float, colours: str) -> None:
    image = photo(2, 3)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].astype(float)
    for pixels, below, top in (
        (
            overlay(image, map_, scale_max=scale_max, colours=colours),
            map_ <= 0,
            heat(map_, scale_max=scale_max, colours=colours),
        ),
        (difference_overlay(image, map_, scale_max=scale_max), map_ == 0, np.where(map_[..., None] < 0, LESS, MORE)),
    ):
        assert np.array_equal(pixels[below], image[below])
        extremes = np.stack([image, np.broadcast_to(grey, image.shape), top])  # a blend is between what it blends
        assert (pixels >= extremes.min(0) - 1).all()
        assert (pixels <= extremes.max(0) + 1).all()


def test_a_difference_of_zero_shows_the_image_and_opposite_ones_swap_the_colours() -> None:
    image = photo()
    assert np.array_equal(difference_overlay(image, flat(0)), image)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].astype(float)
    ground = np.broadcast_to(grey, image.shape)
    for value, opacity in ((DIFFERENCE_MAX / 2, 0.35), (DIFFERENCE_MAX, 0.7), (9, 0.7)):
        for sign, colour in ((1, MORE), (-1, LESS)):
            expected = (1 - opacity) * ground + opacity * np.array(colour)
            assert np.abs(difference_overlay(image, flat(sign * value)) - expected).max() <= 1


@given(arrays.arrays(np.float32, (2, 3), elements=FINITE))
def test_opposite_differences_are_mirror_images(difference: np.ndarray) -> None:
    image = photo(2, 3)
    plus, minus = (
        difference_overlay(image, sign * difference).astype(float) for sign in (np.float32(1), np.float32(-1))
    )
    # Less the ground that both share, what is left of each is its colour at one and the same opacity.
    opacity = 0.7 * np.minimum(np.abs(difference) / DIFFERENCE_MAX, 1)[..., None]
    sign = np.sign(difference)[..., None]
    assert np.abs(plus - minus - opacity * sign * (np.array(MORE) - np.array(LESS))).max() <= 1
    y, x = 1, 2
    assert np.array_equal(difference_overlay(image[y:, x:], difference[y:, x:])[0, 0], plus[y, x])


def lightness_and_hue(colour: np.ndarray) -> np.ndarray:
    lab: np.ndarray = cv2.cvtColor(np.float32(colour)[None, None], cv2.COLOR_RGB2LAB)[0, 0]
    return lab


def test_neither_sign_is_lighter() -> None:
    less, more = (lightness_and_hue(np.array(colour) / 255) for colour in (LESS, MORE))
    assert less[0] == pytest.approx(more[0], abs=1)


@pytest.mark.parametrize("vision", COLOUR_VISION)
def test_the_signs_are_told_apart_with_any_colour_vision(vision: str) -> None:
    matrix = np.array(COLOUR_VISION[vision])
    linear = [(np.array(colour) / 255) ** 2.2 for colour in (LESS, MORE)]
    seen = [lightness_and_hue(np.clip(matrix @ colour, 0, 1) ** (1 / 2.2)) for colour in linear]
    assert np.linalg.norm(seen[0] - seen[1]) > 80  # black and white are 100 apart


def test_bad_maps_are_refused() -> None:
    with pytest.raises(ValueError, match="map_ contains NaN or infinity"):
        overlay(photo(), flat(np.nan))
    with pytest.raises(ValueError, match="map_ contains NaN or infinity"):
        heat(flat(np.inf))
    with pytest.raises(ValueError, match=r"image is \(6, 8\) and map_ \(3, 8\); resize the map"):
        inspect.unwrap(overlay)(photo(), flat(1, height=3))
    with pytest.raises(ValueError, match=r"image is \(6, 8\) and map_ \(3, 8\); resize the map"):
        inspect.unwrap(difference_overlay)(photo(), flat(1, height=3))
    with pytest.raises(ValueError, match="map_ contains NaN or infinity"):
        difference_overlay(photo(), flat(-np.inf))


@pytest.mark.parametrize("scale_max", [0.0, -1.0, np.inf, np.nan])
def test_a_scale_needs_a_top(scale_max: float) -> None:
    for draw in (overlay, difference_overlay):
        with pytest.raises(ValueError, match=f"scale_max must be above 0 and finite, got {scale_max}"):
            draw(photo(), flat(1), scale_max=scale_max)
    for bar in (colour_bar, heat_bar, difference_bar):
        with pytest.raises(ValueError, match=f"scale_max must be above 0 and finite, got {scale_max}"):
            bar(scale_max=scale_max)


def test_unknown_colours_are_refused_with_those_there_are() -> None:
    message = "colours 'rainbow' are unknown; use one of inferno, magma, viridis, cividis, jet"
    with pytest.raises(ValueError, match=message):
        overlay(photo(), flat(1), colours="rainbow")
    with pytest.raises(ValueError, match=message):
        heat(flat(1), colours="rainbow")
    with pytest.raises(ValueError, match=message):
        colour_bar(colours="rainbow")


def test_enlarge_repeats_pixels() -> None:
    image = photo(3, 4)
    large = enlarge(image, 5)
    assert large.shape == (15, 20, 3)
    for dy in range(5):
        for dx in range(5):
            assert np.array_equal(large[dy::5, dx::5], image)


BAR_TOP = 27  # of the ramp: a line of heading and half a line of the tick that stands beside its end


@pytest.mark.parametrize("colours", ["inferno", "jet"])
def test_colour_bar_shows_what_the_overlay_makes_of_a_grey_image(colours: str) -> None:
    bar = colour_bar(200, colours=colours)
    assert bar.shape[0] == 200
    ramp = bar[BAR_TOP : BAR_TOP + 164, 5]
    assert (bar[[BAR_TOP - 1, BAR_TOP + 164], 5] == 255).all()
    grey = np.full((164, 1, 3), 128, np.uint8)
    values = np.linspace(SCALE_MAX, 0, 164, dtype=np.float32)[:, None]
    assert np.array_equal(ramp, overlay(grey, values, colours=colours)[:, 0])
    with pytest.raises(ValueError, match="height must be at least 108 pixels, got 60"):
        colour_bar(60)


@pytest.mark.parametrize("colours", ["inferno", "jet"])
def test_heat_bar_has_the_colours_of_maps_alone(colours: str) -> None:
    bar = heat_bar(200, colours=colours)
    values = np.linspace(SCALE_MAX, 0, 164, dtype=np.float32)[:, None]
    assert np.array_equal(bar[BAR_TOP : BAR_TOP + 164, 5], heat(values, colours=colours)[:, 0])
    with pytest.raises(ValueError, match="height must be at least 108 pixels, got 60"):
        heat_bar(60)


def test_difference_bar_shows_both_signs_around_the_image() -> None:
    bar = difference_bar(201)
    ramp = bar[BAR_TOP : BAR_TOP + 165, 5]
    grey = np.full((165, 1, 3), 128, np.uint8)
    values = np.linspace(DIFFERENCE_MAX, -DIFFERENCE_MAX, 165, dtype=np.float32)[:, None]
    assert np.array_equal(ramp, difference_overlay(grey, values)[:, 0])
    assert (ramp[82] == 128).all()
    assert (bar[BAR_TOP + 82, 18:22] < 50).all()  # its tick
    with pytest.raises(ValueError, match="height must be at least 108 pixels, got 60"):
        difference_bar(60)


@pytest.mark.parametrize("scale_max", [0.4, 1.0, 2.5, 8.0])
def test_a_bar_has_its_ticks_on_any_scale(scale_max: float) -> None:
    for bar, low in (
        (colour_bar(300, scale_max=scale_max), 0.0),
        (heat_bar(300, scale_max=scale_max), 0.0),
        (difference_bar(400, scale_max=scale_max), -scale_max),
    ):
        length = len(bar) - 36
        ticks = BAR_TOP + np.flatnonzero((bar[BAR_TOP:, 20] < 50).all(1))
        whole = [value for value in range(-8, 9) if low < value < scale_max and scale_max - abs(value) >= 1]
        values = sorted({low, *whole, 0, scale_max}, reverse=True)
        assert ticks.tolist() == [BAR_TOP + round((length - 1) * (scale_max - v) / (scale_max - low)) for v in values]

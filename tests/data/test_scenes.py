"""The built-in data set keeps its promises: known masks, known backgrounds, the same object on any of them."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.data import scene_backdrops, scene_objects, scenes

SIZES = {"train": 400, "val": 100, "test": 400}
TEST = range(400)


@cache
def drawn(background_bias: float = 0.5, image_size: int = 32) -> dict[str, scenes.Scenes]:
    return scenes.generate(background_bias=background_bias, image_size=image_size, sizes=SIZES)


@cache
def objects_of_test() -> scene_objects.Objects:
    return scene_objects.draw_objects(np.arange(len(TEST)) % 10, scenes.SEED, 2, TEST, 32)


@cache
def backdrops_of_test() -> scene_backdrops.Backdrops:
    return scene_backdrops.draw_backdrops(objects_of_test().colour, scenes.SEED, 2, TEST, 32)


# ---- the same every time -------------------------------------------------------------------------------------------


def test_the_same_settings_give_the_same_pixels() -> None:
    again = scenes.generate(background_bias=0.5, image_size=32, sizes=SIZES)
    for name, scene in drawn().items():
        np.testing.assert_array_equal(scene.images, again[name].images)
        np.testing.assert_array_equal(scene.masks, again[name].masks)


def test_image_i_does_not_depend_on_how_many_are_drawn() -> None:
    """7 cuts a chunk short and 257 crosses from one chunk to the next."""
    for n in (7, 257):
        fewer = scenes.generate(background_bias=0.5, image_size=32, sizes={"train": n})["train"]
        np.testing.assert_array_equal(fewer.images, drawn()["train"].images[:n])


def test_splits_and_seeds_show_different_images() -> None:
    train, test = drawn()["train"].images[:100], drawn()["test"].images[:100]
    other_seed = scenes.generate(background_bias=0.5, image_size=32, sizes={"train": 100}, seed=1)["train"].images
    kinds = [train, test, drawn()["val"].images, other_seed]
    assert len({image.tobytes() for images in kinds for image in images}) == 400


def test_sizes_and_classes_are_as_documented() -> None:
    assert dict(scenes.SIZES) == {"train": 10_000, "val": 2_000, "test": 2_000}
    assert set(drawn()) == {"train", "val", "test", "own", "other", "background_only", "object_only"}
    for scene in drawn().values():
        assert np.bincount(scene.labels).tolist() == [len(scene.labels) // 10] * 10
    assert len(scene_objects.SHAPES) == len(scene_backdrops.TEXTURES) == len(scene_objects.OUTLINES) == 10


# ---- the same object on any background -----------------------------------------------------------------------------


def test_background_bias_changes_nothing_but_the_background() -> None:
    objects = objects_of_test()
    in_front = (objects.coverage == 1) | (objects.bar == 1)
    never, always = drawn(0.0)["test"], drawn(1.0)["test"]
    np.testing.assert_array_equal(never.images[in_front], always.images[in_front])
    np.testing.assert_array_equal(never.masks, always.masks)
    np.testing.assert_array_equal(never.labels, always.labels)
    behind = (objects.coverage == 0) & (objects.bar == 0)
    assert (never.images[behind] != always.images[behind]).any(axis=1).mean() > 0.5


@pytest.mark.parametrize("variant", ["test", "other", "object_only"])
def test_variants_show_the_same_objects_bars_and_noise(variant: str) -> None:
    objects = objects_of_test()
    in_front = (objects.coverage == 1) | (objects.bar == 1)
    np.testing.assert_array_equal(drawn()[variant].images[in_front], drawn()["own"].images[in_front])
    np.testing.assert_array_equal(drawn()[variant].masks, drawn()["own"].masks)
    np.testing.assert_array_equal(drawn()[variant].labels, drawn()["own"].labels)


def test_where_the_bias_gives_the_own_texture_the_image_is_the_one_of_own() -> None:
    is_own = drawn()["test"].textures == drawn()["test"].labels
    assert is_own.any()
    np.testing.assert_array_equal(drawn()["test"].images[is_own], drawn()["own"].images[is_own])


def test_background_only_is_own_without_the_object() -> None:
    """The pixels that the object does not touch are the same; those of its mask are not, but for a chance match."""
    objects = objects_of_test()
    own, alone = drawn()["own"], drawn()["background_only"]
    untouched = (objects.coverage == 0) | (objects.bar == 1)
    np.testing.assert_array_equal(own.images[untouched], alone.images[untouched])
    assert (own.images[own.masks] != alone.images[own.masks]).any(axis=1).all()
    assert not alone.masks.any()


# ---- masks ---------------------------------------------------------------------------------------------------------


def test_the_mask_is_half_coverage_and_no_bar() -> None:
    objects = objects_of_test()
    masks = drawn()["test"].masks
    np.testing.assert_array_equal(masks, objects.visible)
    assert not masks[objects.coverage < 0.5].any()
    assert not masks[objects.bar > 0.5].any()
    assert masks[(objects.coverage == 1) & (objects.bar == 0)].all()


def test_every_object_can_be_seen_and_none_fills_the_image() -> None:
    share = np.concatenate([scene.masks for scene in (drawn()["train"], drawn()["test"])]).mean(axis=(1, 2))
    assert share.min() > 0.02
    assert share.max() < 0.55
    assert 0.15 < share.mean() < 0.3


def test_a_quarter_of_the_objects_has_a_bar_across_it() -> None:
    barred = (objects_of_test().bar > 0).any(axis=(1, 2)).mean()
    assert abs(barred - 0.25) < 4 * np.sqrt(0.25 * 0.75 / 400)


@pytest.mark.parametrize(("shape", "area"), [("disc", np.pi * 0.92**2), ("square", 1.64**2), ("ring", np.pi * 0.7296)])
def test_coverage_adds_up_to_the_area_of_the_shape(shape: str, area: float) -> None:
    """Known areas of the unit shapes, ring = pi (1 - 0.52^2), drawn with radius 10 in the middle of 32 pixels."""
    outlines = [contour * 10 + 16 for contour in scene_objects.OUTLINES[shape]]
    coverage = scene_objects.filled(iter([outlines]), 1, 32)
    assert coverage.sum() == pytest.approx(100 * area, rel=0.04)


def test_coverage_is_that_of_an_independent_point_in_polygon_test() -> None:
    """Each of ten shapes against matplotlib's, asked at 8 x 8 points per pixel."""
    from matplotlib.path import Path

    points = (np.arange(256) + 0.5) / 8
    grid = np.stack(np.meshgrid(points, points), axis=-1).reshape(-1, 2)
    turn = scene_objects._rotations(np.array([20.0]))[0]
    for shape, unit in scene_objects.OUTLINES.items():
        contours = [contour * 9 @ turn + (14.3, 17.1) for contour in unit]
        inside = np.logical_xor.reduce([Path(contour).contains_points(grid) for contour in contours])
        expected = inside.reshape(32, 8, 32, 8).mean(axis=(1, 3))
        coverage = scene_objects.filled(iter([contours]), 1, 32)[0]
        assert np.abs(coverage - expected).max() < 0.25, shape  # OpenCV fills the line of the border too
        assert np.abs(coverage - expected).mean() < 0.01, shape


def test_an_outline_inside_another_is_a_hole() -> None:
    coverage = scene_objects.filled(iter([[contour * 12 + 16 for contour in scene_objects.OUTLINES["ring"]]]), 1, 32)[0]
    assert coverage[16, 16] == 0
    assert coverage[16, 25] == 1


# ---- backgrounds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [0.0, 0.3, 0.5, 1.0])
def test_the_own_texture_is_there_as_often_as_the_bias_says(bias: float) -> None:
    n = 20_000
    labels = np.arange(n) % 10
    textures = scene_backdrops.choose_textures("train", labels, np.random.default_rng(0).random((n, 3)), bias)
    expected = bias + (1 - bias) / 10
    assert abs((textures == labels).mean() - expected) <= 4 * np.sqrt(expected * (1 - expected) / n)
    others = np.bincount(10 * labels + textures, minlength=100).reshape(10, 10)[~np.eye(10, dtype=bool)] / (n / 10)
    assert np.abs(others - (1 - bias) / 10).max() <= 4.5 * np.sqrt((1 - bias) / 10 / (n / 10))  # equally likely


def test_the_drawn_images_have_the_bias_too() -> None:
    train = drawn(0.5)["train"]
    assert abs((train.textures == train.labels).mean() - 0.55) < 4 * np.sqrt(0.55 * 0.45 / 400)


def test_each_variant_has_the_textures_it_promises() -> None:
    for variant in ("own", "background_only"):
        np.testing.assert_array_equal(drawn()[variant].textures, drawn()[variant].labels)
    assert (drawn()["other"].textures != drawn()["other"].labels).all()
    assert set(drawn()["other"].textures) == set(range(10))
    assert (drawn()["object_only"].textures == -1).all()


def test_textures_on_the_image_are_the_ones_named() -> None:
    """A fresh painting of the named texture is what shows where nothing is in front, up to the noise."""
    objects, backdrops = objects_of_test(), backdrops_of_test()
    free = (objects.coverage == 0) & (objects.bar == 0)
    for variant in ("own", "other", "object_only"):
        scene = drawn()[variant]
        canvas = scene_backdrops.paint_backdrops(backdrops, scene.textures)
        error = (scene.images[free] / 255.0 - canvas[free])[(canvas[free] > 0.2) & (canvas[free] < 0.8)]
        assert abs(error.mean()) < 0.001
        assert error.std() == pytest.approx(scenes.NOISE, rel=0.02)


def test_the_object_contrasts_with_everything_around_it() -> None:
    least = 0.4 - 1e-5
    objects, backdrops = objects_of_test(), backdrops_of_test()
    for k in range(10):
        canvas = scene_backdrops.paint_backdrops(backdrops, np.full(len(TEST), k))
        plain = (backdrops.clutter == 0).all(axis=1)
        distance = np.linalg.norm(canvas - objects.colour[:, None, None], axis=-1)
        assert distance[plain].min() >= least, list(scene_backdrops.TEXTURES)[k]
    assert np.linalg.norm(backdrops.clutter_colours - objects.colour[:, None], axis=-1).min() >= least
    assert np.linalg.norm(objects.bar_colour - objects.colour, axis=-1).min() >= least
    assert np.linalg.norm(objects.colour - scene_objects.GREY, axis=-1).min() >= least


def test_shading_stays_within_its_bound_and_within_the_colour_cube() -> None:
    objects = objects_of_test()
    assert np.abs(objects.paint - objects.colour[:, None, None]).max() <= scene_objects.SHADE + 1e-6
    assert objects.paint.min() >= -1e-6
    assert objects.paint.max() <= 1 + 1e-6


@pytest.mark.parametrize("k", range(10))
@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([16, 32, 45]))
def test_a_texture_is_a_mixture_that_uses_both_colours(k: int, seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    mixture = list(scene_backdrops.TEXTURES.values())[k](
        rng.random((3, 8)), rng.random((3, 32, 32)).astype(np.float32), size
    )
    assert mixture.shape == (3, size, size)
    assert mixture.min() >= 0
    assert mixture.max() <= 1
    assert (np.ptp(mixture, axis=(1, 2)) > 0.4).all()


def test_stripes_run_the_way_their_name_says() -> None:
    rng = np.random.default_rng(0)
    u, cells = rng.random((50, 8)), rng.random((50, 32, 32)).astype(np.float32)
    for name, along, across in (("horizontal stripes", 2, 1), ("vertical stripes", 1, 2)):
        mixture = scene_backdrops.TEXTURES[name](u, cells, 32)
        change = {axis: np.abs(np.diff(mixture, axis=axis)).mean() for axis in (1, 2)}
        assert change[across] > 4 * change[along]


def test_the_checker_is_worth_its_name() -> None:
    """With the greatest period, 12, and no phase: four squares around (6, 6) in units, diagonal ones alike."""
    u = np.zeros((1, 8))
    u[:, 0] = 1.0
    mixture = scene_backdrops._checker(u, np.zeros((1, 32, 32), np.float32), 32)[0]
    corners = [mixture[0, 0], mixture[5, 0], mixture[0, 5], mixture[5, 5]]
    assert corners == [0, 1, 1, 0]


# ---- other sizes and errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 48, 97])
def test_a_scene_is_the_same_at_any_size(size: int) -> None:
    scene = scenes.generate(background_bias=0.5, image_size=size, sizes={"test": 40})["test"]
    reference = drawn()["test"]
    assert scene.images.shape == (40, size, size, 3)
    np.testing.assert_array_equal(scene.textures, reference.textures[:40])
    np.testing.assert_allclose(scene.masks.mean(axis=(1, 2)), reference.masks[:40].mean(axis=(1, 2)), atol=0.035)
    np.testing.assert_allclose(scene.images.mean(axis=(1, 2)), reference.images[:40].mean(axis=(1, 2)), atol=12)


@pytest.mark.parametrize("bias", [-0.1, 1.01, float("nan")])
def test_a_bias_that_is_no_probability_is_refused(bias: float) -> None:
    with pytest.raises(ValueError, match=r"background_bias .* must be between 0 and 1"):
        scenes.generate(background_bias=bias, image_size=32)


def test_images_too_small_to_show_a_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="image_size 15 is too small for the scenes: 16 or more"):
        scenes.generate(background_bias=0.5, image_size=15)

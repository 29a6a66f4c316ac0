"""Ready-made sheets: every map at its place, all on one scale."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from cam_core import Tile, colour_bar, enlarge, heat, heat_bar, overlay, relative_to_mean
from cam_core.engine import Cams
from cam_core.overlay import difference_bar, difference_overlay
from cam_core.sheets import BAR, TILE, difference_column, layer_strips, map_tiles, method_strips, sheet, side_by_side

LAYERS = ("stem", "layer1", "layer4")
LONG = "a very long name of a run, resnet18_onecycle_with_cutout_16 seed 0"


def photos(n: int, height: int = 32, width: int = 32) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, height, width, 3), np.uint8)


def found(n: int, height: int = 32, width: int = 32, seed: int = 0, layers: Sequence[str] = LAYERS) -> Cams:
    """Smooth maps in [0, 1], as a network might give them."""
    raw = torch.rand(len(layers), n, 4, 4, generator=torch.Generator().manual_seed(seed)) ** 3
    maps = torch.nn.functional.interpolate(raw, (height, width), mode="bilinear")
    top = maps.amax((2, 3))
    return Cams(maps / top[..., None, None], top, torch.zeros(n, 10), tuple(layers), ((4, 4),) * len(layers), "gradcam")


def places(page: np.ndarray, part: np.ndarray) -> list[tuple[int, int]]:
    """Where `part` stands on the page, pixel for pixel: (row, column) of its top left corner."""
    height, width = part.shape[:2]
    row = int(part.reshape(height, -1).std(1).argmax())  # the row that is hardest to mistake
    found_at = re.finditer(re.escape(part[row].tobytes()), page.tobytes())
    corners = [divmod(match.start() // 3 - row * page.shape[1], page.shape[1]) for match in found_at]
    return [(y, x) for y, x in corners if np.array_equal(page[y : y + height, x : x + width], part)]


def only_place(page: np.ndarray, part: np.ndarray) -> tuple[int, int]:
    (place,) = places(page, part)
    return place


def assert_laid_out(page: np.ndarray, rows: Sequence[Sequence[np.ndarray]]) -> None:
    """Each tile stands where its row and its column say, and nowhere else."""
    at = np.array([[only_place(page, tile) for tile in row] for row in rows])
    assert (at[:, :, 0] == at[:, :1, 0]).all()
    assert (at[:, :, 1] == at[:1, :, 1]).all()
    assert (np.diff(at[:, 0, 0]) > 0).all()
    assert (np.diff(at[0, :, 1]) > 0).all()


def drawn(cams: Cams, layer: str) -> np.ndarray:
    return relative_to_mean(cams.maps[cams.layers.index(layer)]).numpy()


def test_a_layer_strip_has_images_down_and_layers_across() -> None:
    images, cams = photos(3), found(3)
    page = layer_strips(images, cams, labels=["cat", "dog", "frog"], title="Layers")
    columns = [images, *([overlay(*pair) for pair in zip(images, drawn(cams, layer), strict=True)] for layer in LAYERS)]
    assert_laid_out(page, [[enlarge(column[i], 4) for column in columns] for i in range(3)])
    assert places(page, colour_bar(BAR))
    assert not places(page, difference_bar(BAR))


def test_a_method_strip_has_methods_across_at_one_layer() -> None:
    images = photos(2)
    by_method = {"gradcam": found(2), "layercam": replace(found(2, seed=1), method="layercam")}
    page = method_strips(images, by_method, "layer1", labels=["cat", "dog"])
    rows = [
        [images[i], *(overlay(images[i], drawn(cams, "layer1")[i]) for cams in by_method.values())] for i in range(2)
    ]
    assert_laid_out(page, [[enlarge(tile, 4) for tile in row] for row in rows])


def grey(image: np.ndarray) -> np.ndarray:
    return np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)


def test_two_models_get_a_column_of_the_second_less_the_first() -> None:
    images, by_model = photos(2), {"baseline": found(2), "cutout": found(2, seed=1)}
    first, second = (drawn(cams, "layer4") for cams in by_model.values())
    page = side_by_side(images, by_model, "layer4", labels=["cat", "dog"], title="Models")
    rows = [
        [
            images[i],
            overlay(images[i], first[i]),
            overlay(images[i], second[i]),
            difference_overlay(grey(images[i]), second[i] - first[i]),
        ]
        for i in range(2)
    ]
    assert_laid_out(page, [[enlarge(tile, 4) for tile in row] for row in rows])
    (y, x), (below, same_x) = only_place(page, colour_bar(BAR)), only_place(page, difference_bar(BAR))
    assert x == same_x
    assert below > y + BAR


@pytest.mark.parametrize("count", [1, 3, 10])
def test_other_numbers_of_models_have_no_difference(count: int) -> None:
    images, by_model = photos(2), {f"{LONG} {i}": found(2, seed=i) for i in range(count)}
    page = side_by_side(images, by_model, "stem", labels=[LONG, "черепаха"], title=LONG * 5)
    rows = [[images[i], *(overlay(images[i], drawn(c, "stem")[i]) for c in by_model.values())] for i in range(2)]
    assert_laid_out(page, [[enlarge(tile, 4) for tile in row] for row in rows])
    assert not places(page, difference_bar(BAR))


@pytest.mark.parametrize(
    ("height", "width", "factor"),
    [(32, 32, 4), (28, 28, 5), (96, 96, 2), (224, 224, 1), (32, 96, 2), (256, 60, 1)],
)
def test_images_of_any_size_are_drawn_pixel_by_pixel(height: int, width: int, factor: int) -> None:
    images, cams = photos(1, height, width), found(1, height, width)
    page = layer_strips(images, cams)
    row = [images[0], *(overlay(images[0], drawn(cams, layer)[0]) for layer in LAYERS)]
    assert_laid_out(page, [[enlarge(tile, factor) for tile in row]])


def test_equal_maps_look_equal_whatever_else_is_on_the_page() -> None:
    """A map twice as peaked does not make its neighbour paler, and one of low contrast is not stretched."""
    images, cams = photos(1), found(1)
    flat = replace(cams, maps=torch.ones_like(cams.maps))
    tile = enlarge(overlay(images[0], drawn(cams, "stem")[0]), 4)
    even = enlarge(overlay(images[0], np.ones((32, 32), np.float32)), 4)
    for by_method in ({"a": cams}, {"a": cams, "b": flat}, {"a": cams, "b": found(1, seed=3)}):
        assert places(method_strips(images, by_method, "stem"), tile)
    assert places(method_strips(images, {"a": cams, "b": flat}, "stem"), even)


@pytest.mark.parametrize("colours", ["viridis", "jet"])
def test_other_colours_are_those_of_maps_and_scale(colours: str) -> None:
    images, cams = photos(1), found(1)
    page = layer_strips(images, cams, colours=colours)
    assert places(page, enlarge(overlay(images[0], drawn(cams, "stem")[0], colours=colours), 4))
    assert places(page, colour_bar(BAR, colours=colours))
    alone = sheet(
        [Tile(images[0])], {"map": [Tile(heat(drawn(cams, "stem")[0], colours=colours))]}, colours=colours, bar=heat_bar
    )
    assert places(alone, heat_bar(BAR, colours=colours))
    assert not places(alone, colour_bar(BAR, colours=colours))


def test_a_dead_map_is_the_image_and_says_so_and_has_no_difference() -> None:
    images = photos(2)
    live = np.ones((2, 32, 32), np.float32)
    dead = live * np.array([0, 1], np.float32)[:, None, None]
    tiles = map_tiles(images, dead)
    assert [tile.caption for tile in tiles] == ["no positive evidence", ""]
    assert np.array_equal(tiles[0].image, images[0])
    for pair in ({"a": dead, "b": live}, {"a": live, "b": dead}):
        ((heading, differences),) = difference_column(images, pair).items()
        assert heading == "b − a"
        assert [tile.caption for tile in differences] == ["undefined: a map is dead", ""]
        assert np.array_equal(differences[0].image, grey(images[0]))
    silent = replace(found(2), maps=torch.zeros(3, 2, 32, 32))
    assert len(layer_strips(images, silent)) > len(layer_strips(images, found(2)))  # room for the words


def test_tiles_of_ones_own_may_carry_captions() -> None:
    image, map_ = photos(1)[0], np.ones((32, 32), np.float32)
    tiles = [Tile(overlay(image, map_), "dog 51 %", "wrong")]
    page = sheet([Tile(image, "cat 60 %")], {"ours": tiles}, labels=["cat"])
    assert_laid_out(page, [[enlarge(image, TILE // 32), enlarge(tiles[0].image, TILE // 32)]])


@pytest.mark.parametrize(
    ("images", "by_model", "options", "message"),
    [
        (2, {"a": found(2)}, {"layer": "layer9"}, "layer 'layer9' has no maps; choose one of stem, layer1, layer4"),
        (3, {"a": found(2)}, {}, r"images is \(3, 32, 32\) and the maps are \(2, 32, 32\)"),
        (2, {"a": found(2, 16, 16)}, {}, r"images is \(2, 32, 32\) and the maps are \(2, 16, 16\)"),
        (2, {"a": found(2)}, {"labels": ["cat"]}, "labels has 1 texts for 2 images"),
        (2, {"a": found(2)}, {"colours": "rainbow"}, "colours 'rainbow' are unknown; use one of inferno"),
        (2, {}, {}, "there is no map to draw"),
        (
            2,
            {"a": found(2), "b": replace(found(2), method="layercam")},
            {},
            "by_model mixes the methods gradcam, layercam; compare models with one",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(
    images: int, by_model: Mapping[str, Cams], options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        side_by_side(photos(images), by_model, **{"layer": "stem", **options})  # type: ignore[arg-type]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_maps_may_be_on_a_gpu() -> None:
    images, cams = photos(2), found(2)
    away = replace(cams, maps=cams.maps.cuda())
    np.testing.assert_allclose(layer_strips(images, away).astype(int), layer_strips(images, cams).astype(int), atol=1)
    assert side_by_side(images, {"here": cams, "there": away}, "stem").any()

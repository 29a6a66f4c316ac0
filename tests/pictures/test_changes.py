"""Pages of outcomes hold the images and the maps that they claim to, at the places that they claim."""

import re
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import pytest

from cam_core import Tile, difference_overlay, enlarge, overlay
from cam_core.sheets import NO_DIFFERENCE, NO_EVIDENCE, TILE
from experiments.pictures import changes
from experiments.pictures.changes import (
    NetworkOutputs,
    at_size,
    changed,
    groups,
    mean_and_spread,
    mean_map,
    mean_maps,
    over_seeds,
)
from experiments.training.predictions import Predictions

CLASSES = ("cat", "dog", "frog")
LONG = "resnet18_onecycle_with_cutout_two_holes_of_16_and_more_regularisation"


@pytest.fixture
def last_sheet(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict]:
    """What the last page was made of: rows of tiles and the texts."""
    drawn = []
    page_of = changes.sheet

    def kept(images: Sequence[Tile], columns: dict, differences: dict | None = None, **texts: object) -> np.ndarray:
        drawn.append({"images": images, "columns": columns, "differences": differences or {}} | texts)
        return page_of(images, columns, differences, **texts)

    monkeypatch.setattr(changes, "sheet", kept)
    return lambda: drawn[-1]


def photos(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, 16, 16, 3), np.uint8)


def grids(n: int, seed: int = 0) -> np.ndarray:
    """Maps as runs log them."""
    return np.random.default_rng(seed).uniform(0.1, 2, (n, 4, 4)).astype(np.float16)


def said(predicted: Sequence[int], labels: Sequence[int]) -> Predictions:
    """Each prediction with a probability of 0.8."""
    logits = np.log(np.where(np.array(predicted)[:, None] == np.arange(3), 8, 1)).astype(np.float32)
    return Predictions(logits, np.array(labels))


def stands_on(page: np.ndarray, tile: np.ndarray) -> bool:
    """Whether the picture is on the page, pixel for pixel, at the size that the page gives it."""
    part = enlarge(tile, TILE // 16)
    row = int(part.reshape(len(part), -1).std(1).argmax())
    starts = (match.start() // 3 for match in re.finditer(re.escape(part[row].tobytes()), page.tobytes()))
    corners = [divmod(start - row * page.shape[1], page.shape[1]) for start in starts]
    return any(np.array_equal(page[y : y + len(part), x : x + part.shape[1]], part) for y, x in corners)


def grey(image: np.ndarray) -> np.ndarray:
    return np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)


def test_every_image_is_in_the_group_of_its_outcomes() -> None:
    found = groups(np.array([True, True, False, False]), np.array([True, False, True, False]))
    assert {group: members.tolist() for group, members in found.items()} == {
        "fixed": [False, False, True, False],
        "broken": [False, True, False, False],
        "both wrong": [False, False, False, True],
        "both right": [True, False, False, False],
    }


# Image 0 is fixed; 1 and 3 (cats) and 5 (a dog) are broken; 2 is wrong in both; 4 and 6 are right in both.
LABELS = [1, 0, 2, 0, 1, 1, 0]
BEFORE = said([0, 0, 0, 0, 1, 1, 0], LABELS)
AFTER = said([1, 1, 1, 2, 1, 0, 0], LABELS)


def pair() -> dict[str, NetworkOutputs]:
    return {"baseline": NetworkOutputs(BEFORE, grids(7)), "cutout": NetworkOutputs(AFTER, grids(7, seed=1))}


def test_changed_shows_the_groups_class_by_class(last_sheet: Callable[[], dict]) -> None:
    images = photos(7)
    changed(images, pair(), None, CLASSES, "What changes")
    order = [0, 1, 5, 3, 2, 6, 4]  # of the broken the first cat, the dog, then the second cat
    assert [tile.image.tolist() for tile in last_sheet()["images"]] == images[order].tolist()
    assert last_sheet()["labels"] == [
        "fixed\n1 of 7\ndog",
        "broken\n3 of 7\ncat",
        "broken\ndog",
        "broken\ncat",
        "both wrong\n1 of 7\nfrog",
        "both right\n2 of 7\ncat",
        "both right\ndog",
    ]
    verdicts = {name: [tile.verdict for tile in tiles] for name, tiles in last_sheet()["columns"].items()}
    assert verdicts["baseline"] == ["wrong", "right", "right", "right", "wrong", "right", "right"]
    assert verdicts["cutout"] == ["right", "wrong", "wrong", "wrong", "wrong", "right", "right"]
    assert [tile.caption for tile in last_sheet()["columns"]["cutout"]][:2] == ["dog 80%", "dog 80%"]
    assert "not a proof" in last_sheet()["footer"]
    assert "wrong with baseline, right with cutout" in last_sheet()["footer"]


def test_changed_draws_the_maps_of_the_images_it_shows() -> None:
    images, networks = photos(7), pair()
    page = changed(images, networks, None, CLASSES, "What changes")
    before, after = (at_size(network.maps, (16, 16)) for network in networks.values())
    for i in range(7):
        difference = difference_overlay(grey(images[i]), after[i] - before[i])
        for tile in (images[i], overlay(images[i], before[i]), overlay(images[i], after[i]), difference):
            assert stands_on(page, tile)


def test_changed_shows_a_few_of_each_group(last_sheet: Callable[[], dict]) -> None:
    labels = [0, 1, 2] * 10
    networks = {name: NetworkOutputs(said(labels, labels), grids(30)) for name in ("baseline", LONG)}
    changed(photos(30), networks, None, CLASSES, "What changes")
    assert len(last_sheet()["images"]) == changes.SHOWN
    assert last_sheet()["labels"][0] == "both right\n30 of 30\ncat"
    assert "No image is fixed or broken or both wrong" in last_sheet()["footer"]


def test_changed_tells_the_share_on_the_object_and_dead_maps(last_sheet: Callable[[], dict]) -> None:
    networks = pair()
    networks["cutout"].maps[0] = 0
    masks = np.ones((7, 16, 16), bool)
    changed(photos(7), networks, masks, CLASSES, "What changes")
    captions = {name: tiles[0].caption for name, tiles in last_sheet()["columns"].items()}
    assert captions == {"baseline": "cat 80%\n100% on object", "cutout": f"dog 80%\n{NO_EVIDENCE}"}
    assert last_sheet()["differences"]["cutout − baseline"][0].caption == NO_DIFFERENCE


def test_mean_and_spread_leave_dead_maps_out() -> None:
    maps = np.zeros((3, 2, 1, 2), np.float32)
    maps[0, 0], maps[1, 0] = [2, 0], [1, 1]  # the third seed's is dead
    maps[0, 1] = [2, 0]  # one live map alone
    mean, spread = mean_and_spread(maps)
    np.testing.assert_allclose(mean, [[[1.5, 0.5]], [[2, 0]]])
    np.testing.assert_allclose(spread, [[[0.5**0.5, 0.5**0.5]], [[0, 0]]])


def test_mean_and_spread_are_those_of_numpy_where_all_are_live() -> None:
    maps = np.random.default_rng(0).uniform(0.1, 3, (5, 2, 4, 4)).astype(np.float32)
    mean, spread = mean_and_spread(maps)
    np.testing.assert_allclose(mean, maps.mean(0), rtol=1e-5)
    np.testing.assert_allclose(spread, maps.std(0, ddof=1), rtol=1e-5)


def seed_maps(seeds: int, n: int, seed: int) -> np.ndarray:
    return np.stack([at_size(grids(n, seed + k), (16, 16)) for k in range(seeds)])


def test_over_seeds_draws_mean_spread_and_the_difference_of_means(last_sheet: Callable[[], dict]) -> None:
    images, maps = photos(2), {"baseline": seed_maps(3, 2, 0), "cutout": seed_maps(3, 2, 10)}
    page = over_seeds(images, maps, None, ["cat", "dog"], "Maps")
    (mean, spread), (other, other_spread) = (mean_and_spread(own) for own in maps.values())
    for i in range(2):
        for map_ in (mean, spread, other, other_spread):
            assert stands_on(page, overlay(images[i], map_[i]))
        assert stands_on(page, difference_overlay(grey(images[i]), other[i] - mean[i]))
    names = ["baseline\nmean", "baseline\nspread", "cutout\nmean", "cutout\nspread"]
    assert list(last_sheet()["columns"]) == names
    assert last_sheet()["columns"]["baseline\nspread"][0].caption == f"{spread[0].mean():.2f} on average"
    assert last_sheet()["title"] == "Maps, 3 seeds"
    assert "standard deviation" in last_sheet()["footer"]


def test_over_one_seed_there_is_no_spread(last_sheet: Callable[[], dict]) -> None:
    maps = {name: seed_maps(1, 2, k) for k, name in enumerate(("baseline", LONG, "mixed"))}
    over_seeds(photos(2), maps, None, ["cat", "dog"], "Maps")
    assert list(last_sheet()["columns"]) == list(maps)
    assert not last_sheet()["differences"]
    assert last_sheet()["title"] == "Maps, one seed"
    assert "spread" not in last_sheet()["footer"].lower()


def test_over_seeds_says_which_maps_are_missing(last_sheet: Callable[[], dict]) -> None:
    maps = {"baseline": seed_maps(3, 3, 0), "cutout": seed_maps(3, 3, 5)}
    maps["baseline"][0, 0] = 0
    maps["baseline"][:2, 1] = 0
    maps["baseline"][:, 2] = 0
    over_seeds(photos(3), maps, np.ones((3, 16, 16), bool), ["cat", "dog", "frog"], "Maps")
    mean, spread = ([tile.caption for tile in tiles] for tiles in list(last_sheet()["columns"].values())[:2])
    assert mean == [
        f"100% on object\n1 of 3 seeds: {NO_EVIDENCE}",
        f"100% on object\n2 of 3 seeds: {NO_EVIDENCE}",
        NO_EVIDENCE,
    ]
    assert spread[1:] == ["no spread with fewer than two maps"] * 2
    assert last_sheet()["differences"]["cutout − baseline"][2].caption == NO_DIFFERENCE


def test_a_mean_map_averages_images_within_seeds_first() -> None:
    # Seed 1: one live map, left; seed 2: three live maps, right. Each seed counts the same.
    left, right, dead = np.array([[2, 0]]), np.array([[0, 2]]), np.zeros((1, 2))
    seeds = [np.stack([left, dead, dead]).astype(np.float16), np.stack([right * 5] * 3).astype(np.float16)]
    np.testing.assert_allclose(mean_map(seeds, (1, 2)), [[1, 1]])
    np.testing.assert_allclose(mean_map(seeds[:1], (1, 2)), left)
    assert not mean_map([np.zeros((3, 1, 2))], (1, 2)).any()
    assert not mean_map([np.zeros((0, 1, 2))], (1, 2)).any()


def test_a_mean_map_does_not_depend_on_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = grids(10)
    whole = mean_map([maps], (8, 8))
    monkeypatch.setattr(changes, "CHUNK", 3)
    np.testing.assert_allclose(mean_map([maps], (8, 8)), whole, rtol=1e-5)
    np.testing.assert_allclose(whole, at_size(maps, (8, 8)).mean(0), rtol=1e-5)


def test_mean_maps_have_a_row_for_all_and_for_each_class_there_is(last_sheet: Callable[[], dict]) -> None:
    images, labels = photos(6), np.array([0, 2, 0, 2, 2, 2])  # no dogs
    maps = {"baseline": [grids(6, 0), grids(6, 1)], "cutout": [grids(6, 2), grids(6, 3)], "mixed": [grids(6, 4)] * 2}
    page = mean_maps(images, labels, maps, CLASSES, "Mean maps")
    assert last_sheet()["labels"] == ["all", "cat", "frog"]
    assert [tile.caption for tile in last_sheet()["images"]] == ["mean of 6", "mean of 2", "mean of 4"]
    assert list(last_sheet()["differences"]) == ["cutout − baseline", "mixed − baseline"]
    ground = np.full((16, 16, 3), 128, np.uint8)
    for kept in (labels >= 0, labels == 0, labels == 2):
        own = {name: mean_map([maps_[kept] for maps_ in seeds], (16, 16)) for name, seeds in maps.items()}
        assert stands_on(page, np.rint(images[kept].mean(0)).astype(np.uint8))
        for map_ in own.values():
            assert stands_on(page, overlay(ground, map_))
        assert stands_on(page, difference_overlay(ground, own["mixed"] - own["baseline"]))


def test_mean_maps_show_a_preference_for_the_middle(last_sheet: Callable[[], dict]) -> None:
    centred, even = np.zeros((4, 4, 4)), np.ones((4, 4, 4))
    centred[:, 1:3, 1:3] = 1
    mean_maps(photos(4), np.zeros(4, np.int64), {"even": [even], "centred": [centred]}, CLASSES, "Mean maps")
    assert last_sheet()["columns"]["even"][0].caption == "1.00 to 1.00"
    low, high = map(float, last_sheet()["differences"]["centred − even"][0].caption.split(" to "))
    assert low == -1
    assert high > 1


def test_mean_maps_of_dead_maps_are_marked(last_sheet: Callable[[], dict]) -> None:
    maps = {"baseline": [grids(3)], "cutout": [np.zeros((3, 2, 2))]}  # and of another resolution
    mean_maps(photos(3), np.array([0, 1, 2]), maps, ("all", "all", "b"), "Mean maps")
    assert last_sheet()["labels"] == ["all", "all", "all", "b"]
    for column in (last_sheet()["columns"]["cutout"], last_sheet()["differences"]["cutout − baseline"]):
        assert {tile.caption for tile in column} == {NO_EVIDENCE}


def test_of_very_many_classes_the_first_are_shown_and_the_page_says_so(last_sheet: Callable[[], dict]) -> None:
    number = changes.MOST_CLASSES + 5
    maps = {"a": [grids(number)], "b": [grids(number, 1)]}
    mean_maps(photos(number), np.arange(number), maps, [f"class {i}" for i in range(number)], "Mean maps")
    assert len(last_sheet()["labels"]) == changes.MOST_CLASSES + 1
    assert f"The first {changes.MOST_CLASSES} of {number} classes." in last_sheet()["footer"]


def test_maps_drawn_from_their_own_grid_are_those_of_the_engine() -> None:
    """Resizing commutes with scaling: a logged small map gives the picture that the whole one gave."""
    raw = grids(2).astype(np.float32)
    np.testing.assert_allclose(at_size(raw * 7, (16, 16)), at_size(raw, (16, 16)), rtol=1e-5)
    np.testing.assert_allclose(at_size(raw, (16, 16)).mean((1, 2)), 1, rtol=1e-5)

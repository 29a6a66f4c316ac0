"""Pictures say what the numbers say."""

import cv2
import numpy as np
import pandas as pd
import pytest

from cam_core import colour_bar, enlarge, heat, heat_bar, overlay
from cam_core.names import ALL_METHODS
from cam_core.overlay import difference_overlay
from cam_core.sheets import BAR
from experiments.pictures import sheets
from experiments.pictures.sheets import MOST_WRITTEN, confusion, curves, most_confused
from experiments.pictures.style import METHOD_NAMES, method_name
from experiments.training.predictions import Predictions, confusion_matrix

CLASSES = ("cat", "dog", "frog")
# Softmax of (ln 8, ln 1, ln 1) is (0.8, 0.1, 0.1).
LOGITS = np.log(np.array([[8, 1, 1], [8, 1, 1], [1, 1, 8]], np.float32))
PREDICTIONS = Predictions(LOGITS, np.array([0, 1, 2]))


def contains(page: np.ndarray, part: np.ndarray) -> bool:
    """Whether `part` stands somewhere on the page, pixel for pixel."""
    h, w = part.shape[:2]
    rows, columns = np.nonzero((page[: -h + 1, : -w + 1] == part[0, 0]).all(2))
    return any((page[y : y + h, x : x + w] == part).all() for y, x in zip(rows, columns, strict=True))


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, (3, 16, 16, 3), np.uint8)


@pytest.fixture
def maps() -> np.ndarray:
    """Three maps relative to their mean: left half, right half, dead."""
    maps = np.zeros((3, 16, 16), np.float32)
    maps[0, :, :8] = 2
    maps[1, :, 8:] = 2
    return maps


def test_every_method_has_a_name_for_people() -> None:
    assert set(METHOD_NAMES) == set(ALL_METHODS)
    assert method_name("gradcam++") == "Grad-CAM++"
    assert method_name("hirescam:aug_smooth:eigen_smooth") == "HiResCAM, aug_smooth, eigen_smooth"


def test_verdicts_are_the_predicted_class_and_its_probability() -> None:
    said = sheets.verdicts(PREDICTIONS, np.array([2, 1, 0]), CLASSES)
    assert [(v.caption, v.verdict) for v in said] == [("frog 80%", "right"), ("cat 80%", "wrong"), ("cat 80%", "right")]


def test_notes_tell_the_share_on_the_object_and_dead_maps(maps: np.ndarray) -> None:
    masks = np.zeros((3, 16, 16), bool)
    masks[:, :, :4] = True  # half of the first map's mass, nothing of the second's
    assert sheets.notes(maps, masks) == ["50% on object", "0% on object", sheets.NO_EVIDENCE]
    assert sheets.notes(maps) == ["", "", sheets.NO_EVIDENCE]


def test_a_sheet_shows_every_image_and_every_map_on_the_fixed_scale(images: np.ndarray, maps: np.ndarray) -> None:
    layers = np.stack([maps, maps[::-1]])
    said = sheets.verdicts(PREDICTIONS, np.arange(3), CLASSES)
    page = sheets.layer_sheet(images, layers, ("stem", "layer1"), np.arange(3), said, CLASSES, "a title")
    factor = sheets.TILE // 16
    for i, image in enumerate(images):
        assert contains(page, enlarge(image, factor))
        for layer in layers:
            assert contains(page, enlarge(overlay(image, layer[i]), factor))


@pytest.mark.slow
def test_maps_alone_stand_beside_the_scale_of_their_own_colours(images: np.ndarray, maps: np.ndarray) -> None:
    said = sheets.verdicts(PREDICTIONS, np.arange(3), CLASSES)
    given = images, maps[None], ("stem",), np.arange(3), said, CLASSES, "a title"
    over, alone = sheets.layer_sheet(*given), sheets.layer_sheet(*given, tiles=sheets.heat_tiles)
    assert contains(alone, enlarge(heat(maps[0]), sheets.TILE // 16))
    assert contains(alone, heat_bar(BAR))
    assert not contains(alone, colour_bar(BAR))
    assert contains(over, colour_bar(BAR))


def test_side_by_side_gives_each_variant_its_own_map(images: np.ndarray, maps: np.ndarray) -> None:
    said = sheets.verdicts(PREDICTIONS, np.arange(3), CLASSES)
    variants = {"baseline": maps, "cutout": np.roll(maps, 1, axis=0)}
    page = sheets.side_by_side(images, variants, dict.fromkeys(variants, said), None, list(CLASSES), "a title")
    factor = sheets.TILE // 16
    left, right = (own[1] for own in variants.values())
    grey = np.repeat(cv2.cvtColor(images[1], cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2)
    for tile in (overlay(images[1], left), overlay(images[1], right), difference_overlay(grey, right - left)):
        assert contains(page, enlarge(tile, factor))
    assert not (left == right).all()


def test_of_three_variants_there_is_no_one_difference(images: np.ndarray, maps: np.ndarray) -> None:
    said = sheets.verdicts(PREDICTIONS, np.arange(3), CLASSES)
    pages = [
        sheets.side_by_side(images, dict.fromkeys(names, maps), dict.fromkeys(names, said), None, list(CLASSES), "")
        for names in ("ab", "abc")
    ]
    assert pages[0].shape[1] == pages[1].shape[1]  # image, a, b, b - a; image, a, b, c


def test_cells_of_the_image_grid_are_large_enough_to_need_no_blur(images: np.ndarray, maps: np.ndarray) -> None:
    said = sheets.verdicts(PREDICTIONS, np.arange(3), CLASSES)
    for image, map_, verdict in zip(images, maps, said, strict=True):
        cell = sheets.cell(image, map_, verdict, None)
        assert contains(cell, enlarge(overlay(image, map_), sheets.CELL // 16))


def test_galleries_show_the_chosen_images_alone(images: np.ndarray) -> None:
    page = sheets.gallery(images, np.array([1]), PREDICTIONS, CLASSES, "misclassified")
    factor = sheets.TILE // 16
    assert contains(page, enlarge(images[1], factor))
    assert not contains(page, enlarge(images[0], factor))


def test_the_confusion_matrix_colours_a_row_by_its_share() -> None:
    # Rows 0 and 1 are alike, row 2 is not; scaling a row's counts changes no colour but the written numbers do.
    counts = confusion_matrix(PREDICTIONS, 3)
    assert counts.tolist() == [[1, 0, 0], [1, 0, 0], [0, 0, 1]]
    assert (confusion(counts, CLASSES) != confusion(counts * 7, CLASSES)).any()


def test_of_many_classes_those_that_are_confused_most_are_shown() -> None:
    counts = np.diag(np.full(1000, 90))
    counts[[700, 3, 998], [5, 700, 999]] = [9, 7, 8]
    assert most_confused(counts, 5).tolist() == [3, 5, 700, 998, 999]
    assert most_confused(counts, 4).tolist() == [5, 700, 998, 999]
    assert most_confused(counts[:3, :3], 5).tolist() == [0, 1, 2]
    names = [f"class {i}" for i in range(1000)]
    assert confusion(counts, names).shape == confusion(counts[:MOST_WRITTEN, :MOST_WRITTEN], names[:MOST_WRITTEN]).shape


def test_curves_draw_what_there_is() -> None:
    epochs = pd.Index([1, 2], name="epoch")
    history = pd.DataFrame({"train/loss": [2.0, 1.0], "val/loss": [2.0, 1.5], "val/accuracy": [0.2, 0.5]}, index=epochs)
    plain = curves(history, "a run")
    assert (plain == curves(history.copy(), "a run")).all()
    assert (plain != curves(history.assign(**{"test/accuracy": [0.1, 0.4]}), "a run")).any()
    one_epoch = curves(history.iloc[:1], "a run")
    without = curves(history.iloc[:1].drop(columns="val/accuracy"), "a run")
    assert (one_epoch != without).any()  # a single epoch is a visible dot

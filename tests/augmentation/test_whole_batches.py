"""The whole-batch path does what albumentations does: with the same parameters the same pixels, with its own draws the
same distributions."""

from functools import partial

import albumentations as A
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency, chisquare, ks_2samp

from experiments.augmentation.batch_colour import colour_steps, shift_hsv
from experiments.augmentation.batch_geometry import affine, crop, draw_matrices, flip, geometry_steps
from experiments.augmentation.batch_holes import draw_fills, draw_holes, erase, hole_steps
from experiments.augmentation.batch_step import Step
from experiments.augmentation.declared import colour, geometry, holes
from experiments.augmentation.streams import stream
from experiments.augmentation.whole_batches import Augmentation
from experiments.data import scenes
from experiments.settings.train import TrainSettings

MEAN = np.array([0.2, 0.4, 0.6], np.float32)
MEAN_PIXEL = [51, 102, 153]  # MEAN * 255
N = 4000  # draws per distribution
STREAMS = partial(stream, 0, 0)
# Draws that are distributed alike are told apart with this probability, which the fixed seeds decide once and for all.
UNLIKELY = 1e-3

OFF = {"hflip": 0, "hflip_mode": "random", "affine_p": 0, "crop_padding": 0, "hsv_p": 0, "cutout": False}
EVERYTHING = {
    **{"hflip": 0.5, "affine_p": 0.5, "shift": 0.1, "scale": 0.2, "rotate": 30, "crop_padding": 4, "border": "reflect"},
    **{"hsv_p": 0.5, "hue": 20, "saturation": 30, "value": 20},
    **{"cutout": True, "cutout_size": "4-12", "cutout_p": 0.75, "cutout_holes": 2, "cutout_placement": "inside"},
}


def chosen(**options: object) -> TrainSettings:
    """Settings in which nothing happens to an image but what the options say."""
    return TrainSettings.of(recipe="resnet18", **{**OFF, **options})


def pictures(count: int = 256, side: int = 32) -> np.ndarray:
    return scenes.render("train", range(count), background_bias=0.5, image_size=side)["train"].images


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return pictures()


def replayed(pipeline: A.Compose, images: np.ndarray) -> tuple[np.ndarray, list[list[dict]]]:
    """What albumentations makes of the images, and what it drew: by transform, by image, {} if not applied."""
    pipeline.set_random_seed(0)
    results, drawn = [], []
    for image in images:
        results.append(pipeline(image=image)["image"])
        drawn.append([dict(step.get_applied_params()) for step in pipeline.transforms])
    return np.stack(results), [list(of_one) for of_one in zip(*drawn, strict=True)]


def differences(ours: torch.Tensor, theirs: np.ndarray) -> np.ndarray:
    return np.abs(ours.numpy().astype(int) - theirs.astype(int))


# The same parameters


def test_flips_are_the_same(images: np.ndarray) -> None:
    theirs, _ = replayed(geometry(chosen(hflip=1), 32), images)
    assert not differences(flip(torch.from_numpy(images)), theirs).any()


@pytest.mark.parametrize("border", ["black", "reflect"])
@pytest.mark.parametrize("side", [16, 32, 48])
def test_affine_is_the_same_but_for_rounding(border: str, side: int) -> None:
    options = chosen(affine_p=1, shift=0.2, scale=0.3, rotate=180, border=border)
    images = pictures(64, side)
    theirs, [drawn] = replayed(geometry(options, side), images)
    matrices = torch.tensor(np.stack([one["matrix"] for one in drawn]))
    difference = differences(affine(torch.from_numpy(images), matrices, border), theirs)
    # Versions of OpenCV that round positions to 1/32 pixel differ by 0.2 on average.
    assert difference.mean() < 0.3
    assert (difference > 8).mean() < 0.001


@pytest.mark.parametrize("border", ["black", "reflect"])
@pytest.mark.parametrize("side", [16, 48])
def test_crops_are_the_same(border: str, side: int) -> None:
    images = pictures(64, side)
    theirs, [_, drawn] = replayed(geometry(chosen(crop_padding=5, border=border), side), images)
    offsets = torch.tensor([[one["crop_coords"][1], one["crop_coords"][0]] for one in drawn])
    assert not differences(crop(torch.from_numpy(images), offsets, 5, border), theirs).any()


def test_shifted_colours_are_the_same_to_one_level(images: np.ndarray) -> None:
    # OpenCV itself truncates in its vector code and rounds in its scalar code.
    theirs, [drawn] = replayed(colour(chosen(hsv_p=1, hue=90, saturation=100, value=100)), images)
    shifts = [torch.tensor([one[f"{name}_shift"] for one in drawn]) for name in ("hue", "sat", "val")]
    assert differences(shift_hsv(torch.from_numpy(images), *shifts), theirs).max() <= 1


def noise_of(drawn: dict, image: np.ndarray) -> np.ndarray:
    """albumentations' noise in its holes, on the image."""
    rng = np.random.default_rng(drawn["seed"])
    for left, top, right, bottom in drawn["holes"]:
        image[top:bottom, left:right] = rng.integers(0, 256, (bottom - top, right - left, 3), np.uint8)
    return image


def colours_of(drawn: dict) -> np.ndarray:
    """albumentations' colour of each hole."""
    rng = np.random.default_rng(drawn["seed"])
    return np.stack([rng.integers(0, 256, 3, np.uint8) for _ in drawn["holes"]])


@pytest.mark.parametrize("placement", ["published", "inside"])
@pytest.mark.parametrize("fill", ["mean", "black", "random", "noise"])
@pytest.mark.parametrize("size", ["4-20", "4-8x12-30"])
def test_holes_are_the_same(placement: str, fill: str, size: str, images: np.ndarray) -> None:
    images = images[:64]
    options = {"cutout_placement": placement, "cutout_fill": fill, "cutout_size": size, "cutout_holes": 3}
    theirs, [drawn] = replayed(holes(chosen(cutout=True, **options), MEAN), images)
    fills = {
        "mean": np.array(MEAN_PIXEL, np.uint8)[None, None, None, None],
        "black": np.zeros((1, 1, 1, 1, 3), np.uint8),
        "random": np.stack([colours_of(one) for one in drawn])[:, :, None, None],
        "noise": np.stack([noise_of(one, image.copy()) for one, image in zip(drawn, images, strict=True)])[:, None],
    }
    places = torch.tensor(np.stack([one["holes"] for one in drawn]))
    ours = erase(torch.from_numpy(images), places, torch.from_numpy(fills[fill]))
    assert not differences(ours, theirs).any()


def test_a_whole_pipeline_is_the_same(images: np.ndarray) -> None:
    options = chosen(**EVERYTHING)
    moved, (flips, moves, _, crops) = replayed(geometry(options, 32), images)
    coloured, [shifts] = replayed(colour(options), moved)
    theirs, [erased] = replayed(holes(options, MEAN), coloured)

    def step(apply: object, drawn: list[dict], *parameters: object) -> Step:
        applied = np.array([bool(one) for one in drawn])
        assert applied.mean() > 0.3
        arrays = tuple(
            np.array([read(one if one else drawn[applied.argmax()]) for one in drawn]) for read in parameters
        )
        return Step(apply, applied, arrays)

    steps = [
        step(flip, flips),
        step(partial(affine, border="reflect"), moves, lambda one: one["matrix"]),
        step(partial(crop, padding=4, border="reflect"), crops, lambda one: one["crop_coords"][1::-1]),
        step(shift_hsv, shifts, *(lambda one, key=key: one[f"{key}_shift"] for key in ("hue", "sat", "val"))),
        step(erase, erased, lambda one: one["holes"], lambda one: np.array(MEAN_PIXEL, np.uint8)[None, None, None]),
    ]
    ours = torch.from_numpy(images)
    for one in steps:
        ours = one(ours, 0)
    difference = differences(ours, theirs)
    assert difference.mean() < 0.6
    assert (difference > 8).mean() < 0.006


# Known results


def test_affine_turns_by_a_quarter(images: np.ndarray) -> None:
    # (x, y) goes to (y, 31 - x): counterclockwise.
    quarter = torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 31.0], [0.0, 0.0, 1.0]]).expand(256, 3, 3)
    turned = affine(torch.from_numpy(images), quarter, "black")
    assert np.array_equal(turned.numpy(), np.rot90(images, axes=(1, 2)))


def test_affine_shows_the_border_beyond_the_image(images: np.ndarray) -> None:
    shift = torch.tensor([[1.0, 0.0, 3.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).expand(256, 3, 3)
    black, mirror = (affine(torch.from_numpy(images), shift, border).numpy() for border in ("black", "reflect"))
    assert not black[:, :, :3].any()
    assert np.array_equal(mirror[:, :, :3], images[:, :, 3:0:-1])
    assert np.array_equal(black[:, :, 3:], images[:, :, :-3])


def test_shift_hsv_by_hand() -> None:
    colours = torch.tensor([[255, 0, 0], [255, 0, 0], [90, 90, 90], [200, 100, 100], [10, 20, 30]], dtype=torch.uint8)
    hue = torch.tensor([60.0, -60.0, 60.0, 0.0, 0.0])
    saturation = torch.tensor([0.0, 0.0, 50.0, 255.0, 0.0])
    value = torch.tensor([0.0, 0.0, 10.9, 0.0, -30.9])
    shifted = shift_hsv(colours[:, None, None], hue, saturation, value)[:, 0, 0]
    # Hue is of 180: 60 turns red to green, -60 to blue. Grey stays grey. Full saturation takes the rest of the colour.
    assert shifted.tolist() == [[0, 255, 0], [0, 0, 255], [100, 100, 100], [200, 0, 0], [0, 0, 0]]


sides = st.integers(16, 48)
borders = st.sampled_from(["black", "reflect"])


def random_images(side: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(side).integers(0, 256, (count, side, side, 3), np.uint8)


@given(side=sides, padding=st.integers(1, 64), border=borders, data=st.data())
def test_a_crop_is_a_window_of_the_padded_image(side: int, padding: int, border: str, data: st.DataObject) -> None:
    images = random_images(side)
    offsets = data.draw(st.lists(st.tuples(*2 * [st.integers(0, 2 * padding)]), min_size=3, max_size=3))
    mode = {"black": "constant", "reflect": "reflect"}[border]
    padded = np.pad(images, ((0, 0), (padding, padding), (padding, padding), (0, 0)), mode)
    windows = [one[y : y + side, x : x + side] for one, (y, x) in zip(padded, offsets, strict=True)]
    cropped = crop(torch.from_numpy(images), torch.tensor(offsets), padding, border)
    assert np.array_equal(cropped.numpy(), np.stack(windows))


@given(side=sides, data=st.data())
def test_erase_fills_the_boxes_in_turn(side: int, data: st.DataObject) -> None:
    images, edge = random_images(side), st.integers(0, side)
    boxes = np.array(data.draw(st.lists(st.tuples(*4 * [edge]), min_size=6, max_size=6))).reshape(3, 2, 4)
    fills = np.random.default_rng(1).integers(0, 256, (3, 2, 1, 1, 3), np.uint8)
    expected = images.copy()
    for image in range(3):
        for hole, (left, top, right, bottom) in enumerate(boxes[image]):
            expected[image, top:bottom, left:right] = fills[image, hole]
    erased = erase(torch.from_numpy(images), torch.from_numpy(boxes), torch.from_numpy(fills))
    assert np.array_equal(erased.numpy(), expected)


@given(side=sides, padding=st.integers(1, 8), border=borders)
def test_nothing_changes_where_nothing_is_to_change(side: int, padding: int, border: str) -> None:
    images = torch.from_numpy(random_images(side))
    zero = torch.zeros(3)
    results = [
        affine(images, torch.eye(3).expand(3, 3, 3), border),
        crop(images, torch.full((3, 2), padding), padding, border),
        shift_hsv(images, zero, zero, zero),
        erase(images, torch.full((3, 2, 4), 5), torch.zeros(1, 1, 1, 1, 3, dtype=torch.uint8)),
        flip(flip(images)),
        Step(flip, np.zeros(3, np.bool_))(images, 0),
    ]
    for result in results:
        assert torch.equal(result, images)


def test_a_step_changes_the_chosen_images_each_by_its_own_draws() -> None:
    images = torch.zeros(5, 2, 2, 3, dtype=torch.uint8)

    def add(images: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
        return images + by[:, None, None, None]

    by = np.arange(10, 20, dtype=np.uint8)
    some = np.array([False, True, False, True, True, False, False, True, True, False])
    step = Step(add, some, (by,))
    assert step(images, 0)[:, 0, 0, 0].tolist() == [0, 11, 0, 13, 14]
    assert step(images, 5)[:, 0, 0, 0].tolist() == [0, 0, 17, 18, 0]
    assert Step(add, np.ones(10, np.bool_), (by,))(images, 5)[:, 0, 0, 0].tolist() == [15, 16, 17, 18, 19]
    assert not images.any()


# The same distributions


def theirs(pipeline: A.Compose, side: int = 32) -> list[list[dict]]:
    image = np.zeros((side, side, 3), np.uint8)
    return replayed(pipeline, np.broadcast_to(image, (N, side, side, 3)))[1]


def alike(ours: np.ndarray, reference: np.ndarray) -> bool:
    """Whether two samples of whole numbers may have one distribution (chi-squared test of homogeneity)."""
    values = np.unique(np.concatenate([ours, reference]))
    counts = np.array([[(sample == value).sum() for value in values] for sample in (ours, reference)])
    rare = counts.sum(0) < 10
    counts = np.column_stack([counts[:, ~rare], counts[:, rare].sum(1) + 1])
    return chi2_contingency(counts).pvalue > UNLIKELY


def parts(matrices: np.ndarray, side: int) -> dict[str, np.ndarray]:
    """Angle in degrees, scale and shift in pixels of matrices that turn and scale about the centre."""
    linear, centre = matrices[:, :2, :2], np.full(2, (side - 1) / 2)
    shift = matrices[:, :2, 2] - centre + linear @ centre
    angle = np.degrees(np.arctan2(linear[:, 0, 1], linear[:, 0, 0]))
    return {"angle": angle, "scale": np.sqrt(np.linalg.det(linear)), "x": shift[:, 0], "y": shift[:, 1]}


@pytest.mark.parametrize("side", [16, 48])
def test_matrices_are_drawn_alike(side: int) -> None:
    options = chosen(affine_p=1, shift=0.125, scale=0.3, rotate=45)
    [drawn] = theirs(geometry(options, side), side)
    reference = parts(np.stack([one["matrix"] for one in drawn]), side)
    ours = parts(draw_matrices(options, side, N, np.random.default_rng(0)), side)
    for name in ("angle", "scale"):
        assert ks_2samp(ours[name], reference[name]).pvalue > UNLIKELY
    for name in ("x", "y"):
        assert np.allclose(ours[name], np.rint(ours[name]), atol=1e-4)
        assert alike(np.rint(ours[name]), np.rint(reference[name]))
        assert np.abs(np.rint(ours[name])).max() == side // 8 - 1  # cut towards 0: an eighth itself is never drawn
    assert abs(np.corrcoef(ours["x"], ours["y"])[0, 1]) < 4 / np.sqrt(N)


def test_offsets_are_drawn_alike() -> None:
    options = chosen(crop_padding=2)
    _, drawn = theirs(geometry(options, 32))
    reference = np.array([5 * one["crop_coords"][1] + one["crop_coords"][0] for one in drawn])
    [step] = geometry_steps(options, 32, N, STREAMS)
    assert set(reference) == set(range(25))
    assert alike(step.drawn[0] @ [5, 1], reference)
    assert step.chosen.all()


@pytest.mark.parametrize(("index", "name", "limit"), [(0, "hue", 20), (1, "sat", 30), (2, "val", 40)])
def test_shifts_of_colour_are_drawn_alike(index: int, name: str, limit: int) -> None:
    options = chosen(hsv_p=1, hue=20, saturation=30, value=40)
    [drawn] = theirs(colour(options))
    [step] = colour_steps(options, N, STREAMS)
    assert ks_2samp(step.drawn[index], [one[f"{name}_shift"] for one in drawn]).pvalue > UNLIKELY
    assert 0.99 * limit < np.abs(step.drawn[index]).max() <= limit


@pytest.mark.parametrize("placement", ["published", "inside"])
@pytest.mark.parametrize(
    ("side", "size"),
    [(16, "4-16"), (32, "7"), (48, "8-13"), (16, "16x3-5"), (32, "7x12"), (32, "4-9x4-9"), (48, "8-13x20-24")],
)
def test_holes_are_drawn_alike(placement: str, side: int, size: str) -> None:
    options = chosen(cutout=True, cutout_size=size, cutout_placement=placement, image_size=side)
    [drawn] = theirs(holes(options, MEAN), side)
    reference = np.stack([one["holes"][0] for one in drawn])
    ours = draw_holes(options, side, N, np.random.default_rng(0))[:, 0]
    for view in (
        lambda box: box[:, 0],  # left
        lambda box: box[:, 1],  # top
        lambda box: box[:, 2] - box[:, 0],  # width
        lambda box: box[:, 3] - box[:, 1],  # height
        lambda box: box[:, 2] - box[:, 0] - box[:, 3] + box[:, 1],  # square or not
        lambda box: (box[:, 0] > side // 2) * 2 + (box[:, 1] > side // 2),  # both coordinates together
    ):
        assert alike(view(ours), view(reference))


def boxes(count: int, augment_by: str, **options: object) -> np.ndarray:
    """The hole that either path draws for each of `count` images: left, top, right, bottom (count, 4)."""
    made = chosen(cutout=True, **options)
    if augment_by == "batch":
        return draw_holes(made, made.side, count, np.random.default_rng(0))[:, 0]
    image = np.zeros((made.side, made.side, 3), np.uint8)
    [drawn] = replayed(holes(made, MEAN), np.broadcast_to(image, (count, *image.shape)))[1]
    return np.stack([one["holes"][0] for one in drawn])


@pytest.mark.parametrize("augment_by", ["batch", "albumentations"])
def test_holes_have_the_height_and_the_width_they_should(augment_by: str) -> None:
    white = np.full((50, 32, 32, 3), 255, np.uint8)

    def extents(size: str) -> set[tuple[int, int]]:
        made = chosen(augment_by=augment_by, cutout=True, cutout_size=size, cutout_placement="inside")
        erased = Augmentation(made, 32, MEAN, "cpu", torch.channels_last).examples(white) != 255
        found = [np.nonzero(hole.any(2)) for hole in erased]
        assert all(len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1) for rows, columns in found)
        return {(int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1) for rows, columns in found}

    assert extents("12x20") == {(12, 20)}
    assert extents("20x12") == {(20, 12)}
    assert extents("32x1") == {(32, 1)}
    assert extents("3-4x9") == {(3, 9), (4, 9)}
    assert extents("3-4x8-9") == {(3, 8), (3, 9), (4, 8), (4, 9)}


@pytest.mark.parametrize("augment_by", ["batch", "albumentations"])
def test_published_holes_are_clipped_about_every_centre_alike(augment_by: str) -> None:
    drawn = boxes(2 * N, augment_by, image_size=16, cutout_size="5x8")
    # Rows from centre - 2 on, five of them; columns from centre - 4 on, eight of them.
    expected = [
        (max(column - 4, 0), max(row - 2, 0), min(column + 4, 16), min(row + 3, 16))
        for row in range(16)
        for column in range(16)
    ]
    assert expected[0] == (0, 0, 4, 3)  # in the first corner; each of the 256 centres has a box of its own
    assert expected[8 * 16 + 8] == (4, 6, 12, 11)
    assert expected[-1] == (11, 13, 16, 16)
    found, counts = np.unique(drawn, axis=0, return_counts=True)
    assert set(map(tuple, found.tolist())) == set(expected)
    assert chisquare(counts).pvalue > UNLIKELY


@pytest.mark.parametrize("augment_by", ["batch", "albumentations"])
@pytest.mark.parametrize("placement", ["published", "inside"])
def test_heights_and_widths_are_drawn_independently(placement: str, augment_by: str) -> None:
    drawn = boxes(N, augment_by, cutout_size="3-5x3-5", cutout_placement=placement)
    whole = ((drawn > 0) & (drawn < 32)).all(1)  # touched by no border, so not clipped
    width, height = (drawn[whole, 2:] - drawn[whole, :2]).T
    counts = np.array([[((height == h) & (width == w)).sum() for w in (3, 4, 5)] for h in (3, 4, 5)])
    assert counts.sum() == whole.sum() > N / 2
    assert chi2_contingency(counts).pvalue > UNLIKELY


@pytest.mark.parametrize("augment_by", ["batch", "albumentations"])
@pytest.mark.parametrize("size", ["5", "3-5"])
def test_published_holes_of_one_size_are_squares(size: str, augment_by: str) -> None:
    drawn = boxes(500, augment_by, cutout_size=size)
    whole = ((drawn > 0) & (drawn < 32)).all(1)
    width, height = (drawn[whole, 2:] - drawn[whole, :2]).T
    assert np.array_equal(width, height)
    assert set(width) == set(range(int(size[0]), 6))


@pytest.mark.parametrize(
    ("placement", "size", "expected"),
    [
        ("published", "16", [[[1, 19, 17, 32], [0, 12, 9, 28]], [[0, 8, 10, 24], [0, 0, 8, 16]]]),
        ("published", "8-20", [[[0, 0, 15, 19], [18, 0, 32, 9]], [[13, 0, 27, 9], [24, 0, 32, 6]]]),
        ("inside", "16", [[[5, 14, 21, 30], [0, 10, 16, 26]], [[1, 8, 17, 24], [0, 4, 16, 20]]]),
        ("inside", "8-20", [[[10, 2, 22, 21], [15, 13, 23, 29]], [[24, 12, 32, 26], [18, 20, 26, 31]]]),
    ],
)
def test_a_seed_draws_the_holes_it_has_always_drawn(placement: str, size: str, expected: list[list[list[int]]]) -> None:
    options = chosen(cutout=True, cutout_size=size, cutout_placement=placement, cutout_holes=2)
    assert draw_holes(options, 32, 2, np.random.default_rng(0)).tolist() == expected


def test_fills_are_drawn_alike() -> None:
    options = chosen(cutout=True, cutout_fill="random", cutout_holes=2)
    ours = draw_fills(options, MEAN, N, np.random.default_rng(0)).reshape(-1)
    reference = np.random.default_rng(1).integers(0, 256, ours.shape)
    assert alike(ours // 8, reference // 8)
    assert set(ours) == set(range(256))


@pytest.mark.parametrize(
    ("options", "p"),
    [
        ({"hflip": 0.3}, 0.3),
        ({"affine_p": 0.2}, 0.2),
        ({"hsv_p": 0.25}, 0.25),
        ({"cutout": True, "cutout_p": 0.6}, 0.6),
        ({"grayscale": 0.3}, 0.3),
        ({"random_erasing": 0.4}, 0.4),
    ],
)
def test_transforms_happen_as_often_as_they_should(options: dict[str, object], p: float) -> None:
    made = chosen(**options)
    steps = geometry_steps(made, 32, N, STREAMS), colour_steps(made, N, STREAMS)
    [step] = [*steps[0], *steps[1], *hole_steps(made, 32, MEAN, N, STREAMS)]
    assert step.chosen.mean() == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / N))


def test_published_cutout_erases_what_the_paper_erases() -> None:
    white = np.full((N, 32, 32, 3), 255, np.uint8)
    erased = (batch_path(chosen(cutout=True)).examples(white) != 255).any(3).mean((1, 2))
    # Side clipped at each border: centre c in 0 ... 31 covers min(c + 8, 32) - max(c - 8, 0) pixels, 14 on average.
    # The mean of 4,000 areas with standard deviation below 0.06 lies within 0.004 (four errors).
    assert erased.mean() == pytest.approx((14 / 32) ** 2, abs=0.004)
    assert (erased.min(), erased.max()) == ((8 / 32) ** 2, (16 / 32) ** 2)


def test_what_is_seen_in_holes() -> None:
    white = np.full((50, 32, 32, 3), 255, np.uint8)

    def seen(fill: str) -> list[np.ndarray]:
        options = chosen(cutout=True, cutout_size=8, cutout_fill=fill, cutout_placement="inside")
        return [image[(image != 255).any(2)] for image in batch_path(options).examples(white)]

    assert all((hole == MEAN_PIXEL).all() for hole in seen("mean"))
    assert all((hole == 0).all() for hole in seen("black"))
    assert all(len(np.unique(hole, axis=0)) == 1 for hole in seen("random"))
    assert len({bytes(hole[0]) for hole in seen("random")}) > 45
    assert all(len(np.unique(hole, axis=0)) > 60 for hole in seen("noise"))
    assert len({bytes(hole) for hole in seen("noise")}) == 50


# Epochs


def batch_path(made: TrainSettings, memory_format: torch.memory_format = torch.channels_last) -> Augmentation:
    return Augmentation(made, made.side, MEAN, "cpu", memory_format)


def epoch_of(
    images: np.ndarray, epoch: int = 0, batch_size: int = 16, **options: object
) -> tuple[torch.Tensor, torch.Tensor]:
    """All images of an epoch and, as their labels, their numbers."""
    path = batch_path(chosen(batch_size=batch_size, image_size=images.shape[1], **options))
    batches = list(path.batches(images, np.arange(len(images)), epoch))
    return torch.cat([inputs for inputs, _ in batches]), torch.cat([labels for _, labels in batches])


@pytest.mark.parametrize("side", [16, 32, 48])
@pytest.mark.parametrize("fill", ["mean", "random", "noise"])
def test_an_epoch_is_the_same_again_whatever_the_batches(side: int, fill: str) -> None:
    images = pictures(64, side)
    before = images.copy()
    options = {**EVERYTHING, "cutout_fill": fill}
    inputs, labels = epoch_of(images, 3, **options)
    assert inputs.shape == (64, 3, side, side)
    assert inputs.dtype == torch.float32
    assert sorted(labels.tolist()) == list(range(64))
    for batch_size in (16, 7, 1000):
        again = epoch_of(images, 3, batch_size, **options)
        assert torch.equal(again[0], inputs[: len(again[0])])  # 64 is 9 * 7 + 1, and the last one is left out
        assert torch.equal(again[1], labels[: len(again[1])])
    assert np.array_equal(images, before)


@pytest.mark.parametrize("side", [17, 32])
@pytest.mark.parametrize("fill", ["mean", "noise"])
def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch, side: int, fill: str) -> None:
    images, options = pictures(256, side), {**EVERYTHING, "cutout_fill": fill}
    whole = epoch_of(images, **options)[0]
    monkeypatch.setattr("experiments.augmentation.whole_batches._CPU_CHUNK", 40 * side**2)
    assert torch.equal(epoch_of(images, **options)[0], whole)
    path = batch_path(chosen(batch_size=16, image_size=side))
    assert {len(inputs) for inputs, _ in path.batches(images, np.arange(256), 0)} == {16}


@pytest.mark.parametrize("options", [{"crop_padding": 16}, {"hsv_p": 1, "value": 100}, {"cutout": True}])
def test_other_epochs_and_seeds_are_others(options: dict[str, object], images: np.ndarray) -> None:
    one = np.repeat(images[:1], 256, 0)  # so that the order alone changes nothing
    first = epoch_of(one, 0, **options)
    for epoch, seed in ((1, 0), (0, 1)):
        other = epoch_of(one, epoch, seed=seed, **options)
        assert not torch.equal(other[1], first[1])
        assert (other[0] != first[0]).flatten(1).any(1).float().mean() > 0.95


def test_holes_change_nothing_else(images: np.ndarray) -> None:
    options = {**EVERYTHING, "cutout": False}
    plain, order = epoch_of(images, **options)
    for cutout in (
        {"cutout_size": 8, "cutout_p": 1},
        {"cutout_size": "2-8", "cutout_p": 0.5, "cutout_fill": "noise", "cutout_holes": 1},
        {"cutout_size": 8, "cutout_p": 1, "cutout_placement": "published", "cutout_fill": "random", "cutout_holes": 1},
    ):
        holed, same_order = epoch_of(images, **{**EVERYTHING, **cutout})
        assert torch.equal(order, same_order)
        changed = (plain != holed).any(1)
        assert changed.any()
        assert changed.sum((1, 2)).max() <= 2 * 8 * 8


def test_images_are_what_examples_show_in_the_order_of_the_epoch(images: np.ndarray) -> None:
    path = batch_path(chosen(batch_size=256))
    [(inputs, labels)] = path.batches(images, np.arange(256), 0)
    assert torch.equal(inputs.permute(0, 2, 3, 1).mul(255).round().to(torch.uint8), torch.from_numpy(images)[labels])
    assert np.array_equal(path.examples(images), images)
    changed = batch_path(chosen(**EVERYTHING)).examples(images)
    assert changed.shape == images.shape
    assert (changed != images).mean() > 0.5


def test_the_images_given_are_the_ones_that_come_back(images: np.ndarray) -> None:
    path, labels = batch_path(chosen(batch_size=64, hflip=0.5)), np.arange(256)
    first = torch.cat([inputs for inputs, _ in path.batches(images, labels, 0)])
    darker = torch.cat([inputs for inputs, _ in path.batches(images // 2, labels, 0)])
    assert darker.mean() < 0.6 * first.mean()
    for inputs, _ in path.batches(images, labels, 0):
        inputs.zero_()
    assert torch.equal(torch.cat([inputs for inputs, _ in path.batches(images, labels, 0)]), first)


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_batches_are_laid_out_as_asked(memory_format: torch.memory_format, images: np.ndarray) -> None:
    path = batch_path(chosen(batch_size=50, **EVERYTHING), memory_format)
    for inputs, labels in path.batches(images, np.arange(256), 0):
        assert inputs.is_contiguous(memory_format=memory_format)
        assert 0 <= inputs.min() < inputs.max() <= 1
        assert labels.dtype == torch.int64


def test_mixed_precision_around_it_changes_nothing(images: np.ndarray) -> None:
    plain = epoch_of(images, **EVERYTHING)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(epoch_of(images, **EVERYTHING)[0], plain)


def test_a_last_batch_of_one_is_left_out() -> None:
    path = batch_path(chosen(batch_size=4))
    for n in range(2, 14):
        batches = list(path.batches(np.zeros((n, 16, 16, 3), np.uint8), np.zeros(n, np.int64), 0))
        assert len(batches) == n // 4 + (n % 4 > 1)
        assert all(len(inputs) == len(labels) > 1 for inputs, labels in batches)


@pytest.mark.parametrize("augment_by", ["batch", "albumentations"])
def test_alternating_flips_alternate(augment_by: str, images: np.ndarray) -> None:
    def mirrored(epoch: int, seed: int = 0, hflip: float = 0.3) -> np.ndarray:
        made = chosen(augment_by=augment_by, hflip=hflip, hflip_mode="alternating", seed=seed, batch_size=50)
        path = Augmentation(made, 32, MEAN, "cpu", torch.channels_last)
        batches = list(path.batches(images, np.arange(256), epoch))
        labels = torch.cat([labels for _, labels in batches]).numpy()
        seen = torch.cat([inputs for inputs, _ in batches]).permute(0, 2, 3, 1).mul(255).round().to(torch.uint8)
        assert torch.equal(flip(seen), torch.from_numpy(images[labels])) == (hflip == 1)
        as_is = (seen.numpy() == images[labels]).all((1, 2, 3))
        flipped = (seen.numpy()[:, :, ::-1] == images[labels]).all((1, 2, 3))
        assert (as_is ^ flipped).all()
        return flipped[labels.argsort()]

    first = mirrored(0)
    assert first.mean() == pytest.approx(0.3, abs=4 * np.sqrt(0.3 * 0.7 / 256))
    assert np.array_equal(mirrored(1), ~first)
    assert np.array_equal(mirrored(2), first)
    assert not np.array_equal(mirrored(0, seed=1), first)
    assert mirrored(0, hflip=1).all()
    assert not mirrored(1, hflip=0).any()
    other = {"batch": "albumentations", "albumentations": "batch"}[augment_by]
    same = chosen(augment_by=other, hflip=0.3, hflip_mode="alternating")
    shown = Augmentation(same, 32, MEAN, "cpu", torch.channels_last).examples(images)
    assert np.array_equal((shown == images[:, :, ::-1]).all((1, 2, 3)), first)


def test_the_settings_choose_the_path(images: np.ndarray) -> None:
    paths = {name: Augmentation(chosen(augment_by=name, **EVERYTHING), 32, MEAN) for name in WAYS}
    shown = {name: path.examples(images[:8]) for name, path in paths.items()}
    assert np.array_equal(shown["auto"], shown["batch"])
    assert not np.array_equal(shown["albumentations"], shown["batch"])
    assert str(paths["batch"]) == str(paths["albumentations"])
    assert "CoarseDropout" in str(paths["batch"])


WAYS = ("auto", "batch", "albumentations")


def test_both_paths_take_the_images_in_the_same_order(images: np.ndarray) -> None:
    orders = []
    for augment_by in ("batch", "albumentations"):
        path = Augmentation(chosen(augment_by=augment_by, seed=3), 32, MEAN, "cpu", torch.channels_last)
        orders.append(torch.cat([labels for _, labels in path.batches(images, np.arange(256), 5)]))
    assert torch.equal(*orders)

"""The space of a study: what is proposed, found again, counted and named."""

import itertools
from random import Random

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.trial import FixedTrial

from experiments.settings.train import TrainSettings
from experiments.study.settings import FILLS, PLACEMENTS, TuneSettings
from experiments.study.space import (
    FILL,
    HEIGHT,
    HOLES,
    P_STEP,
    PLACEMENT,
    PROBABILITY,
    SIZE,
    WIDTH,
    Space,
    as_words,
    label,
)

STEPS = [round(P_STEP * step, 2) for step in range(1, 21)]


def two_of(values: list) -> st.SearchStrategy:
    """Least and greatest."""
    return st.tuples(st.sampled_from(values), st.sampled_from(values)).map(sorted).map(tuple)


# The fields of a space of 32-pixel images; made into one by the test, for its types are checked at random.
FIELDS = st.tuples(
    two_of(list(range(1, 7))) | st.tuples(st.just(0), st.integers(1, 6)),
    two_of(list(range(1, 33))),
    st.booleans(),
    two_of(STEPS),
    st.lists(st.sampled_from(FILLS), min_size=1, unique=True).map(tuple),
    st.lists(st.sampled_from(PLACEMENTS), min_size=1, unique=True).map(tuple),
    st.just(32),
)
RANDOM = st.randoms(use_true_random=False)


@given(FIELDS, RANDOM)
def test_what_is_proposed_is_found_again_and_can_be_trained(fields: tuple, random: Random) -> None:
    space = Space(*fields)
    params = {name: random.choice(values) for name, values in space.axes().items()}
    options = space.propose(FixedTrial(params))
    assert space.params_of(options) == (params if params[HOLES] else {HOLES: 0})
    settings = TrainSettings.of(**dict(as_words(options)))
    assert {name: getattr(settings, name) for name in options} == dict(options)


@given(FIELDS, RANDOM)
def test_only_what_is_asked_for_decides(fields: tuple, random: Random) -> None:
    space = Space(*fields)
    params = {name: random.choice(values) for name, values in space.axes().items()}
    trial = FixedTrial(params)
    space.propose(trial)
    assert trial.params == (params if params[HOLES] else {HOLES: 0})


@given(FIELDS, st.integers(0, 2**31))
def test_an_optuna_study_proposes_points_of_the_space(fields: tuple, seed: int) -> None:
    space = Space(*fields)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed))
    trial = study.ask()
    options = space.propose(trial)
    found = space.params_of(options)
    assert found == pytest.approx(trial.params)
    # Optuna takes what is found as it is, without a warning.
    study.enqueue_trial(found)
    assert space.propose(study.ask()) == options


@pytest.mark.parametrize("rectangles", [False, True])
@pytest.mark.parametrize("holes", [(0, 2), (1, 2), (0, 1), (3, 3)])
def test_points_are_the_different_trainings(holes: tuple[int, int], rectangles: bool) -> None:
    space = Space(holes, (7, 9), rectangles, (0.9, 1.0), ("mean", "noise"), ("inside",), 32)
    axes = space.axes()
    every = [
        space.propose(FixedTrial(dict(zip(axes, values, strict=True)))) for values in itertools.product(*axes.values())
    ]
    assert space.points == len({tuple(options.items()) for options in every}) == len({label(one) for one in every})


def test_the_axes_are_every_value_that_may_be_proposed() -> None:
    assert TuneSettings.of(space_size="0.25-0.3", space_p="0.8-1", space_holes="1-2").space.axes() == {
        HOLES: [1, 2],
        SIZE: [8, 9, 10],
        PROBABILITY: [0.8, 0.85, 0.9, 0.95, 1.0],
        FILL: list(FILLS),
        PLACEMENT: list(PLACEMENTS),
    }
    assert list(TuneSettings.of(space_shape="rectangle").space.axes()) == [
        HOLES,
        HEIGHT,
        WIDTH,
        PROBABILITY,
        FILL,
        PLACEMENT,
    ]


def test_shares_of_the_side_become_pixels_and_the_probability_a_step() -> None:
    space = TuneSettings.of(space_size="0.01-1", space_p="0.01-0.99", image_size=48).space
    assert (space.sizes, space.p) == ((1, 48), (0.05, 1.0))
    assert str(space) == (
        "holes 0 to 4, square side 1 (0.0208 of the side) to 48 (1 of the side) pixels, probability 0.05 to 1, "
        "fill mean or black or random or noise, placement published or inside"
    )


OPTIONS = {"cutout": True, HOLES: 2, SIZE: "12", PROBABILITY: 0.5, FILL: "noise", PLACEMENT: "inside"}


@pytest.mark.parametrize(
    "other",
    [
        {HOLES: 5},
        {SIZE: "25"},
        {SIZE: "8-12"},
        {SIZE: "12x20"},
        {PROBABILITY: 0.2},
        {PROBABILITY: 0.333},
        {FILL: "mean"},
        {PLACEMENT: "published"},
    ],
)
def test_settings_outside_the_space_are_no_point_of_it(other: dict[str, object]) -> None:
    space = Space((1, 4), (4, 24), False, (0.25, 1.0), ("noise",), ("inside",), 32)
    assert space.params_of(OPTIONS) == {name: value for name, value in OPTIONS.items() if name != "cutout"} | {SIZE: 12}
    assert space.params_of(OPTIONS | other) is None
    assert space.params_of({"cutout": False}) is None


def test_rectangles_have_a_height_and_a_width() -> None:
    space = TuneSettings.of(space_shape="rectangle").space
    for size, sides in {"12x20": (12, 20), "12": (12, 12)}.items():
        found = space.params_of(OPTIONS | {SIZE: size})
        assert found is not None
        assert (found[HEIGHT], found[WIDTH]) == sides
    assert space.params_of(OPTIONS | {SIZE: "4-12x20"}) is None
    assert space.params_of({"cutout": False}) == {HOLES: 0}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cutout": False}, "no cutout"),
        (OPTIONS, "2 holes of 12 px, p 0.5, noise, inside"),
        (
            OPTIONS | {HOLES: 1, SIZE: "12x20", PROBABILITY: 1.0, FILL: "mean", PLACEMENT: "published"},
            "1 hole of 12x20 px",
        ),
        (OPTIONS | {PROBABILITY: 0.95, FILL: "mean"}, "2 holes of 12 px, p 0.95, inside"),
    ],
)
def test_holes_in_a_few_words(options: dict[str, object], words: str) -> None:
    assert label(options) == words


def test_a_rectangle_is_height_x_width_to_the_training() -> None:
    space = Space((1, 1), (6, 20), True, (1.0, 1.0), ("black",), ("inside",), 32)
    params = {HOLES: 1, HEIGHT: 6, WIDTH: 20, PROBABILITY: 1.0, FILL: "black", PLACEMENT: "inside"}
    options = space.propose(FixedTrial(params))
    assert options[SIZE] == "6x20"
    assert TrainSettings.of(**dict(as_words(options))).cutout_sizes == ((6, 6), (20, 20))

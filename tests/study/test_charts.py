"""The charts of a study show its completed trials, and nothing else, with the numbers the study has."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from experiments.pictures.charts import DPI, MARKERS, WIDTH
from experiments.study import charts
from experiments.study.charts import iter_charts

ONE, TWO = ("val/accuracy",), ("val/accuracy", "cam/layer3/focus")
SPACE = {
    "cutout_holes": IntDistribution(0, 4),
    "cutout_size": IntDistribution(4, 24),
    "cutout_height": IntDistribution(4, 24),
    "cutout_width": IntDistribution(4, 24),
    "cutout_p": FloatDistribution(0, 1),
    "cutout_fill": CategoricalDistribution(["mean", "noise"]),
}
SPACE_OF_SQUARES = {name: SPACE[name] for name in ("cutout_holes", "cutout_size", "cutout_p", "cutout_fill")}


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Figure]]:
    """The figures of a study by name; no pixels are drawn, which takes far longer than all else."""
    kept: list[Figure] = []

    def keep(figure: Figure) -> np.ndarray:
        kept.append(figure)
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr(charts, "drawn", keep)

    def of(study: optuna.Study, objectives: Sequence[str] = ONE, **baselines: float) -> dict[str, Figure]:
        kept.clear()
        names = [path for path, _ in iter_charts(study, objectives, baselines)]
        return {name.removeprefix("charts/").removesuffix(".png"): own for name, own in zip(names, kept, strict=True)}

    return of


def new_study(*directions: str) -> optuna.Study:
    return optuna.create_study(directions=directions or ["maximize"])


def add(
    study: optuna.Study,
    ticket: int,
    values: Sequence[float] | None,
    params: Mapping[str, Any],
    state: TrialState = TrialState.COMPLETE,
    **attrs: str,
) -> None:
    study.add_trial(
        optuna.create_trial(
            state=state,
            values=values,
            params=dict(params),
            distributions={name: SPACE[name] for name in params},
            user_attrs={"ticket": ticket, "label": f"trial {ticket}: some holes"} | attrs,
        )
    )


def some_study(n: int, objectives: int = 1, rectangles: bool = False) -> optuna.Study:
    """Every fourth trial has no holes; the objective falls with the size alone."""
    study = new_study(*["maximize"] * objectives)
    random = np.random.default_rng(0)
    sides = ("cutout_height", "cutout_width") if rectangles else ("cutout_size",)
    for ticket in range(n):
        params: dict[str, Any] = {"cutout_holes": ticket % 4}
        size = 0
        if ticket % 4:
            params |= {name: int(random.integers(4, 25)) for name in sides}
            params |= {"cutout_p": float(random.uniform()), "cutout_fill": str(random.choice(["mean", "noise"]))}
            size = params[sides[0]]
        values = [0.9 - 0.01 * size, 0.3 + 0.02 * random.uniform()][:objectives]
        add(study, ticket, values, params)
    return study


def dots(axes: Axes, marker: str = MARKERS[0]) -> list[tuple[float, float]]:
    """Where the axes have this marker, up to rounding."""
    return [
        (float(x), round(float(y), 6))
        for line in axes.lines
        if line.get_marker() == marker and line.get_markersize() != 12
        for x, y in zip(*map(np.ravel, (line.get_xdata(), line.get_ydata())), strict=True)
    ]


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def parameter_panel(figure: Figure, name: str) -> Axes:
    (axes,) = (axes for axes in figure.axes if axes.get_xlabel() == name)
    return axes


def test_every_chart_of_a_full_study_is_a_picture_of_the_usual_width() -> None:
    pictures = dict(iter_charts(some_study(24, objectives=2), TWO, {"no cutout": 0.9}))
    assert list(pictures) == [f"charts/{name}.png" for name in ("history", "importance", "slice", "contour", "pareto")]
    for picture in pictures.values():
        assert picture.dtype == np.uint8
        assert picture.shape[1:] == (int(WIDTH * DPI), 3)
        assert 300 < picture.shape[0] < 1500
        assert picture.min() < 100 < picture.max() == 255


@pytest.mark.parametrize(
    ("trials", "charts"),
    [
        (0, set()),
        (1, set()),
        (2, {"history", "slice"}),
        (10, {"history", "slice"}),  # seven with holes
        (11, {"history", "slice", "importance", "contour"}),  # eight with holes
    ],
)
def test_a_chart_without_enough_trials_is_left_out(
    figures: Callable[..., dict[str, Figure]], trials: int, charts: set[str]
) -> None:
    assert set(figures(some_study(trials))) == charts


def test_where_nothing_varies_there_is_the_course_alone(figures: Callable[..., dict[str, Figure]]) -> None:
    study = new_study()
    for ticket in range(12):
        add(study, ticket, [0.5], {"cutout_holes": 1, "cutout_size": 8})
    assert set(figures(study)) == {"history"}


def test_equally_good_trials_have_no_importance(figures: Callable[..., dict[str, Figure]]) -> None:
    study = new_study()
    for ticket in range(12):
        add(study, ticket, [0.5], {"cutout_holes": 1 + ticket % 3, "cutout_size": 4 + ticket})
    assert set(figures(study)) == {"history", "slice"}


def test_the_course_has_each_trial_by_ticket_the_best_so_far_and_the_baselines(
    figures: Callable[..., dict[str, Figure]],
) -> None:
    study = new_study()
    for ticket, value in ((2, 0.8), (0, 0.7), (3, 0.6), (1, 0.5)):  # as they happened to finish
        add(study, ticket, [value], {})
    figure = figures(study, **{"no cutout": 0.65})["history"]
    (axes,) = figure.axes
    assert dots(axes) == [(0, 70), (1, 50), (2, 80), (3, 60)]
    best, *_ = axes.lines
    assert np.asarray(best.get_ydata()).tolist() == pytest.approx([70, 70, 80, 80])
    assert any(
        np.allclose(np.asarray(line.get_ydata()), [65, 65]) for line in axes.lines if line.get_linestyle() == "--"
    )
    assert axes.get_ylabel() == "validation accuracy (%)"
    assert "no cutout: 65.00 %" in texts(figure)
    assert "at the end trial 2: some holes: 80.00 %" in texts(figure)


def test_where_lower_is_better_the_best_is_the_lowest(figures: Callable[..., dict[str, Figure]]) -> None:
    study = new_study("minimize")
    for ticket, value in enumerate((0.7, 0.9, 0.6)):
        add(study, ticket, [value], {})
    figure = figures(study, ["val/loss"])["history"]
    (axes,) = figure.axes
    assert np.asarray(axes.lines[0].get_ydata()).tolist() == [0.7, 0.7, 0.6]
    assert (axes.get_ylabel(), axes.get_title("left")) == ("validation loss", "better ↓")
    assert "trial 2: some holes: 0.600" in texts(figure)


def test_only_completed_trials_with_finite_values_are_drawn(figures: Callable[..., dict[str, Figure]]) -> None:
    study = new_study()
    for ticket in range(3):
        add(study, ticket, [0.5 + ticket / 10], {"cutout_holes": ticket})
    for ticket, state in enumerate((TrialState.FAIL, TrialState.PRUNED, TrialState.RUNNING, TrialState.WAITING), 3):
        add(study, ticket, None, {"cutout_holes": 4}, state)
    add(study, 7, [float("-inf")], {"cutout_holes": 4})
    drawn = figures(study)
    assert dots(drawn["history"].axes[0]) == [(0, 50), (1, 60), (2, 70)]
    assert dots(drawn["slice"].axes[0]) == [(0, 50), (1, 60), (2, 70)]
    assert "3 completed trials" in texts(drawn["history"])


def test_a_baseline_has_a_marker_of_its_own(figures: Callable[..., dict[str, Figure]]) -> None:
    study = new_study()
    add(study, 0, [0.6], {}, baseline="no cutout")  # has no parameters
    add(study, 1, [0.7], {"cutout_holes": 1}, baseline="published hole")
    add(study, 2, [0.8], {"cutout_holes": 2})
    drawn = figures(study, **{"no cutout": 0.6, "published hole": 0.7})
    (course,) = drawn["history"].axes
    assert [dots(course, marker) for marker in MARKERS[:3]] == [
        [(2, 80)],
        [(0, 60)],
        [(1, 70)],
    ]
    (holes,) = drawn["slice"].axes
    assert [dots(holes, marker) for marker in MARKERS[:3]] == [[(2, 80)], [], [(1, 70)]]


def test_a_panel_has_the_trials_that_have_its_parameter_and_their_medians(
    figures: Callable[..., dict[str, Figure]],
) -> None:
    study = new_study()
    add(study, 0, [0.50], {"cutout_holes": 0})
    for ticket, (fill, value) in enumerate((("noise", 0.6), ("mean", 0.7), ("noise", 0.8), ("noise", 0.61)), 1):
        add(study, ticket, [value], {"cutout_holes": 1, "cutout_size": 4 + ticket, "cutout_fill": fill})
    figure = figures(study)["slice"]
    assert sorted(dots(parameter_panel(figure, "holes")))[0] == (0, 50)
    assert dots(parameter_panel(figure, "side of a hole (px)")) == [(5, 60), (6, 70), (7, 80), (8, 61)]
    fill = parameter_panel(figure, "fill")
    assert [label.get_text() for label in fill.get_xticklabels()] == ["mean", "noise"]
    assert dots(fill) == [(1, 60), (0, 70), (1, 80), (1, 61)]
    medians = [np.asarray(line.get_ydata())[0] for line in fill.lines if line.get_linewidth() == 2.5]
    assert medians == pytest.approx([61])  # of 60, 61 and 80; a single trial has none


def test_trials_far_worse_are_arrows_at_the_end_of_the_axis(figures: Callable[..., dict[str, Figure]]) -> None:
    study = new_study()
    for ticket, value in enumerate((0.90, 0.91, 0.92, 0.93, 0.10)):
        add(study, ticket, [value], {"cutout_holes": ticket % 2})
    figure = figures(study)["history"]
    (axes,) = figure.axes
    # The quartiles are 90 and 92: the axis ends three times their distance below.
    assert axes.get_ylim()[0] == pytest.approx(84)
    assert dots(axes, "v") == [(4, 84)]
    assert "beyond the axis" in texts(figure)
    assert "beyond the axis" not in texts(figures(some_study(12))["history"])


def test_the_parameter_that_alone_decides_is_the_most_important_by_both(
    figures: Callable[..., dict[str, Figure]],
) -> None:
    figure = figures(some_study(48))["importance"]
    assert "the 36 of 48 trials that have all of these parameters" in texts(figure)
    assert "few trials" not in texts(figure)
    assert figure.axes[0].get_yticklabels()[0].get_text() == "side of a hole (px)"
    for axes in figure.axes:
        widths = [bar.get_width() for bar in axes.patches]
        assert sum(widths) == pytest.approx(100)
        assert widths[0] == max(widths) > 50


def test_few_trials_are_called_so_and_asking_leaves_no_trace(figures: Callable[..., dict[str, Figure]]) -> None:
    study, told = some_study(24), optuna.logging.get_verbosity()
    assert "few trials" in texts(figures(study)["importance"])
    assert optuna.logging.get_verbosity() == told
    assert len(study.trials) == 24


def test_a_range_that_was_changed_between_trials_has_importances(figures: Callable[..., dict[str, Figure]]) -> None:
    study = some_study(24)
    for ticket in range(24, 30):
        params = {"cutout_holes": 6, "cutout_size": 30, "cutout_p": 0.5, "cutout_fill": "mean"}
        wider = {"cutout_holes": IntDistribution(0, 8), "cutout_size": IntDistribution(4, 32)}
        attrs = {"ticket": ticket, "label": f"trial {ticket}"}
        study.add_trial(
            optuna.create_trial(params=params, distributions=SPACE_OF_SQUARES | wider, value=0.5, user_attrs=attrs)
        )
    assert "the 24 of 30 trials" in texts(figures(study)["importance"])


@pytest.mark.parametrize(
    ("rectangles", "pairs"),
    [
        (
            False,
            [
                ("side of a hole (px)", "holes"),
                ("side of a hole (px)", "probability of holes"),
                ("holes", "probability of holes"),
            ],
        ),
        (
            True,
            [
                ("width of a hole (px)", "height of a hole (px)"),
                ("holes", "probability of holes"),
                ("height of a hole (px)", "holes"),
            ],
        ),
    ],
)
def test_contours_are_of_at_most_three_pairs_with_every_trial_that_has_both(
    figures: Callable[..., dict[str, Figure]], rectangles: bool, pairs: list[tuple[str, str]]
) -> None:
    study = some_study(16, rectangles=rectangles)
    *panels, bar = figures(study)["contour"].axes
    assert [(axes.get_xlabel(), axes.get_ylabel()) for axes in panels] == pairs
    assert bar.get_ylabel() == "validation accuracy (%)"
    dots = panels[0].collections[-1]
    side = "cutout_width" if rectangles else "cutout_size"
    having = [trial for trial in study.trials if side in trial.params]
    assert len(having) == len(dots.get_offsets()) == 12
    assert sorted(np.asarray(dots.get_offsets())[:, 0]) == sorted(trial.params[side] for trial in having)
    assert sorted(np.asarray(dots.get_array())) == pytest.approx(sorted(100 * trial.value for trial in having))


def test_the_mean_nearby_is_the_value_of_one_trial_halfway_between_two_and_unknown_far_away() -> None:
    points = np.array([[0.0, 0.0], [0.2, 0.0]])
    grid = np.array([[0.0, 0.0], [0.1, 0.0], [1.0, 1.0]])
    means = charts._nearby_mean(points, np.array([10.0, 20.0]), grid)
    assert means[0, 1] == pytest.approx(15)
    # The other is 0.2 away: its weight is exp(-0.2 ** 2 / (2 * 0.15 ** 2)).
    weight = np.exp(-(0.2**2) / (2 * 0.15**2))
    assert means[0, 0] == pytest.approx((10 + 20 * weight) / (1 + weight))
    assert np.isnan(means[2]).all()
    assert np.isnan(means[0, 2])


def test_the_front_has_the_numbers_of_the_trials_optuna_calls_best(figures: Callable[..., dict[str, Figure]]) -> None:
    study = new_study("maximize", "minimize")
    random = np.random.default_rng(1)
    for ticket in range(30):
        add(study, ticket, random.uniform(size=2).round(1).tolist(), {})
    add(study, 30, [0.55, 0.55], {}, baseline="no cutout")
    figure = figures(study, ("val/accuracy", "cam/layer3/entropy"))["pareto"]
    (axes,) = figure.axes
    assert {int(text.get_text()) for text in axes.texts} == {trial.user_attrs["ticket"] for trial in study.best_trials}
    assert sorted(dots(axes)) == sorted((100 * trial.values[0], trial.values[1]) for trial in study.trials[:30])
    assert dots(axes, MARKERS[1]) == [(pytest.approx(55), 0.55)]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("validation accuracy (%)", "entropy of layer3")
    assert (axes.get_title("right"), axes.get_title("left")) == ("better →", "better ↓")
    assert "no cutout" in texts(figure)


def test_three_objectives_are_two_trade_offs_with_the_first(figures: Callable[..., dict[str, Figure]]) -> None:
    study = new_study(*["maximize"] * 3)
    for ticket, values in enumerate(([0.1, 0.2, 0.9], [0.2, 0.1, 0.3], [0.1, 0.1, 0.3])):
        add(study, ticket, values, {})
    drawn = figures(study, (*TWO, "cam/layer4/focus"))
    assert [axes.get_ylabel() for axes in drawn["pareto"].axes] == ["focus of layer3", "focus of layer4"]
    assert [[text.get_text() for text in axes.texts] for axes in drawn["pareto"].axes] == [["0", "1"]] * 2


def test_one_objective_has_no_trade_off(figures: Callable[..., dict[str, Figure]]) -> None:
    assert "pareto" not in figures(some_study(24))


def test_objectives_and_directions_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="argument 2 is longer"):
        list(iter_charts(some_study(4, objectives=2), ONE, {}))

"""Charts show the numbers of their tables, all of them, whatever the names and however many seeds."""

from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from experiments.evidence.differences import Quantity, paired_difference
from experiments.evidence.network_tests import Calibration, by_class, calibration
from experiments.pictures import charts, style
from experiments.pictures.style import COLOURS
from experiments.training.predictions import Predictions

pytestmark = pytest.mark.slow

LONG = "resnet18_onecycle_with_cutout_two_holes_of_16_and_more_regularisation"
NAMES = ("baseline", "cutout", LONG, r"a$\b$_{c}^", "_hidden", *(f"variant_{i}" for i in range(5)))
QUANTITIES = {
    "test/accuracy": Quantity("test accuracy"),
    "gap": Quantity("background gap", "lower"),
    "focus": Quantity("focus index", "neither", share=False),
}


@pytest.fixture
def last_figure(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Figure]:
    """The figure of the last chart; no pixels are drawn, which takes far longer than all else."""
    figures: list[Figure] = []

    def kept(figure: Figure) -> np.ndarray:
        style.without_formulas(figure)
        figures.append(figure)
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr(charts, "drawn", kept)
    return lambda: figures[-1]


def points(axes: Axes) -> list[list[float]]:
    """Where the lines and markers of the axes are, along x."""
    return [np.asarray(line.get_xdata(), float).tolist() for line in axes.lines]


def drawn_at(axes: Axes, *values: float) -> list[Line2D]:
    """The lines or rows of markers at these places along x, up to rounding."""
    return [
        line
        for line in axes.lines
        if len(line.get_xdata()) == len(values) and np.allclose(np.asarray(line.get_xdata(), float), values)
    ]


def texts(figure: Figure) -> list[str]:
    return [text.get_text().replace("\n", " ") for text in figure.findobj(Text) if text.get_text()]


def runs_of(values: dict[str, Sequence[float]], measure: str = "test/accuracy") -> pd.DataFrame:
    return pd.DataFrame(
        {"variant": name, "seed": seed, "run": "r", "reused": False, measure: value}
        for name, own in values.items()
        for seed, value in enumerate(own)
    )


def differences_of(values: dict[str, Sequence[float]], measure: str = "test/accuracy") -> pd.DataFrame:
    """As `Findings.differences` has them."""
    first, *others = values
    rows = []
    for name in others:
        difference = paired_difference(values[name], values[first])
        rows.append(
            {"measure": measure, "variant": name, "against": first} | asdict(difference) | {"seeds": len(values[name])}
        )
    return pd.DataFrame(rows)


def some_values(variants: int, seeds: int) -> dict[str, Sequence[float]]:
    random = np.random.default_rng(0)
    return {name: random.uniform(0.8, 0.9, seeds).tolist() for name in NAMES[:variants]}


def test_a_forest_shows_every_seed_the_mean_and_the_interval(last_figure: Callable[[], Figure]) -> None:
    # Differences 1, 2, 3 points: mean 2, standard error 1 / sqrt(3), t with 2 degrees of freedom 4.3027.
    table = differences_of({"baseline": [0.9, 0.9, 0.9], "cutout": [0.91, 0.92, 0.93]})
    charts.forest(table, QUANTITIES)
    (axes,) = last_figure().axes
    assert drawn_at(axes, 1, 2, 3)
    assert drawn_at(axes, 2)
    assert drawn_at(axes, 2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5)
    assert drawn_at(axes, 0, 0)  # the line of no difference
    assert {"test accuracy (points)", "better →", "+2.00  (-0.48 to +4.48)"} <= set(texts(last_figure()))


def test_below_three_seeds_a_forest_has_dots_alone(last_figure: Callable[[], Figure]) -> None:
    charts.forest(differences_of({"baseline": [0.9, 0.9], "cutout": [0.91, 0.93]}), QUANTITIES)
    (axes,) = last_figure().axes
    assert len(axes.lines) == 2
    assert drawn_at(axes, 1, 3)
    assert any("too few for an interval" in text for text in texts(last_figure()))


def test_each_measure_of_a_forest_has_its_own_scale_and_direction(last_figure: Callable[[], Figure]) -> None:
    values = {"baseline": [0.1, 0.1, 0.1], "cutout": [0.2, 0.3, 0.4]}
    table = pd.concat(differences_of(values, measure) for measure in ("focus", "gap", "unasked"))
    charts.forest(table, QUANTITIES)
    gap, focus = last_figure().axes  # in the order of the quantities
    assert drawn_at(gap, 10, 20, 30)
    assert drawn_at(focus, 0.1, 0.2, 0.3)
    half = 4.30265 * 0.1 / 3**0.5
    assert drawn_at(gap, 20 - 100 * half, 20 + 100 * half)
    assert drawn_at(focus, 0.2 - half, 0.2 + half)
    assert [axes.get_title("right") for axes in (gap, focus)] == ["← better", ""]
    assert [axes.get_title("left") for axes in (gap, focus)] == ["background gap (points)", "focus index"]


def test_a_comparison_with_itself_has_a_forest_at_zero(last_figure: Callable[[], Figure]) -> None:
    values = [0.9, 0.91, 0.92]
    charts.forest(differences_of({"a": values, "b": values}), QUANTITIES)
    (axes,) = last_figure().axes
    assert {value for line in points(axes) for value in line} == {0}
    low, high = axes.get_xlim()
    assert low < 0 < high


def test_a_variant_has_one_colour_and_marker_everywhere(last_figure: Callable[[], Figure]) -> None:
    values = some_values(3, 3)
    charts.forest(differences_of(values), QUANTITIES)
    forest = {(line.get_color(), line.get_marker()) for line in last_figure().axes[0].lines}
    charts.seeds(runs_of(values), QUANTITIES)
    every = {(line.get_color(), line.get_marker()) for line in last_figure().axes[0].lines}
    styles = list(zip(COLOURS, charts.MARKERS, strict=True))
    assert set(styles[:3]) <= every
    assert set(styles[1:3]) <= forest
    assert styles[0] not in forest


def test_seeds_shows_every_run_joins_pairs_and_marks_means(last_figure: Callable[[], Figure]) -> None:
    runs = runs_of({"baseline": [0.80, 0.82], "cutout": [0.83, 0.81]})
    charts.seeds(runs.iloc[::-1].sort_values("variant", kind="stable"), QUANTITIES)  # the order of rows is no pairing
    (axes,) = last_figure().axes
    for pair in ((80, 83), (82, 81)):
        assert drawn_at(axes, *pair)
    for own in ((80, 82), (83, 81)):
        assert drawn_at(axes, *own)
    assert drawn_at(axes, 81, 81)
    assert drawn_at(axes, 82, 82)
    assert axes.get_title("left") == "test accuracy (%)"


def test_one_seed_needs_no_mean(last_figure: Callable[[], Figure]) -> None:
    charts.seeds(runs_of({"baseline": [0.8], "cutout": [0.9]}), QUANTITIES)
    assert sorted(points(last_figure().axes[0])) == [[80], [80, 90], [90]]


def history(*losses: float) -> pd.DataFrame:
    return pd.DataFrame({"val/loss": losses, "train/loss": losses}, index=range(1, len(losses) + 1))


def test_curves_are_the_mean_of_the_seeds_in_a_band_of_all(last_figure: Callable[[], Figure]) -> None:
    charts.curves({"baseline": [history(3, 2), history(1, 1)], "cutout": [history(4, 4), history(6, 2)]})
    loss, accuracy = last_figure().axes
    means = [np.asarray(line.get_ydata()).tolist() for line in loss.lines]
    assert means == [[2, 1.5]] * 2 + [[5, 3]] * 2  # train and val of either
    assert [line.get_linestyle() for line in loss.lines] == [":", "-"] * 2
    band = loss.collections[0].get_paths()[0].vertices
    assert {tuple(corner) for corner in np.asarray(band).tolist()} >= {(1, 1), (1, 3), (2, 1), (2, 2)}
    assert not accuracy.lines
    assert any("mean of 2 seeds, band from the lowest to the highest" in text for text in texts(last_figure()))


def test_a_single_epoch_is_a_marker_with_the_range_of_the_seeds(last_figure: Callable[[], Figure]) -> None:
    charts.curves({"baseline": [history(3), history(1)], "cutout": [history(4)]})
    loss = last_figure().axes[0]
    first, second = (np.asarray(line.get_xdata(), float)[0] for line in loss.lines[::2])
    assert first < 1 < second  # beside each other
    (vertical,) = loss.collections[0].get_segments()
    assert vertical[:, 1].tolist() == [1, 3]


def test_runs_of_different_length_are_averaged_as_far_as_they_go(last_figure: Callable[[], Figure]) -> None:
    charts.curves({"baseline": [history(3, 2), history(1, 1, 5)]})
    assert np.asarray(last_figure().axes[0].lines[0].get_ydata()).tolist() == [2, 1.5, 5]


def binned(accuracy: Sequence[float], count: Sequence[int], ece: float) -> Calibration:
    confidence = np.where(np.array(count) > 0, [0.3, 0.9], np.nan)
    return Calibration(ece, 2 * ece, np.array([0, 0.5, 1]), confidence, np.array(accuracy), np.array(count))


def test_reliability_pools_the_images_of_the_seeds(last_figure: Callable[[], Figure]) -> None:
    # Bin 1: 20 images half right and 60 all right make 70 of 80; bin 2: 5 images, too few to be joined.
    some = [binned([0.5, 1.0], [20, 5], 0.1), binned([1.0, np.nan], [60, 0], 0.3)]
    charts.reliability({"baseline": some})
    above, below = last_figure().axes
    assert [np.asarray(line.get_ydata()).tolist() for line in above.lines[1:]] == [[70 / 80], [1.0]]
    assert [line.get_markerfacecolor() for line in above.lines[1:]] == [COLOURS[0], "white"]
    (seeds,) = above.collections[0].get_segments()
    assert seeds[:, 1].tolist() == [0.5, 1.0]
    (steps,) = below.patches
    assert steps.get_data().values.tolist() == pytest.approx([0.9, 0.1])  # of 20/25 and 60/60, of 5/25 and 0
    # The standard deviation of 0.1 and 0.3 is 0.1 * sqrt(2).
    assert "baseline: ECE 0.200 ± 0.141, Brier 0.400 ± 0.283 (2 seeds)" in texts(last_figure())


def test_reliability_of_one_seed_claims_no_spread(last_figure: Callable[[], Figure]) -> None:
    charts.reliability({"baseline": [binned([0.5, 1.0], [20, 50], 0.1)]})
    assert "baseline: ECE 0.100, Brier 0.200 (1 seed)" in texts(last_figure())


def class_table(**columns: Sequence[object]) -> pd.DataFrame:
    plain = {"name": "cutout", "against": "baseline", "images": 100, "seeds": 3, "about": "the method"}
    return pd.DataFrame(columns).assign(**plain)


def test_classes_are_sorted_and_marked_by_symbol(last_figure: Callable[[], Figure]) -> None:
    table = class_table(
        **{
            "class": ["cat", "dog"],
            "difference": [-0.02, 0.05],
            "low": [-0.06, 0.04],
            "high": [0.02, 0.06],
            "shown": [False, True],
        }
    )
    charts.per_class(table)
    (axes,) = last_figure().axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["dog", "cat"]
    assert drawn_at(axes, 4, 6)
    assert drawn_at(axes, -6, 2)
    assert [line.get_marker() for line in drawn_at(axes, 5) + drawn_at(axes, -2)] == ["D", "o"]
    assert texts(last_figure()).count("*") == 1


def test_very_many_classes_show_the_ends(last_figure: Callable[[], Figure]) -> None:
    number = charts.MOST_CLASSES + 10
    values = (np.arange(number) / 1000).tolist()
    columns = {"class": [f"class {i}" for i in range(number)], "difference": values, "low": values, "high": values}
    charts.per_class(class_table(**columns, shown=[False] * number))
    labels = [label.get_text() for label in last_figure().axes[0].get_yticklabels()]
    assert len(labels) == charts.MOST_CLASSES
    assert (labels[0], labels[-1]) == (f"class {number - 1}", "class 0")
    assert any(f"the 25 highest and lowest of {number} classes" in text for text in texts(last_figure()))


def agreement_table(variants: int, seeds: int) -> pd.DataFrame:
    return pd.DataFrame(
        {"variant": one, "against": other, "pairs": 1, "rank_correlation": (i + j) / 20, "top_iou": (i + j) / 40}
        for i, one in enumerate(NAMES[:variants])
        for j, other in enumerate(NAMES[i:variants], start=i)
        if i != j or seeds > 1
    )


def test_agreement_stands_beside_that_of_seeds(last_figure: Callable[[], Figure]) -> None:
    charts.agreement(agreement_table(3, 2))
    rank, overlap = last_figure().axes
    # baseline and cutout have 1/20, their own seeds 0 and 2/20; the third variant's 4/20.
    assert drawn_at(rank, 1 / 20)
    assert len(drawn_at(rank, 0, 2 / 20)) == 2  # the bar and its ends
    assert drawn_at(rank, 2 / 20)
    assert drawn_at(rank, 0, 2 / 20, 4 / 20)
    assert drawn_at(overlap, 1 / 40)
    assert len(rank.get_yticks()) == 5  # the pair without the first variant is left to the table


def test_agreement_of_one_seed_says_that_the_floor_is_unknown(last_figure: Callable[[], Figure]) -> None:
    charts.agreement(agreement_table(2, 1))
    assert drawn_at(last_figure().axes[0], 1 / 20)
    assert any("not known" in text for text in texts(last_figure()))


def test_no_agreement_is_no_chart() -> None:
    with pytest.raises(ValueError, match="no two runs have maps of the same size"):
        charts.agreement(pd.DataFrame())


def class_rows(names: Sequence[str], seeds: int) -> pd.DataFrame:
    """As `Findings.classes` has them; the third class has no image."""
    after, before = np.random.default_rng(1).random((2, seeds, 60)) < 0.7
    table = by_class(after, before, np.arange(60) % 2, ("cat", "dog", LONG))
    return pd.concat(table.assign(name=name, against=names[0]) for name in names[1:])


def some_calibration() -> Calibration:
    logits = np.random.default_rng(1).normal(0, 2, (60, 3)).astype(np.float32)
    return calibration(Predictions(logits, np.arange(60) % 3))


def all_charts(variants: int, seeds: int) -> dict[str, Callable[[], np.ndarray]]:
    values, names = some_values(variants, seeds), NAMES[:variants]
    return {
        "forest": lambda: charts.forest(differences_of(values), QUANTITIES),
        "seeds": lambda: charts.seeds(runs_of(values), QUANTITIES),
        "curves": lambda: charts.curves(dict.fromkeys(names, [history(3, 2, 1)] * seeds)),
        "reliability": lambda: charts.reliability(dict.fromkeys(names, [some_calibration()] * seeds)),
        "per_class": lambda: charts.per_class(class_rows(names, seeds)),
        "agreement": lambda: charts.agreement(agreement_table(variants, seeds)),
    }


KINDS = ("forest", "seeds", "curves", "reliability", "per_class", "agreement")


@pytest.mark.parametrize(("variants", "seeds"), [(2, 1), (2, 2), (6, 3)])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_reaches_the_edge_of_a_chart(kind: str, variants: int, seeds: int) -> None:
    picture = all_charts(variants, seeds)[kind]()
    for edge in (picture[:2], picture[-2:], picture[:, :2], picture[:, -2:]):
        assert (edge == 255).all()


@pytest.mark.parametrize("kind", KINDS)
def test_names_are_whole_as_they_are_and_large_enough(kind: str, last_figure: Callable[[], Figure]) -> None:
    """Neither dollar signs nor a leading underscore mean anything."""
    all_charts(10, 2)[kind]()
    said = " ".join(texts(last_figure())).replace("_ ", "_")
    for name in NAMES[1:]:
        assert name in said, name
    assert not any(text.get_parse_math() for text in last_figure().findobj(Text))
    assert min(text.get_fontsize() for text in last_figure().findobj(Text)) >= 9


@pytest.mark.parametrize("kind", KINDS)
def test_twenty_seeds_of_ten_variants_are_drawn(kind: str, last_figure: Callable[[], Figure]) -> None:
    all_charts(10, 20)[kind]()
    assert last_figure().axes


def test_a_long_legend_does_not_squeeze_the_chart(last_figure: Callable[[], Figure]) -> None:
    heights = []
    for variants in (2, 10):
        all_charts(variants, 1)["curves"]()
        last_figure().draw_without_rendering()
        heights.append(last_figure().axes[0].get_position().height * last_figure().get_figheight())
    assert heights[1] == pytest.approx(heights[0], rel=0.1)

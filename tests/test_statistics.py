"""What is said about a difference follows from the numbers."""

import pytest

from experiments.statistics import paired_difference, sentence


def test_interval_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), t(0.975, 2) = 4.302653: half-width 2.484.
    difference = paired_difference([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert difference.mean == 2
    assert difference.low == pytest.approx(2 - 2.48414, abs=1e-4)
    assert difference.high == pytest.approx(2 + 2.48414, abs=1e-4)


def test_one_or_two_seeds_get_no_interval_and_no_claim() -> None:
    one = paired_difference([0.9], [0.8])
    assert (one.low, one.high) == (None, None)
    assert sentence("cutout", "baseline", one) == (
        "cutout against baseline: test accuracy +10.00 points with one seed: "
        "no statement about the method, only about these two networks."
    )
    two = sentence("cutout", "baseline", paired_difference([0.9, 0.9], [0.8, 0.8]))
    assert "with 2 seeds: no statement about the method" in two


def test_sentences_follow_the_interval() -> None:
    # Differences 1, 2, 3 points: the interval of the first test.
    high, low = [0.92, 0.93, 0.94], [0.91, 0.91, 0.91]
    assert sentence("cutout", "baseline", paired_difference(high, low)) == (
        "cutout against baseline: no difference in test accuracy shown "
        "(+2.00 points; 95 % interval -0.48 to +4.48, 3 seeds)."
    )
    # Differences 5, 6, 7 points.
    lower = [0.87, 0.87, 0.87]
    interval = "6.00 points of test accuracy (95 % interval 3.52 to 8.48, 3 seeds)."
    assert (
        sentence("cutout", "baseline", paired_difference(high, lower))
        == f"cutout is better than baseline by {interval}"
    )
    assert (
        sentence("cutout", "baseline", paired_difference(lower, high)) == f"cutout is worse than baseline by {interval}"
    )
    unclear = paired_difference([0.90, 0.91, 0.95], [0.91, 0.91, 0.92])
    assert "no difference in test accuracy shown" in sentence("cutout", "baseline", unclear)


def test_unpaired_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match="2 and 1 seeds cannot be paired"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="at least one"):
        paired_difference([], [])

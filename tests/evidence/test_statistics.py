"""What is said about a difference follows from the numbers, and the numbers from published methods."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as published_mcnemar
from statsmodels.stats.multitest import multipletests

from experiments.evidence.differences import Difference, Quantity, holm, paired_difference
from experiments.evidence.network_tests import (
    NetworkDifference,
    SeedNoise,
    by_class,
    mcnemar,
    seed_noise,
    two_way_bootstrap,
)
from experiments.evidence.sentences import network_sentence, noise_sentence, p_text, sentence, wins_text

# Hours of sleep gained by ten patients on two drugs (Student, "The probable error of a mean", Biometrika 1908).
FIRST_DRUG = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
SECOND_DRUG = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]

VALUES = st.floats(-1, 1, width=32)
PAIRS = st.lists(st.tuples(VALUES, VALUES), min_size=1, max_size=9)
SHAPES = st.tuples(st.integers(1, 5), st.integers(1, 30))
RIGHT_PAIRS = SHAPES.flatmap(lambda shape: st.tuples(*[hnp.arrays(bool, shape)] * 2))


def pair_of_networks(both: int, only_variant: int, only_baseline: int, neither: int) -> NetworkDifference:
    """McNemar's table, written out as images."""
    counts = [both, only_variant, only_baseline, neither]
    return mcnemar(np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts))


# ---------------------------------------------------------------------------------------------- over seeds


def test_interval_by_hand() -> None:
    # Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), t(0.975, 2) = 4.302653: half-width 2.484.
    difference = paired_difference([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    assert difference.mean == 2
    assert difference.low == pytest.approx(2 - 2.48414, abs=1e-4)
    assert difference.high == pytest.approx(2 + 2.48414, abs=1e-4)
    assert difference.smallest_shown == pytest.approx(2.48414, abs=1e-4)


def test_students_own_example() -> None:
    # R's documentation of t.test on `sleep`: mean 1.58, 95 % interval 0.7001142 to 2.4598858, p = 0.002833.
    difference = paired_difference(np.array(SECOND_DRUG), np.array(FIRST_DRUG))
    assert difference.mean == pytest.approx(1.58)
    assert (difference.low, difference.high) == pytest.approx((0.7001142, 2.4598858), abs=1e-7)
    assert difference.p == pytest.approx(0.002833, abs=1e-6)
    assert (difference.larger, difference.smaller, difference.ties) == (9, 0, 1)
    assert difference.shown


def test_a_true_difference_of_the_detectable_size_is_found_in_four_of_five_cases() -> None:
    # The power of the two-sided t test, from the non-central t distribution.
    difference = paired_difference(SECOND_DRUG, FIRST_DRUG)
    n, spread = len(SECOND_DRUG), np.std(difference.per_seed, ddof=1)
    assert difference.detectable is not None
    shift, bound = difference.detectable / spread * math.sqrt(n), stats.t.ppf(0.975, n - 1)
    power = stats.nct.sf(bound, n - 1, shift) + stats.nct.cdf(-bound, n - 1, shift)
    assert power == pytest.approx(0.8, abs=1e-6)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    generator, repetitions = np.random.default_rng(0), 1000
    samples = generator.normal(0.3, 2.0, (repetitions, 5))
    found = [paired_difference(sample, np.zeros(5)) for sample in samples]
    covered = sum(d.low <= 0.3 <= d.high for d in found if d.low is not None and d.high is not None)
    low, high = stats.binom.ppf([0.0005, 0.9995], repetitions, 0.95)
    assert low <= covered <= high


@given(PAIRS)
def test_swapping_the_variants_changes_every_sign(pairs: list[tuple[float, float]]) -> None:
    variant, baseline = map(list, zip(*pairs, strict=True))
    there, back = paired_difference(variant, baseline), paired_difference(baseline, variant)
    assert there.mean == -back.mean
    assert there.per_seed == tuple(-d for d in back.per_seed)
    assert (there.larger, there.smaller, there.ties) == (back.smaller, back.larger, back.ties)
    assert (there.shown, there.p) == (back.shown, pytest.approx(back.p))
    assert (there.smallest_shown, there.detectable) == pytest.approx((back.smallest_shown, back.detectable))
    if there.low is not None and back.high is not None:
        assert there.low == pytest.approx(-back.high)
        assert there.high == pytest.approx(-(back.low or 0))


@given(PAIRS)
def test_p_and_interval_agree(pairs: list[tuple[float, float]]) -> None:
    variant, baseline = map(list, zip(*pairs, strict=True))
    difference = paired_difference(variant, baseline)
    if len(pairs) < 3:
        assert (difference.low, difference.high, difference.p, difference.detectable) == (None, None, None, None)
    elif difference.p is not None and difference.smallest_shown is not None:
        assert 0 <= difference.p <= 1
        assert difference.shown == (abs(difference.mean) > difference.smallest_shown) == (difference.p < 0.05)


@given(st.lists(VALUES, min_size=3, max_size=9))
def test_comparing_with_itself_gives_zero_everywhere(values: list[float]) -> None:
    same = paired_difference(values, values)
    mean = float(np.mean(values))
    assert same == Difference(tuple([0.0] * len(values)), 0.0, mean, mean, 0.0, 0.0, 1.0, 0.0, 0.0)
    assert (same.ties, same.shown) == (len(values), False)
    assert sentence("a", "b", same) == f"a against b: test accuracy is the same in each of {len(values)} seeds."


def test_equal_differences_have_an_interval_of_width_zero_and_prove_nothing() -> None:
    # 0.9 - 0.89, 0.8 - 0.79 and 0.7 - 0.69 differ in the last bits.
    difference = paired_difference([0.9, 0.8, 0.7], [0.89, 0.79, 0.69])
    assert (difference.low, difference.high) == (difference.mean, difference.mean)
    assert (difference.smallest_shown, difference.p, difference.shown) == (0, None, False)
    assert sentence("cutout", "baseline", difference) == (
        "cutout against baseline: test accuracy 80.00 % against 79.00 %, difference +1.00 points in each of 3 seeds; "
        "without a spread between seeds there is no interval."
    )


def test_what_cannot_be_paired_is_refused() -> None:
    with pytest.raises(ValueError, match="2 and 1 seeds cannot be paired"):
        paired_difference([1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="at least one"):
        paired_difference([], [])
    with pytest.raises(ValueError, match="seed number 2 has no finite value; leave it out of both variants"):
        paired_difference([1.0, 2.0, 3.0], [1.0, math.nan, 3.0])


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.03, 0.04: times 3, 2, 1 is 0.03, 0.06, 0.04, and never less than the one before.
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    # What could not be tested counts as a test all the same.
    assert holm([0.01, math.nan]).tolist() == pytest.approx([0.02, math.nan], nan_ok=True)
    assert holm([]).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_that_of_statsmodels(p_values: list[float]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gc.collect", lambda: 0)  # it collects all garbage at every call
        published = multipletests(p_values, method="holm")[1]
    assert holm(p_values) == pytest.approx(published, abs=1e-15)


# ---------------------------------------------------------------------------------------------- two networks


def test_mcnemar_on_published_tables() -> None:
    # Fagerland, Lydersen and Laake 2013, table 1: children with hyper-responsive airways before and after a transplant.
    airways = pair_of_networks(1, 1, 7, 12)
    assert (airways.images, airways.only_variant, airways.only_baseline) == (21, 1, 7)
    assert airways.p == pytest.approx(2 * 9 / 256 - 8 / 256)  # 0 or 1 of 8 heads: 9 of 256 cases, 8 of them the border
    # Response to a therapy before and after (Cavo et al. 2012): mid-p and Bonett and Price's interval as in the tests
    # of Fagerland's R package `contingencytables`.
    therapy = pair_of_networks(59, 6, 16, 80)
    assert therapy.p == pytest.approx(0.034690, abs=1e-6)
    assert therapy.mean == pytest.approx(-0.0621, abs=1e-4)
    assert (therapy.low, therapy.high) == pytest.approx((-0.1195, -0.0032), abs=1e-4)


def test_mcnemar_on_ten_thousand_images() -> None:
    found = pair_of_networks(9000, 130, 96, 774)
    assert found.p == pytest.approx(0.0238, abs=1e-4)
    assert found.mean == 0.0034
    generator = np.random.default_rng(0)
    counts = generator.multinomial(10_000, [0.0130, 0.0096, 0.9774], 20_000)
    resampled = np.percentile((counts[:, 0] - counts[:, 1]) / 10_000, [2.5, 97.5])
    assert (found.low, found.high) == pytest.approx(tuple(resampled), abs=2e-4)


@given(RIGHT_PAIRS)
def test_mcnemar_holds_for_any_pair(right: tuple[np.ndarray, np.ndarray]) -> None:
    variant, baseline = right[0][0], right[1][0]
    found, back, same = mcnemar(variant, baseline), mcnemar(baseline, variant), mcnemar(variant, variant)
    assert found.mean == pytest.approx(variant.mean() - baseline.mean())
    assert -1 <= found.low <= found.mean <= found.high <= 1
    assert (back.mean, back.low, back.high, back.p) == pytest.approx((-found.mean, -found.high, -found.low, found.p))
    assert (same.mean, same.low, same.p) == (0, -same.high, 1)
    table = [[0, found.only_variant], [found.only_baseline, 0]]
    exact = float(published_mcnemar(table, exact=True).pvalue) if found.only_variant + found.only_baseline else 1.0
    assert 0 < found.p <= exact + 1e-12


def test_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be compared without images"):
        mcnemar(np.zeros(0, bool), np.zeros(0, bool))


# ---------------------------------------------------------------------------------------------- seeds as noise


def test_seed_noise_by_hand() -> None:
    # Accuracies 2/4, 3/4, 1/4: deviation 1/4. Images right in 3, 2, 1, 0 of 3 seeds: p(1 - p) 0, 1/3, 1/3, 0.
    right = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]], bool)
    noise = seed_noise(right)
    assert (noise.seeds, noise.images) == (3, 4)
    assert noise.observed == pytest.approx(1 / 4)
    assert noise.expected == pytest.approx(math.sqrt(2 / 3) / 4)
    # Cochran's Q is the ratio of the variances times n - 1, here 3.
    assert noise.p == pytest.approx(stats.chi2.sf(3, 2))


def test_the_squared_ratio_of_the_two_deviations_is_cochrans_q() -> None:
    generator = np.random.default_rng(1)
    right = generator.random((4, 300)) < generator.random(300)
    noise = seed_noise(right)
    assert noise.p == pytest.approx(stats.chi2.sf(3 * noise.observed**2 / noise.expected**2, 3))


def test_independent_errors_pass_for_settled_as_often_as_they_should() -> None:
    generator, repetitions = np.random.default_rng(2), 400
    chances = generator.beta(4, 1, 200)
    settled = sum(seed_noise(generator.random((3, 200)) < chances).settled for _ in range(repetitions))
    low, high = stats.binom.ppf([0.0005, 0.9995], repetitions, 0.95)
    assert low <= settled <= high


def test_seeds_that_differ_as_a_whole_are_not_settled() -> None:
    generator = np.random.default_rng(3)
    right = generator.random((3, 1000)) < np.array([[0.80], [0.85], [0.90]])
    noise = seed_noise(right)
    assert not noise.settled
    assert noise.observed > 3 * noise.expected
    assert noise_sentence("baseline", noise) == (
        f"baseline: its 3 seeds differ more than independent errors explain (standard deviation "
        f"{noise.observed * 100:.2f} points, {noise.expected * 100:.2f} expected, p < 0.001), "
        "so a test of two networks gives no conclusion about the method."
    )


def test_equal_seeds_have_no_noise() -> None:
    noise = seed_noise(np.tile([True, False], (3, 1)))
    assert noise == SeedNoise(3, 2, 0.0, 0.0, 1.0)
    assert noise_sentence("baseline", noise).endswith(
        "A test of two networks is still a statement about these two only."
    )
    with pytest.raises(ValueError, match="2 seeds and 5 images are too few for this test; give at least 3 seeds"):
        seed_noise(np.ones((2, 5), bool))


# ---------------------------------------------------------------------------------------------- class by class


@pytest.fixture
def classified() -> dict[str, Any]:
    """Five seeds of two variants on 300 images; only the last class is better, by far."""
    generator = np.random.default_rng(4)
    labels = np.arange(300) % 3
    baseline = generator.random((5, 300)) < 0.6
    variant = generator.random((5, 300)) < np.where(labels == 2, 0.95, 0.6)
    return {"variant": variant, "baseline": baseline, "labels": labels, "classes": ("cat", "dog", "ship")}


def test_by_class_is_the_paired_difference_of_each_class(classified: dict[str, Any]) -> None:
    table = by_class(**classified)
    assert table["class"].tolist() == ["cat", "dog", "ship"]
    for number, row in table.iterrows():
        chosen = classified["labels"] == number
        after, before = (classified[name][:, chosen].mean(axis=1) for name in ("variant", "baseline"))
        expected = stats.ttest_rel(after, before)
        assert (row["difference"], row["p"]) == pytest.approx((np.mean(after - before), expected.pvalue))
        assert (row["low"], row["high"]) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert table["p_holm"].tolist() == pytest.approx(holm(table["p"].to_numpy()).tolist())
    assert table["shown"].tolist() == [False, False, True]
    assert set(table["about"]) == {"the method"}


def test_one_seed_by_class_is_about_two_networks_and_two_seeds_about_nothing(classified: dict[str, Any]) -> None:
    def first(seeds: int) -> dict[str, Any]:
        return classified | {name: classified[name][:seeds] for name in ("variant", "baseline")}

    one, two = by_class(**first(1)), by_class(**first(2))
    ship = classified["labels"] == 2
    expected = mcnemar(classified["variant"][0, ship], classified["baseline"][0, ship])
    row = one.iloc[2]
    assert (row["difference"], row["low"], row["high"], row["p"]) == (
        expected.mean,
        expected.low,
        expected.high,
        expected.p,
    )
    assert row["p_holm"] >= row["p"]
    assert (one["about"] == "these two networks").all()
    assert two[["low", "high", "p", "p_holm"]].isna().all().all()
    assert not two["shown"].any()
    assert (two["about"] == "no statement").all()


def test_a_class_without_images_has_no_numbers(classified: dict[str, Any]) -> None:
    table = by_class(**classified | {"classes": ("cat", "dog", "ship", "frog")})
    assert (table["images"].tolist(), table["images"].dtype) == ([100, 100, 100, 0], np.int64)
    assert table.iloc[3][["baseline", "variant", "difference", "low", "high", "p", "p_holm"]].isna().all()
    pd.testing.assert_frame_equal(
        table.iloc[:3].drop(columns="p_holm"), by_class(**classified).drop(columns="p_holm"), check_dtype=False
    )
    assert (table["p_holm"][:3] >= by_class(**classified)["p_holm"]).all()  # it counts as one more test


@given(SHAPES, st.integers(0, 999))
def test_by_class_swapped_and_with_itself(shape: tuple[int, int], seed: int) -> None:
    generator = np.random.default_rng(seed)
    variant, baseline = generator.random((2, *shape)) < 0.7
    labels = generator.integers(3, size=shape[1])
    there, back, same = (
        by_class(first, second, labels, ("a", "b", "c"))
        for first, second in ((variant, baseline), (baseline, variant), (variant, variant))
    )
    assert np.allclose(there["difference"], -back["difference"], equal_nan=True)
    assert np.allclose(there["low"], -back["high"], equal_nan=True)
    assert np.allclose(there["p_holm"], back["p_holm"], equal_nan=True)
    assert (same["difference"].dropna() == 0).all()
    assert (same["p"].dropna() == 1).all()
    assert there["p_holm"].dropna().between(there["p"].dropna(), 1).all()


# ---------------------------------------------------------------------------------------------- seeds and images


def test_where_seeds_are_alike_the_bootstrap_is_that_over_images() -> None:
    generator = np.random.default_rng(5)
    gains = generator.normal(0.1, 1, 200)
    found = two_way_bootstrap(np.tile(gains, (4, 1)), np.zeros((4, 200)), generator)
    published = stats.bootstrap((gains,), np.mean, method="percentile", rng=generator).confidence_interval
    assert found.mean == pytest.approx(gains.mean())
    assert (found.low, found.high) == pytest.approx((published.low, published.high), abs=0.02)


def test_where_images_are_alike_the_bootstrap_is_that_over_seeds() -> None:
    # Means of three draws from 0, 0, 3: 0 in 8 of 27 cases, 3 in 1 of 27.
    gains = np.tile([[0.0], [0.0], [3.0]], (1, 50))
    found = two_way_bootstrap(gains, np.zeros((3, 50)), np.random.default_rng(6))
    assert (found.mean, found.low, found.high) == (1, 0, 3)


def test_an_image_missing_in_one_variant_is_left_out_of_that_seed() -> None:
    variant = np.array([[1.0, np.nan, 3.0], [1.0, 1.0, 1.0], [2.0, 2.0, 2.0]])
    baseline = np.array([[0.0, 9.0, np.nan], [0.0, 0.0, 0.0], [0.0, 0.0, np.nan]])
    found = two_way_bootstrap(variant, baseline, np.random.default_rng(7))
    assert found.mean == pytest.approx((1 + 1 + 2) / 3)
    assert 1 <= found.low <= found.mean <= found.high <= 2


def test_the_bootstrap_of_many_images_has_the_width_of_a_normal_mean() -> None:
    # So many images that the draws are taken in parts. Errors independent between seeds and images count twice, those
    # of a seed of equal variance once: the draws' variance lies between one and three times that of the mean.
    generator = np.random.default_rng(8)
    variant, baseline = generator.normal(0.2, 1, (2, 3, 40_000))
    found = two_way_bootstrap(variant, baseline, generator, draws=300)
    assert found.mean == pytest.approx((variant - baseline).mean())
    width = 2 * 1.96 * math.sqrt(2 / 120_000)
    assert 0.9 * width < found.high - found.low < 1.1 * math.sqrt(3) * width


@given(st.integers(3, 5), st.integers(1, 20), st.integers(0, 99))
def test_the_bootstrap_swapped_and_with_itself(seeds: int, images: int, seed: int) -> None:
    variant, baseline = np.random.default_rng(seed).normal(size=(2, seeds, images))
    there, back, same = (
        two_way_bootstrap(first, second, np.random.default_rng(seed), draws=50)
        for first, second in ((variant, baseline), (baseline, variant), (variant, variant))
    )
    assert (there.mean, there.low, there.high) == pytest.approx((-back.mean, -back.high, -back.low))
    assert (same.mean, same.low, same.high) == (0, 0, 0)


def test_what_cannot_be_resampled_is_refused() -> None:
    generator = np.random.default_rng(0)
    with pytest.raises(ValueError, match="2 seeds cannot be resampled; give at least 3"):
        two_way_bootstrap(np.ones((2, 4)), np.ones((2, 4)), generator)
    missing = np.ones((3, 4))
    missing[1] = np.nan
    with pytest.raises(ValueError, match="each with an image that has both values"):
        two_way_bootstrap(missing, np.ones((3, 4)), generator)


# ---------------------------------------------------------------------------------------------- sentences


def test_one_or_two_seeds_get_no_interval_and_no_claim() -> None:
    one = paired_difference([0.9], [0.8])
    assert (one.low, one.high) == (None, None)
    assert sentence("cutout", "baseline", one) == (
        "cutout against baseline: test accuracy 90.00 % against 80.00 %, difference +10.00 points with one seed: "
        "no statement about the method, only about these two networks."
    )
    two = sentence("cutout", "baseline", paired_difference([0.9, 0.9], [0.8, 0.8]))
    assert "with 2 seeds: no statement about the method" in two


def test_sentences_follow_the_interval() -> None:
    # Differences 1, 2, 3 points: the interval of the first test.
    high, low = [0.92, 0.93, 0.94], [0.91, 0.91, 0.91]
    assert sentence("cutout", "baseline", paired_difference(high, low)) == (
        "cutout against baseline: no difference shown in test accuracy: 93.00 % against 91.00 %, difference +2.00 "
        "points (95 % interval -0.48 to +4.48, 3 seeds); differences up to 4.48 points cannot be excluded."
    )
    # Differences 5, 6, 7 points.
    lower = [0.87, 0.87, 0.87]
    assert sentence("cutout", "baseline", paired_difference(high, lower)) == (
        "cutout is better than baseline: test accuracy 93.00 % against 87.00 %, difference +6.00 points "
        "(95 % interval +3.52 to +8.48, 3 seeds)."
    )
    assert sentence("cutout", "baseline", paired_difference(lower, high)) == (
        "cutout is worse than baseline: test accuracy 87.00 % against 93.00 %, difference -6.00 points "
        "(95 % interval -8.48 to -3.52, 3 seeds)."
    )
    unclear = paired_difference([0.90, 0.91, 0.95], [0.91, 0.91, 0.92])
    assert "no difference shown in test accuracy" in sentence("cutout", "baseline", unclear)


@pytest.mark.parametrize(
    ("quantity", "said"),
    [
        (Quantity("recall"), "cutout is better than baseline: recall 93.00 % against"),
        (Quantity("lift", share=False), "cutout is better than baseline: lift 0.930 against"),
        (Quantity("background gap", "lower"), "cutout is worse than baseline: background gap 93.00 % against"),
        (
            Quantity("focus index", "neither", share=False),
            "cutout against baseline: focus index is larger, 0.930 against",
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Quantity) else "",
)
def test_sentences_know_which_direction_is_better(quantity: Quantity, said: str) -> None:
    high, low = [0.92, 0.93, 0.94], [0.87, 0.87, 0.87]
    assert sentence("cutout", "baseline", paired_difference(high, low), quantity).startswith(said)
    turned = sentence("cutout", "baseline", paired_difference(low, high), quantity)
    opposite = {"better": "worse", "worse": "better", "larger,": "smaller,", "93.00": "87.00", "0.930": "0.870"}
    assert turned.startswith(" ".join(opposite.get(word, word) for word in said.split(" ")))


def test_a_bound_near_zero_is_not_rounded_to_it() -> None:
    difference = Difference((0.1, 0.2, 0.3), 0.2, 0.5, 0.3, 0.000021, 0.4, 0.04, 0.2, 0.3)
    assert "(95 % interval +0.002 to +40.000, 3 seeds)" in sentence("a", "b", difference)


def test_a_difference_that_the_correction_takes_back_is_not_shown() -> None:
    difference = paired_difference([0.92, 0.93, 0.94], [0.87, 0.87, 0.87])
    assert sentence("cutout", "baseline", difference, p_holm=0.0184).endswith(
        "(95 % interval +3.52 to +8.48, 3 seeds, Holm-adjusted p = 0.018)."
    )
    assert sentence("cutout", "baseline", difference, p_holm=0.06) == (
        "cutout against baseline: no difference shown in test accuracy: 93.00 % against 87.00 %, difference +6.00 "
        "points (95 % interval +3.52 to +8.48, 3 seeds); the interval excludes zero, but Holm-adjusted p = 0.060."
    )


@given(PAIRS, st.sampled_from(["higher", "lower", "neither"]), st.booleans())
def test_a_sentence_claims_exactly_what_is_shown(pairs: list[tuple[float, float]], better: Any, share: bool) -> None:
    variant, baseline = map(list, zip(*pairs, strict=True))
    difference = paired_difference(variant, baseline)
    said = sentence("a", "b", difference, Quantity("area", better, share))
    claims = any(word in said for word in ("better", "worse", "larger", "smaller"))
    assert claims == difference.shown
    assert said.endswith(".")
    assert "nan" not in said
    if difference.shown and better != "neither":
        assert ("better" in said) == ((difference.mean > 0) == (better == "higher"))


def test_wins_are_counted_in_the_direction_that_is_better() -> None:
    difference = paired_difference([0.9, 0.8, 0.7, 0.9], [0.8, 0.8, 0.8, 0.8])
    assert wins_text(difference) == "better in 2 of 4 seeds, 1 tie"
    assert wins_text(difference, "lower") == "better in 1 of 4 seeds, 1 tie"
    assert wins_text(difference, "neither") == "larger in 2 of 4 seeds, 1 tie"
    assert wins_text(paired_difference([0.9], [0.8])) == "better in 1 of 1 seed"


def test_a_sentence_about_two_networks_says_so() -> None:
    assert network_sentence("cutout", "baseline", 0, pair_of_networks(9000, 130, 96, 774)) == (
        "cutout against baseline, seed 0: of 10,000 images, 130 are right only with cutout and 96 only with baseline: "
        "+0.34 points (95 % interval +0.04 to +0.64, McNemar mid-p = 0.024). "
        "This is about these two networks, not about the method."
    )


def test_p_values_in_words() -> None:
    assert [p_text(p) for p in (1.0, 0.0238, 0.0001, None, math.nan)] == [
        "p = 1.000",
        "p = 0.024",
        "p < 0.001",
        "no p",
        "no p",
    ]

"""The budget after the search: exact shares, rounds that add up, who is ahead."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.study.race import FEWEST_PAIRS, LEAST_TRIALS, Budget, next_stage, ranked, rounds, undominated


def test_a_budget_is_spent_to_the_trial_about_60_to_40() -> None:
    for trials in range(LEAST_TRIALS, 501):
        found = next_stage(trials, 0, confirm=True)
        assert found.search + found.race + 2 * found.pairs == found.total == trials
        assert abs(found.search - 0.6 * trials) <= 0.5
        assert found.race >= 0
        assert found.pairs >= FEWEST_PAIRS


def test_budgets_by_hand() -> None:
    found = {trials: next_stage(trials, 0, confirm=True) for trials in (15, 24, 40)}
    assert [(one.search, one.race, one.pairs) for one in found.values()] == [(9, 0, 3), (14, 4, 3), (24, 8, 4)]


@pytest.mark.parametrize(
    ("trials", "planned", "confirm", "stage"),
    [
        (40, 0, True, (24, 8, 4)),
        (40, 0, False, (40, 0, 0)),
        (60, 40, True, (12, 2, 3)),
        (54, 40, True, (14, 0, 0)),
        (55, 40, True, (9, 0, 3)),
    ],
)
def test_what_is_asked_for_later_is_a_stage_of_its_own(
    trials: int, planned: int, confirm: bool, stage: tuple[int, int, int]
) -> None:
    found = next_stage(trials, planned, confirm=confirm)
    assert (found.search, found.race, found.pairs) == stage
    assert found.total == trials - planned


@pytest.mark.parametrize("trials", [1, 14, 15, 400])
def test_without_confirmation_all_is_search(trials: int) -> None:
    found = next_stage(trials, 0, confirm=False)
    assert (found.search, found.race, found.pairs) == (trials, 0, 0)


def test_too_few_to_confirm() -> None:
    assert next_stage(LEAST_TRIALS - 1, 0, confirm=True) == Budget(14, 0, 0)


@given(st.integers(0, 300), st.integers(1, 20))
def test_the_rounds_of_a_race_add_up_and_shrink(race: int, candidates: int) -> None:
    sizes = rounds(race, candidates)
    assert sum(sizes) == race
    assert all(1 <= size <= candidates for size in sizes)
    assert sizes == sorted(sizes, reverse=True)
    if race >= candidates:
        assert sizes[0] == candidates


def test_rounds_by_hand() -> None:
    assert rounds(8, 7) == [7, 1]
    assert rounds(20, 7) == [7, 4, 2, 2, 2, 2, 1]
    assert rounds(4, 1) == [1, 1, 1, 1]
    assert rounds(4, 7) == [4]
    assert rounds(0, 7) == []
    assert rounds(8, 0) == []


@pytest.mark.parametrize(
    ("scores", "higher", "order"),
    [
        ({"a": [0.1, 0.3], "b": [0.3, 0.3], "c": [0.2, 0.1]}, True, ["b", "a", "c"]),
        ({"a": [0.1, 0.3], "b": [0.3, 0.3], "c": [0.2, 0.1]}, False, ["c", "a", "b"]),
        # Left behind after the first round, whatever the mean.
        ({"lucky": [0.9], "a": [0.5, 0.6], "b": [0.5, 0.7]}, True, ["b", "a", "lucky"]),
        ({"lucky": [0.1], "a": [0.5, 0.6], "b": [0.5, 0.7]}, False, ["a", "b", "lucky"]),
        # A failed training does not count; a candidate without any other is last.
        ({"failed": [math.nan], "a": [0.5], "b": [0.6]}, True, ["b", "a", "failed"]),
        ({"failed": [math.nan], "a": [0.5], "b": [0.6]}, False, ["a", "b", "failed"]),
        ({"half": [0.9, math.nan], "a": [0.5, 0.6], "diverged": [math.inf, math.inf]}, True, ["half", "a", "diverged"]),
        # Ties stay in the order of the search.
        ({"a": [0.5], "b": [0.5]}, True, ["a", "b"]),
        ({"a": [0.5], "b": [0.5]}, False, ["a", "b"]),
        ({"b": [], "a": []}, True, ["b", "a"]),
    ],
)
def test_who_is_ahead(scores: dict[str, list[float]], higher: bool, order: list[str]) -> None:
    assert ranked(scores, higher=higher) == order


def test_a_front_by_hand() -> None:
    rows = [[1.0, 5.0], [2.0, 4.0], [2.0, 5.0], [2.0, 4.0], [3.0, 9.0]]
    assert undominated(rows, [True, False]) == [False, True, False, True, True]
    assert undominated([[0.5], [0.7], [0.7]], [True]) == [False, True, True]


@given(st.lists(st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.5]), min_size=2, max_size=2), min_size=1, max_size=12))
def test_every_row_that_is_not_on_the_front_is_beaten_by_one_that_is(rows: list[list[float]]) -> None:
    on_front = undominated(rows, [True, True])
    front = [row for row, there in zip(rows, on_front, strict=True) if there]
    for row, there in zip(rows, on_front, strict=True):
        beaten = any(one[0] >= row[0] and one[1] >= row[1] and one != row for one in front)
        assert beaten == (not there)

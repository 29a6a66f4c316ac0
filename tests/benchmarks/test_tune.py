"""The rate of a study counts what its workers do once they are warm."""

from datetime import datetime, timedelta

import pytest
from optuna.trial import FrozenTrial, create_trial

from benchmarks.tune import rate_of


def ended(worker: str, *seconds: float) -> list[FrozenTrial]:
    start = datetime(2026, 1, 1)
    found = []
    for after in seconds:
        trial = create_trial(value=0.5, user_attrs={"worker": worker})
        trial.datetime_complete = start + timedelta(seconds=after)
        found.append(trial)
    return found


def test_rates_of_workers_add_up_from_the_end_of_each_ones_first_trial() -> None:
    # One does two trials in 20 s after its first, the other one in 12 s.
    trials = [*ended("a", 30, 40, 50), *ended("b", 33, 45)]
    counted, rate = rate_of(trials, workers=2)
    assert counted == 3
    assert rate == pytest.approx(3600 * (2 / 20 + 1 / 12))


@pytest.mark.parametrize(("trials", "had"), [(ended("a", 1, 2, 3), "3"), (ended("a", 1, 2) + ended("b", 3), "2, 1")])
def test_a_worker_without_a_second_trial_has_no_rate(trials: list[FrozenTrial], had: str) -> None:
    with pytest.raises(SystemExit, match=f"each of 2 workers needs two trials; they had {had}: give more --trials"):
        rate_of(trials, workers=2)

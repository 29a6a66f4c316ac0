"""The learning rate follows its formulas."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experiments.settings.train import TrainSettings
from experiments.training import schedule
from experiments.training.schedule import momentum_shift, relative_rate


def settings(**given: object) -> TrainSettings:
    """Of one epoch, so that epochs done are the progress."""
    return TrainSettings.of(**{"epochs": 1} | given)


def test_linear_is_a_straight_line_from_one_to_zero() -> None:
    assert [schedule.linear(settings(epochs=4), done) for done in (0.0, 1.0, 2.0, 4.0)] == [1.0, 0.75, 0.5, 0.0]


def test_cosine_by_hand() -> None:
    assert schedule.cosine(settings(), 0.0) == 1
    assert schedule.cosine(settings(), 0.5) == pytest.approx(0.5)
    assert schedule.cosine(settings(), 1 / 3) == pytest.approx(0.75)  # (1 + cos 60 degrees) / 2
    assert schedule.cosine(settings(), 1.0) == 0


@pytest.mark.parametrize("steps", [10, 40])
def test_cosine_warms_up_as_torchvisions_reference_does(steps: int) -> None:
    warmup = steps // 5
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
    first = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=warmup)
    second = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps - warmup)
    theirs = torch.optim.lr_scheduler.SequentialLR(optimizer, [first, second], milestones=[warmup])
    for done in range(steps):
        ours = relative_rate(settings(schedule="cosine", lr_warmup=warmup / steps), done / steps)
        assert ours == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-6)
        optimizer.step()
        theirs.step()


def test_onecycle_is_that_of_pytorch() -> None:
    steps, warmup = 50, 0.3
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1.0, total_steps=steps, pct_start=warmup)
    # Theirs counts steps up to steps - 1 and peaks at warmup * steps - 1.
    peak = warmup * steps - 1
    for step in range(steps):
        progress = step / peak * warmup if step <= peak else warmup + (step - peak) / (steps - 1 - peak) * (1 - warmup)
        assert schedule.onecycle(settings(lr_warmup=warmup), progress) == pytest.approx(
            theirs.get_last_lr()[0], abs=1e-9
        )
        optimizer.step()
        if step < steps - 1:
            theirs.step()


def test_a_training_by_onecycle_has_pytorchs_rates_and_momenta() -> None:
    """Theirs peaks one step earlier and ends on its last step, so that ours lies up to a step beside it."""
    steps = 1000
    settings = TrainSettings.of(
        schedule="onecycle", lr=0.01, lr_warmup=0.3, epochs=10, momentum=0.9, momentum_swing=0.05, optimizer="sgd"
    )
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0, momentum=0.9)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=steps)
    rates, momenta = [], []
    for step in range(steps):
        done = step * settings.epochs / steps
        rates.append(relative_rate(settings, done) * settings.lr - optimizer.param_groups[0]["lr"])
        momenta.append(settings.momentum + momentum_shift(settings, done) - optimizer.param_groups[0]["momentum"])
        optimizer.step()
        if step < steps - 1:
            theirs.step()
    one_step = math.pi / 2 / 300  # the steepest part of the cosine that rises in 300 steps
    assert max(map(abs, rates)) < 0.01 * one_step
    assert max(map(abs, momenta)) < 0.1 * one_step


def test_other_schedules_leave_the_momentum_alone() -> None:
    assert momentum_shift(TrainSettings.of(schedule="cosine", momentum_swing=0.05), 3.0) == 0


@given(st.floats(0, 1), st.floats(0, 0.99))
def test_onecycle_stays_between_its_end_and_its_peak(progress: float, warmup: float) -> None:
    assert 1 / 25e4 - 1e-12 <= schedule.onecycle(settings(lr_warmup=warmup), progress) <= 1 + 1e-12


def test_step_multiplies_at_each_milestone() -> None:
    rates = [
        schedule.step(settings(schedule="step", epochs=6, lr_steps="2,4", lr_gamma=0.1), float(epoch))
        for epoch in range(6)
    ]
    assert rates == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_each_schedule_of_the_settings_is_a_share_of_the_peak_rate() -> None:
    def rate(done: float, **given: object) -> float:
        return relative_rate(TrainSettings.of(lr=0.4, epochs=10, **given), done)

    assert rate(7.3, schedule="constant") == 1.0
    assert rate(5.0, schedule="cosine") == pytest.approx(0.5)
    assert rate(2.0, schedule="onecycle", lr_warmup=0.2) == pytest.approx(1.0)
    assert rate(3.999, schedule="step", lr_steps="4", lr_gamma=0.5) == 1.0
    assert rate(4.0, schedule="step", lr_steps="4", lr_gamma=0.5) == pytest.approx(0.5)
    assert rate(7.5, schedule="linear") == pytest.approx(0.25)
    assert math.isclose(rate(10.0, schedule="cosine"), 0.0, abs_tol=1e-12)

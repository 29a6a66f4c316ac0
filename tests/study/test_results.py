"""The verdicts of studies: with known scores, without training."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState

from experiments.study.agenda import FINAL, Agenda
from experiments.study.contents import for_machines, iter_records, note
from experiments.study.ledger import Ledger
from experiments.study.results import Results, quantity, results, written
from experiments.study.settings import OWN, PUBLISHED, TuneSettings
from experiments.study.space import SIZE, Options, label
from experiments.study.tune import commission
from experiments.tracking.records import Text
from tests.toys.study import Scores, toy_study, work_off

pytestmark = pytest.mark.slow

FRESH = 1000  # seeds from here on are those of the confirmation


def worked_off(folder: Path, scores: Scores, **given: object) -> tuple[Ledger, TuneSettings, Results]:
    """A study with random holes that are never the best, until nothing is left to do."""
    ledger, settings = toy_study(folder, **{"sampler": "random"} | given)
    work_off(ledger, settings, scores)
    return ledger, settings, results(ledger, settings)


def published_gains(*gains: float, claimed: float = 0.03, own: float = 0.80) -> Scores:
    """The published holes gain so much with each fresh seed, and claim so much in the search."""

    def score(options: Options, seed: int) -> list[float]:
        if options.get(SIZE) != "16":
            return [own - 0.1 * options["cutout"]]
        return [own + (gains[seed - FRESH] if seed >= FRESH else claimed)]

    return score


def test_a_gain_that_the_seeds_agree_on_is_shown(tmp_path: Path) -> None:
    _, _, found = worked_off(tmp_path, published_gains(0.02, 0.03, 0.025))
    assert found.shown
    assert found.best is not None
    assert found.best.name == PUBLISHED
    assert found.gain is not None
    assert found.gain.mean == pytest.approx(0.025)
    # Student's t with two degrees of freedom: 4.3027 * 0.005 / sqrt(3).
    assert found.gain.low == pytest.approx(0.025 - 0.0124207, abs=1e-6)
    first, claim = found.verdict
    assert first == (
        "published hole (1 hole of 16 px) is better than own setting (no cutout): validation accuracy 82.50 % against "
        "80.00 %, difference +2.50 points (95 % interval +1.26 to +3.74, 3 seeds)."
    )
    assert claim == (
        "Confirmed validation accuracy: 82.50 % ± 0.50 % (3 seeds). "
        "The search score, 83.00 % (1 seed), was better by 0.50 points."
    )


def test_a_gain_that_the_seeds_do_not_agree_on_is_not_shown(tmp_path: Path) -> None:
    _, _, found = worked_off(tmp_path, published_gains(0.02, -0.02, 0.015))
    assert not found.shown
    assert found.verdict[0] == f"No setting was shown to be better than {OWN} (no cutout)."
    assert "was better by 2.50 points" in found.verdict[2]
    assert found.over_claim == pytest.approx(0.025)


def test_a_loss_shown_is_no_gain(tmp_path: Path) -> None:
    _, _, found = worked_off(tmp_path, published_gains(-0.02, -0.03, -0.025))
    assert found.gain is not None
    assert found.gain.shown
    assert not found.shown
    assert found.verdict[0] == f"No setting was shown to be better than {OWN} (no cutout)."


def test_a_search_may_claim_too_little(tmp_path: Path) -> None:
    _, _, found = worked_off(tmp_path, published_gains(0.02, 0.03, 0.025, claimed=0.01))
    assert found.over_claim == pytest.approx(-0.015)
    assert found.verdict[1].endswith("The search score, 81.00 % (1 seed), was worse by 1.50 points.")


def test_a_search_that_claims_what_is_confirmed(tmp_path: Path) -> None:
    _, _, found = worked_off(tmp_path, published_gains(0.02, 0.03, 0.025, claimed=0.025))
    assert found.verdict[1].endswith("The search score, 82.50 % (1 seed), was the same.")


def test_less_loss_is_better(tmp_path: Path) -> None:
    gain = published_gains(-0.2, -0.3, -0.25, claimed=-0.35, own=1.5)

    def score(options: Options, seed: int) -> list[float]:
        return [gain(options, seed)[0] + 0.5 * (options["cutout"] and options[SIZE] != "16")]

    _, _, found = worked_off(tmp_path, score, objective="val/loss")
    assert found.shown
    assert found.best is not None
    assert found.best.name == PUBLISHED
    assert found.over_claim == pytest.approx(0.1)
    assert found.verdict[1] == (
        "Confirmed validation loss: 1.2500 ± 0.0500 (3 seeds). The search score, 1.1500 (1 seed), was better by 0.1000."
    )


def test_trainings_near_chance_are_counted_in_the_verdict(tmp_path: Path) -> None:
    _, _, found = worked_off(tmp_path, published_gains(0.02, 0.03, 0.025))
    assert not any("near chance" in line for line in found.verdict)
    doubtful = replace(found, table=found.table.assign(near_chance=np.arange(len(found.table)) < 2))
    said = f"2 of {len(found.table)} trainings ended near chance: their scores say little about the holes."
    assert doubtful.verdict == [*found.verdict, said]


def test_no_trial_completed(tmp_path: Path) -> None:
    ledger, _, found = worked_off(tmp_path, lambda options, seed: ValueError("out of memory"))
    assert found.verdict == ["No trial of the search completed, so there is no conclusion."]
    assert (found.best, found.gain, found.shown, found.over_claim) == (None, None, False, None)
    assert set(found.table["state"]) == {"failed"}
    assert set(found.table["error"]) == {"ValueError: out of memory"}
    assert for_machines(found, "#/")["command"] is None
    paths = {record.path for record in iter_records(ledger, found, "#/") if hasattr(record, "path")}
    assert "best.toml" not in paths
    assert {"trials.csv", "tuning.json", "study.db"} <= paths


def test_a_search_alone_shows_nothing(tmp_path: Path) -> None:
    ledger, _, found = worked_off(tmp_path, published_gains(), confirm=False, trials=3, epochs=3)
    assert found.verdict == [
        "published hole (1 hole of 16 px) has the best search score: validation accuracy 83.00 % with 1 seed. "
        "It is not confirmed, and the best of many noisy scores is too good by chance: no conclusion yet."
    ]
    assert not found.shown
    best = next(one for one in iter_records(ledger, found, "#/") if _path(one) == "best.txt")
    assert isinstance(best, Text)
    assert best.text == (
        "mlflow run . -P epochs=3 -P cutout=true -P cutout_holes=1 -P cutout_size=16 -P cutout_p=1.0 "
        "-P cutout_fill=mean -P cutout_placement=published\n"
    )
    assert best.text.strip() in note(found, "#/")


def _path(record: object) -> str:
    return str(getattr(record, "path", ""))


def test_pairs_are_of_seeds_that_both_have(tmp_path: Path) -> None:
    gains = published_gains(0.02, 0.03, 0.04)

    def score(options: Options, seed: int) -> list[float] | Exception:
        failed = seed == FRESH + 1 and not options["cutout"]
        return ValueError("diverged") if failed else gains(options, seed)

    _, _, found = worked_off(tmp_path, score)
    assert found.final is not None
    assert found.final.seeds == (FRESH, FRESH + 2)
    assert found.final.goal == (pytest.approx((0.82, 0.84)), (0.80, 0.80))
    assert all(run.startswith("confirmation of cutout/") for side in found.final.runs for run in side)
    assert not found.shown  # two seeds give no interval


def test_without_a_single_pair_nothing_is_confirmed(tmp_path: Path) -> None:
    gains = published_gains()

    def score(options: Options, seed: int) -> list[float] | Exception:
        return ValueError("diverged") if seed >= FRESH and not options["cutout"] else [*gains(options, 0)]

    _, _, found = worked_off(tmp_path, score)
    assert found.final is None
    assert "It is not confirmed" in found.verdict[0]


def test_the_table_has_a_row_for_each_ticket_with_its_attempts(tmp_path: Path) -> None:
    ledger, settings = toy_study(tmp_path)
    work_off(ledger, settings, published_gains(0.01, 0.02, 0.03), most=4)
    assert work_off(ledger, settings, lambda options, seed: KeyboardInterrupt(), most=1) == 1
    (row,) = results(ledger, settings).table.tail(1).to_dict("records")
    assert (row["ticket"], row["state"], row["attempts"]) == (4, "to be repeated", 1)
    work_off(ledger, settings, published_gains(0.01, 0.02, 0.03))
    table = results(ledger, settings).table
    assert table["part"].tolist() == ["search"] * 9 + ["final"] * 6
    assert table["ticket"].tolist() == [*range(9), *range(6)]
    assert table["attempts"].tolist() == [1] * 4 + [2] + [1] * 10
    assert set(table["state"]) == {"complete"}
    assert len(ledger.search.get_trials(states=(TrialState.FAIL,))) == 1
    assert table["seed"].tolist()[9:] == [FRESH, FRESH, FRESH + 1, FRESH + 1, FRESH + 2, FRESH + 2]


def test_the_standing_tells_each_score_with_its_n(tmp_path: Path) -> None:
    def score(options: Options, seed: int) -> list[float]:
        return [0.8 + 0.001 * (seed % 10) + 0.01 * (options.get(SIZE) == "16")]

    _, _, found = worked_off(tmp_path, score, trials=40)
    rows = {row["name"]: row for row in found.standing.to_dict("records")}
    # 24 of search; the race of 8: six candidates with seed 1000, the best two with 1001; four pairs from 1002.
    winner, own = rows[PUBLISHED], rows[OWN]
    assert (winner["search"], winner["search_n"], winner["race"], winner["race_n"]) == (
        pytest.approx(0.81),
        1,
        pytest.approx((0.810 + 0.811) / 2),
        2,
    )
    assert (winner["confirmed"], winner["confirmed_n"]) == (pytest.approx(0.81 + 0.001 * (2 + 3 + 4 + 5) / 4), 4)
    assert (own["race_n"], own["confirmed_n"]) == (0, 4)
    assert found.standing["race_n"].sum() == 8


def test_several_objectives_confirm_what_is_on_their_front_first(tmp_path: Path) -> None:
    def score(options: Options, seed: int) -> list[float]:
        """The more holes, the less accurate and the more it looks at the object; the published one is beaten twice."""
        holes = options.get("cutout_holes", 0) if options["cutout"] else 0
        return [0.9, 0.1] if holes == 0 else [0.5 - 0.01 * holes, 0.5] if holes < 4 else [0.2, 0.9]

    ledger, settings, found = worked_off(
        tmp_path, score, objectives="val/accuracy,cam/layer3/focus", trials=30, space_size="0.3-0.4"
    )
    order = Agenda(ledger, settings).candidates(0)
    front = [candidate for candidate in order if candidate.options.get("cutout_holes") in (None, 1, 4)]
    assert len(front) >= 3
    assert order[: len(front)] == front
    assert {"val/accuracy", "cam/layer3/focus"} <= set(found.table.columns)


def test_every_objective_is_judged_by_the_pairs(tmp_path: Path) -> None:
    gains = {FRESH: 0.04, FRESH + 1: 0.05, FRESH + 2: 0.06}

    def score(options: Options, seed: int) -> list[float]:
        if options.get(SIZE) != "16":
            return [0.8 - 0.1 * options["cutout"], 0.5]
        return [0.85 + 0.1 * gains.get(seed, 0), 0.5 + gains.get(seed, 0)]

    _, _, found = worked_off(tmp_path, score, objectives="val/accuracy,cam/layer3/border")
    assert found.final is not None
    assert found.final.goals[1] == (pytest.approx((0.54, 0.55, 0.56)), (0.5, 0.5, 0.5))
    (other,) = [line for line in found.verdict if line.startswith("The other objective")]
    # A border's share is better when it is lower. Student's t: 4.3027 * 0.01 / sqrt(3) = 0.025.
    assert "border of layer3 0.550 against 0.500, difference +0.050 (95 % interval +0.025 to +0.075, 3 seeds)" in other
    winner = for_machines(found, "#/")["final"]["winner"]  # type: ignore[index]
    assert winner["objectives"] == {"val/accuracy": found.final.goal[0], "cam/layer3/border": found.final.goals[1][0]}


def test_the_front_of_a_stage_does_not_change_with_what_is_searched_later(tmp_path: Path) -> None:
    """Or its race would begin again, and the budget with it."""
    later = False

    def score(options: Options, seed: int) -> list[float]:
        holes = options.get("cutout_holes", 0)
        return [0.5 + 0.01 * holes + 0.2 * later, 0.5 - 0.01 * holes + 0.2 * later]

    goals = "val/accuracy,cam/layer3/focus"
    ledger, settings = toy_study(tmp_path, objectives=goals, sampler="random", trials=15)
    assert work_off(ledger, settings, score) == 15
    before = Agenda(ledger, settings).candidates(0)
    more = TuneSettings.of(**settings.as_params() | {"trials": 30})
    commission(ledger, more)
    later = True
    assert work_off(ledger, more, score) == 15
    assert [one.name for one in Agenda(ledger, more).candidates(0)] == [one.name for one in before]
    assert len(results(ledger, more).table) == 30


def test_the_winner_of_the_last_stage_is_the_verdicts(tmp_path: Path) -> None:
    ledger, settings = toy_study(tmp_path, sampler="random")
    work_off(ledger, settings, published_gains(0.02, 0.03, 0.04))
    more = TuneSettings.of(**settings.as_params() | {"trials": 30})
    commission(ledger, more)

    def score(options: Options, seed: int) -> list[float]:
        return [0.99 if options["cutout"] and options[SIZE] != "16" else 0.8]

    work_off(ledger, more, score)
    found = results(ledger, more)
    assert found.final is not None
    assert found.final.seeds == (2 * FRESH, 2 * FRESH + 1, 2 * FRESH + 2)
    assert found.final.winner.name.startswith("trial ")
    rounds = [trial.user_attrs["round"] for trial in ledger.confirmation.get_trials()]
    assert rounds == [FINAL] * 12


@pytest.mark.parametrize(("sampler", "tickets"), [("brute_force", 9 + 1), ("grid", 9 + 1)])
def test_a_search_of_everything_ends(tmp_path: Path, sampler: str, tickets: int) -> None:
    """Two sizes, probabilities and fills, and no Cutout, which is a baseline; the other baseline lies outside."""
    space = {"space_holes": "0-1", "space_size": "0.4-0.43", "space_p": "0.95-1", "space_placement": "inside"}
    ledger, settings = toy_study(tmp_path, sampler=sampler, confirm=False, trials=100, space_fill="mean,black", **space)
    assert settings.space.points == 9
    taken = work_off(ledger, settings, lambda options, seed: [0.5])
    labels = [label(ticket.last.user_attrs["options"]) for ticket in ledger.tickets(ledger.search)]
    assert len(set(labels)) == 9 + 1  # the published holes lie outside the space
    assert taken == tickets


def test_scores_as_they_are_written() -> None:
    assert written(0.91234, quantity("val/accuracy", "maximize")) == "91.23 %"
    assert written(1.25, quantity("val/loss", "minimize")) == "1.2500"
    assert quantity("cam/layer3/border", "minimize").better == "lower"


def test_samplers_learn_from_baselines_and_second_attempts(tmp_path: Path) -> None:
    ledger, settings = toy_study(tmp_path, confirm=False, trials=4)
    work_off(ledger, settings, lambda options, seed: [0.5], most=2)
    work_off(ledger, settings, lambda options, seed: KeyboardInterrupt(), most=1)
    work_off(ledger, settings, lambda options, seed: [0.5])
    for ticket in ledger.tickets(ledger.search):
        assert ticket.last.params == settings.space.params_of(ticket.last.user_attrs["options"])
    assert [len(ticket.attempts) for ticket in ledger.tickets(ledger.search)] == [1, 1, 2, 1]


@pytest.mark.parametrize("sampler", ["tpe", "random", "brute_force", "qmc"])
def test_an_interrupted_search_has_the_sequence_of_an_uninterrupted_one(tmp_path: Path, sampler: str) -> None:
    sequences = []
    for folder, interrupted in ((tmp_path / "a", ()), (tmp_path / "b", (3, 5))):
        folder.mkdir()
        ledger, settings = toy_study(folder, confirm=False, trials=8, sampler=sampler, space_size="0.25-0.3")
        for stop in interrupted:
            work_off(ledger, settings, _score, most=stop - len(ledger.tickets(ledger.search)))
            work_off(ledger, settings, lambda options, seed: KeyboardInterrupt(), most=1)
        work_off(ledger, settings, _score)
        sequences.append([label(ticket.last.user_attrs["options"]) for ticket in ledger.tickets(ledger.search)])
    assert sequences[0] == sequences[1]
    assert len(sequences[0]) == 8


def _score(options: Options, seed: int) -> list[float]:
    return [0.5 + 0.01 * options.get("cutout_holes", 0)]

"""The notes on Optuna's trials and studies: stored under plain keys, so that studies of former versions go on."""

import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from experiments.study.ledger import CONFIRMATION, Ledger
from experiments.study.notes import FINAL, Notes, StudyNotes, write
from experiments.study.race import Budget
from experiments.study.results import results, trials
from experiments.study.storage import open_storage
from tests.toys.study import settings_of, sqlite, work

OPTIONS = {
    **{"cutout": True, "cutout_holes": 1, "cutout_size": "6", "cutout_p": 1.0},
    **{"cutout_fill": "mean", "cutout_placement": "inside"},
}
DEAD = '["elsewhere", 1, "1"]'


def former_study(address: str, definition: dict[str, str]) -> None:
    """A study as the former code left it when it was interrupted: one training done, one failed, one stopped."""
    storage = open_storage(address, 1.0)
    for name in ("toy", CONFIRMATION + "toy"):
        study = optuna.create_study(study_name=name, storage=storage, directions=["maximize"])
        study.set_user_attr("definition", definition)
    search = optuna.load_study(study_name="toy", storage=storage)
    search.set_user_attr("given", {"trials": "6", "confirm": "false"})
    search.set_user_attr("stages", [{"search": 6, "race": 0, "pairs": 0}])
    search.set_user_attr("parent_run", "f00d")
    search.set_user_attr("search_until", None)
    search.set_user_attr("until", None)
    known = {"baseline": "own setting", "options": {"cutout": False}}
    for state, value, attrs in (
        (
            TrialState.COMPLETE,
            0.5,
            known | {"ticket": 0, "run": "a", "metrics": {"test/accuracy": 0.4}, "reused": True},
        ),
        (TrialState.FAIL, None, {"ticket": 1, "options": OPTIONS, "error": "ValueError: no such weather", "run": "b"}),
        (TrialState.FAIL, None, {"ticket": 2, "options": OPTIONS, "interrupted": True, "run": "c", "worker": DEAD}),
    ):
        attrs |= {"seed": attrs["ticket"], "label": "as it was", "attempt": 1}
        search.add_trial(optuna.create_trial(state=state, value=value, user_attrs=attrs))


def test_a_study_of_former_code_is_read_and_goes_on(tmp_path: Path) -> None:
    settings = settings_of(sqlite(tmp_path), trials=6, confirm=False)
    former_study(settings.storage, settings.definition())
    ledger = Ledger.create(settings, settings.definition())
    assert ledger.stages == [Budget(6, 0, 0)]
    assert ledger.notes.parent_run == "f00d"
    before = trials(ledger, settings.goals)
    assert before["state"].tolist() == ["complete", "failed", "to be repeated"]
    assert before["error"].tolist() == ["", "ValueError: no such weather", ""]
    assert before["name"].tolist() == ["own setting", "trial 1", "trial 2"]
    assert before["reused"].tolist() == [True, False, False]
    assert before["test/accuracy"].tolist()[0] == 0.4
    assert [one.name for one in results(ledger, settings).candidates] == ["own setting", "trial 1"]

    work(settings)
    again = ledger.tickets(ledger.search)[2]
    assert [trial.state for trial in again.attempts] == [TrialState.FAIL, TrialState.COMPLETE]
    # The attempt has the options, the seed and the run of the former one, but no trace of its end.
    assert again.last.user_attrs["options"] == OPTIONS
    assert again.last.user_attrs["seed"] == 2
    assert again.last.user_attrs["run"] == "c"
    assert again.last.user_attrs["attempt"] == 2
    assert again.last.user_attrs["worker"] != DEAD
    assert "interrupted" not in again.last.user_attrs
    after = trials(ledger, settings.goals)
    assert after["state"].tolist() == ["complete", "failed", "complete", "complete", "complete", "complete"]


def test_a_former_confirmation_has_its_place(tmp_path: Path) -> None:
    settings = settings_of(sqlite(tmp_path), trials=15)
    work(settings)
    ledger = Ledger("toy", settings.storage, 1.0)
    confirmed = ledger.confirmation.get_trials()
    assert {tuple(sorted(trial.user_attrs)) for trial in confirmed} == {
        ("attempt", "candidate", "label", "metrics", "options", "round", "seed", "stage", "ticket", "worker")
    }
    plain = {"ticket": 6, "stage": 0, "round": 1, "candidate": "trial 3", "seed": 7, "options": OPTIONS}
    ledger.confirmation.add_trial(optuna.create_trial(state=TrialState.COMPLETE, value=0.7, user_attrs=plain))
    (ticket,) = [one for one in ledger.tickets(ledger.confirmation) if one.number == 6]
    assert (ticket.notes.part, ticket.notes.name) == ("race 2", "trial 3")
    assert results(ledger, settings).raced == {"trial 3": (0.7,)}


def test_a_trial_by_other_hands_is_no_ticket(tmp_path: Path) -> None:
    settings = settings_of(sqlite(tmp_path), trials=6, confirm=False)
    work(settings)
    ledger = Ledger("toy", settings.storage, 1.0)
    ledger.search.add_trial(optuna.create_trial(value=1.0, user_attrs={"from": "a dashboard"}))
    assert [ticket.number for ticket in ledger.tickets(ledger.search)] == list(range(6))


def test_only_what_is_noted_is_stored_and_read_back() -> None:
    study = optuna.create_study()
    trial = study.ask()
    notes = write(trial, Notes.of(trial), ticket=3, seed=0, options=OPTIONS, reused=False)
    assert trial.user_attrs == {"ticket": 3, "seed": 0, "options": OPTIONS, "reused": False}
    assert Notes.of(trial) == Notes.of(study.trials[0]) == notes == Notes(3, OPTIONS, seed=0)
    assert notes.attrs == {"ticket": 3, "seed": 0, "options": OPTIONS}
    with pytest.raises(TypeError, match="sead"):
        write(trial, notes, sead=1)


def test_a_time_limit_can_be_taken_back() -> None:
    study = optuna.create_study()
    assert StudyNotes.of(study) == StudyNotes()
    write(study, StudyNotes.of(study), until=time.time())
    assert write(study, StudyNotes.of(study), until=None) == StudyNotes.of(study) == StudyNotes()


@pytest.mark.parametrize(
    ("notes", "part", "name"),
    [
        (Notes(7), "search", "trial 7"),
        (Notes(0, baseline="no cutout"), "search", "no cutout"),
        (Notes(0, candidate="trial 7", round=0), "race 1", "trial 7"),
        (Notes(9, candidate="no cutout", round=FINAL), "final", "no cutout"),
    ],
)
def test_part_and_name(notes: Notes, part: str, name: str) -> None:
    assert (notes.part, notes.name) == (part, name)

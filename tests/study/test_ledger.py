"""The ledger's promises: tickets are exact, none is lost or done twice, whatever is killed; real processes die here."""

import json
import os
import random
import signal
import subprocess
import sys
import time
import traceback
import uuid
import warnings
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import optuna
import pytest
import sqlalchemy as sa
from optuna.trial import TrialState

from experiments.settings.variants import OWN
from experiments.study.addresses import StorageLost, StudyError, StudyStopped
from experiments.study.agenda import Agenda, Idle
from experiments.study.ledger import ATTEMPTS, Ledger
from experiments.study.lost_workers import LostWorkers, worker_name
from experiments.study.notes import Notes, write
from experiments.study.race import Budget
from experiments.study.settings import Sampler, TuneSettings
from experiments.study.space import Options, label
from experiments.study.storage import CONNECT_S, open_storage, telling_of_loss
from experiments.study.tune import commission
from experiments.study.worker import Attempt
from experiments.system.processes import here, is_alive, started
from experiments.system.secrets import without_password
from experiments.tracking.signals import Terminated, terminated_by_signal
from tests.conftest import PATIENCE_S, free_port
from tests.toys.postgres import PASSWORD, Postgres
from tests.toys.study import (
    ToyAttempt,
    ToyWorker,
    child,
    end_of,
    killed_at,
    opened,
    sequence,
    settings_of,
    sqlite,
    work,
    worker,
)

pytestmark = pytest.mark.slow


@pytest.fixture(params=["sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An address of a study that is not there yet."""
    if request.param == "sqlite":
        return sqlite(tmp_path)
    server: Postgres = request.getfixturevalue("postgres")
    return server.address(f"db{uuid.uuid4().hex}")


def states(ledger: Ledger) -> Counter[TrialState]:
    """How many attempts of both parts are in each state."""
    return Counter(trial.state for study in (ledger.search, ledger.confirmation) for trial in study.get_trials())


def running(ledger: Ledger, **attrs: object) -> int:
    """The number of an attempt at ticket 0 that someone has begun."""
    ledger.search.enqueue_trial({}, user_attrs={"ticket": 0, **attrs})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that nobody gives signs of life for it is the point
        return ledger.search.ask().number


def sweep(ledger: Ledger) -> None:
    """Looks once for workers that are gone."""
    with ledger.locked():
        LostWorkers(ledger).sweep()


def dead_process() -> tuple[int, str]:
    """Number and start of a process that is gone."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = started(process.pid)
    process.kill()
    process.wait()
    assert process.stdin
    process.stdin.close()
    return process.pid, start


# How many


def test_a_study_has_exactly_as_many_trainings_as_were_asked_for(storage: str) -> None:
    settings = settings_of(storage)
    work(settings)
    ledger = opened(settings)
    assert states(ledger) == {TrialState.COMPLETE: 24}
    # 60 % of 24, the nearest whole number; of the other ten twice three pairs, the rest a race.
    assert ledger.stages == [Budget(14, 4, 3)]
    assert [ticket.number for ticket in ledger.tickets(ledger.search)] == list(range(14))
    assert [ticket.number for ticket in ledger.tickets(ledger.confirmation)] == list(range(10))


def test_what_is_finished_is_not_done_again(storage: str) -> None:
    settings = settings_of(storage)
    work(settings)
    before = [trial.datetime_complete for trial in opened(settings).search.get_trials()]
    work(settings)
    assert [trial.datetime_complete for trial in opened(settings).search.get_trials()] == before


def test_more_trials_are_added_to_those_that_are_there(storage: str) -> None:
    work(settings_of(storage, trials=20))
    first = sequence(opened(settings_of(storage, trials=20)))
    work(settings_of(storage, trials=30))
    ledger = opened(settings_of(storage, trials=30))
    assert states(ledger) == {TrialState.COMPLETE: 30}
    # Ten more are too few for another confirmation: they are searched.
    assert ledger.stages == [Budget(12, 2, 3), Budget(10, 0, 0)]
    assert [row for row in sequence(ledger) if row in first] == first


def test_a_second_confirmation_has_seeds_of_its_own(tmp_path: Path) -> None:
    work(settings_of(sqlite(tmp_path), trials=15))
    work(settings_of(sqlite(tmp_path), trials=35))
    ledger = opened(settings_of(sqlite(tmp_path), trials=35))
    seeds: dict[int, set[int]] = {0: set(), 1: set()}
    for trial in ledger.confirmation.get_trials():
        seeds[trial.user_attrs["stage"]].add(trial.user_attrs["seed"])
    assert all(seeds.values())
    assert not seeds[0] & seeds[1]


# The same sequence


@pytest.mark.parametrize("dice", [0, *(pytest.param(dice, marks=pytest.mark.wild) for dice in range(1, 10))])
def test_one_worker_that_is_killed_anywhere_goes_on_as_if_nothing_had_been(tmp_path: Path, dice: int) -> None:
    (tmp_path / "whole").mkdir()
    whole = settings_of(sqlite(tmp_path / "whole"))
    work(whole)

    killed = settings_of(sqlite(tmp_path))
    draw = random.Random(dice)
    deaths = 0
    while end_of(child(killed_at(draw.randrange(120, 400), killed))) == -signal.SIGKILL:
        deaths += 1
    assert deaths > 2
    ledger = opened(killed)
    assert sequence(ledger) == sequence(opened(whole))
    assert states(ledger).keys() <= {TrialState.COMPLETE, TrialState.FAIL}
    assert states(ledger)[TrialState.COMPLETE] == 24


@pytest.mark.parametrize("name", get_args(Sampler))
def test_every_sampler_proposes_the_tickets(tmp_path: Path, name: str) -> None:
    given = {"space_holes": "0-1", "space_size": "0.25-0.375", "space_p": "0.95-1", "space_fill": "mean"}
    # As many as a grid has points: six of one hole, and none.
    settings = settings_of(sqlite(tmp_path), sampler=name, trials=7, confirm=False, space_placement="inside", **given)
    work(settings)
    ledger = opened(settings)
    assert states(ledger) == {TrialState.COMPLETE: 7}


@pytest.mark.parametrize("name", ["grid", "brute_force"])
def test_a_grid_has_every_point_once_and_then_ends(tmp_path: Path, name: str) -> None:
    given = {"space_holes": "0-1", "space_size": "0.25-0.375", "space_p": "0.95-1", "space_fill": "mean"}
    settings = settings_of(sqlite(tmp_path), sampler=name, trials=100, confirm=False, space_placement="inside", **given)
    work(settings)
    searched = [row[1] for row in sequence(opened(settings))]
    points = ["no cutout"] + [f"1 hole of {size} px, {p}inside" for size in (4, 5, 6) for p in ("p 0.95, ", "")]
    assert set(points) <= set(searched)


def test_settings_that_come_back_get_another_seed(tmp_path: Path) -> None:
    given = {"space_holes": "0-1", "space_size": "0.25-0.25", "space_p": "1-1", "space_fill": "mean"}
    settings = settings_of(sqlite(tmp_path), trials=12, confirm=False, space_placement="published", **given)
    work(settings)
    seeds: dict[str, list[int]] = {}
    for _, holes, seed, _ in sequence(opened(settings)):
        seeds.setdefault(holes, []).append(seed)
    assert max(map(len, seeds.values())) > 2
    assert all(sorted(found) == list(range(len(found))) for found in seeds.values())


# Several workers


def test_several_workers_never_claim_a_ticket_twice(storage: str) -> None:
    settings = settings_of(storage)
    opened(settings)
    assert [end_of(pid) for pid in [child(lambda: work(settings)) for _ in range(4)]] == [0] * 4
    ledger = opened(settings)
    assert states(ledger) == {TrialState.COMPLETE: 24}
    assert len(ledger.tickets(ledger.search)) + len(ledger.tickets(ledger.confirmation)) == 24
    searched = [row[:3] for row in sequence(ledger)[:14]]
    assert len({row[1:] for row in searched}) == 14  # nor the same training under two tickets


def test_several_first_starts_at_once_make_one_study(storage: str) -> None:
    settings = settings_of(storage)
    assert [end_of(pid) for pid in [child(lambda: opened(settings)) for _ in range(5)]] == [0] * 5
    names = optuna.get_all_study_names(open_storage(storage, 1.0))
    assert sorted(names) == ["confirmation of toy", "toy"]
    assert opened(settings).stages == [Budget(14, 4, 3)]


def test_several_workers_of_which_some_are_killed(storage: str) -> None:
    settings = settings_of(storage)
    opened(settings)
    draw = random.Random(4)
    alive = [child(killed_at(draw.randrange(200, 900), settings)) for _ in range(3)]
    while alive:
        code = end_of(alive.pop(0))
        assert code in (0, -signal.SIGKILL)
        if code:
            alive.append(child(killed_at(draw.randrange(200, 900), settings)))
    ledger = opened(settings)
    assert states(ledger).keys() <= {TrialState.COMPLETE, TrialState.FAIL}
    completed = [
        (study.study_name, trial.user_attrs["ticket"])
        for study in (ledger.search, ledger.confirmation)
        for trial in study.get_trials(states=[TrialState.COMPLETE])
    ]
    assert len(completed) == len(set(completed)) == 24


# Workers that are gone


def test_an_attempt_without_a_worker_was_killed_when_it_was_claimed(storage: str) -> None:
    """A worker signs under the lock. So an attempt without a name, seen under the lock, belongs to a dead worker."""
    ledger = opened(settings_of(storage))
    number = running(ledger)
    sweep(ledger)
    assert ledger.search.get_trials()[number].state == TrialState.FAIL


def test_a_dead_worker_of_this_machine_is_noticed_at_once(storage: str) -> None:
    ledger = opened(settings_of(storage, heartbeat=3600))
    number = running(ledger, worker=json.dumps([here(), *dead_process()]))
    sweep(ledger)
    assert ledger.search.get_trials()[number].state == TrialState.FAIL


def test_a_living_worker_is_left_alone(storage: str) -> None:
    ledger = opened(settings_of(storage))
    number = running(ledger, worker=worker_name())
    sweep(ledger)
    assert ledger.search.get_trials()[number].state == TrialState.RUNNING


def test_a_worker_of_another_machine_that_never_gave_a_sign_of_life_counts_as_dead_in_the_end(tmp_path: Path) -> None:
    settings = settings_of(sqlite(tmp_path))
    ledger = opened(settings)
    number = running(ledger, worker=json.dumps(["elsewhere", 1, "1"]))
    lost = LostWorkers(ledger)
    with ledger.locked():
        lost.sweep()
    assert ledger.search.get_trials()[number].state == TrialState.RUNNING
    end = time.monotonic() + PATIENCE_S
    while ledger.search.get_trials()[number].state == TrialState.RUNNING and time.monotonic() < end:
        time.sleep(0.5)
        with ledger.locked():
            lost.sweep()
    assert ledger.search.get_trials()[number].state == TrialState.FAIL


def test_a_process_that_nobody_has_buried_is_dead() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = started(process.pid)
    assert is_alive(process.pid, start)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, but still in the table of processes
    assert not is_alive(process.pid, start)
    assert not is_alive(process.pid, "")
    process.communicate()


class Deadly(ToyAttempt):
    """Brings down every worker that tries ticket 1."""

    def values(self, trial: optuna.Trial, options: Options, seed: int) -> list[float]:
        if trial.user_attrs["ticket"] == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().values(trial, options, seed)


class Interrupted(ToyAttempt):
    """Is interrupted by Ctrl-C at ticket 1."""

    def values(self, trial: optuna.Trial, options: Options, seed: int) -> list[float]:
        if trial.user_attrs["ticket"] == 1:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(PATIENCE_S)
        return super().values(trial, options, seed)


class Faulty(ToyAttempt):
    """Raises at ticket 1."""

    def values(self, trial: optuna.Trial, options: Options, seed: int) -> list[float]:
        if trial.user_attrs["ticket"] == 1:
            raise ValueError("no such weather\nat all")
        return super().values(trial, options, seed)


def with_attempt(kind: type[Attempt]) -> type[ToyWorker]:
    """A worker whose attempts are of that kind."""
    return type("Of", (ToyWorker,), {"attempt": lambda self, study, release: kind(self, study, release)})


def test_a_ticket_that_brings_down_every_worker_is_given_up(tmp_path: Path) -> None:
    settings = settings_of(sqlite(tmp_path), trials=6, confirm=False)
    ends = []
    while not ends or ends[-1]:
        ends.append(end_of(child(lambda: work(settings, with_attempt(Deadly)))))
    assert ends == [-signal.SIGKILL] * ATTEMPTS + [0]
    ledger = opened(settings)
    tickets = ledger.tickets(ledger.search)
    assert [ticket.given_up for ticket in tickets] == [False, True, False, False, False, False]
    assert len(tickets[1].attempts) == ATTEMPTS


@pytest.mark.usefixtures("hears_ctrl_c")
def test_ctrl_c_does_not_count_as_a_death(tmp_path: Path) -> None:
    settings = settings_of(sqlite(tmp_path), trials=6, confirm=False)
    for _ in range(ATTEMPTS + 2):
        with pytest.raises(KeyboardInterrupt):
            work(settings, with_attempt(Interrupted))
    work(settings)
    ledger = opened(settings)
    tickets = ledger.tickets(ledger.search)
    assert [ticket.result.state for ticket in tickets] == [TrialState.COMPLETE] * 6
    assert [trial.state for trial in tickets[1].attempts] == [TrialState.FAIL] * (ATTEMPTS + 2) + [TrialState.COMPLETE]


@pytest.mark.parametrize("when", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_end_is_no_death_whenever_it_comes(tmp_path: Path, when: signal.Signals) -> None:
    """`tune` ends its workers so; they are asked at every moment of an attempt."""
    settings = settings_of(sqlite(tmp_path), trials=400, confirm=False)
    ledger = opened(settings)
    draw = random.Random(1)
    for _ in range(6):
        before = len(ledger.search.get_trials())
        pid = child(lambda: work(settings, with_attempt(Slow)))
        while len(ledger.search.get_trials()) < before + 2:  # the first attempt is over, another has begun
            time.sleep(0.05)
        time.sleep(draw.uniform(0, 0.4))
        os.kill(pid, when)
        end_of(pid)
    sweep(ledger)
    assert TrialState.RUNNING not in states(ledger)
    assert not any(ticket.given_up for ticket in ledger.tickets(ledger.search))
    assert states(ledger)[TrialState.COMPLETE] > 0
    assert any("interrupted" in trial.user_attrs for trial in ledger.search.get_trials(states=[TrialState.FAIL]))


def test_a_request_to_end_never_interrupts_a_call_of_the_storage(tmp_path: Path) -> None:
    """A transaction that is left open would keep the next call of the same process waiting for a minute."""
    ledger = opened(settings_of(sqlite(tmp_path)))
    asked: list[str] = []

    def ask(*event: object) -> None:
        if not asked and event[2] == "BEGIN IMMEDIATE":
            asked.append(str(event[2]))
            os.kill(os.getpid(), signal.SIGTERM)

    sa.event.listen(ledger.storage.engine, "before_cursor_execute", ask)
    with terminated_by_signal():
        with pytest.raises(Terminated):
            ledger.note(parent_run="abc")
        assert asked == ["BEGIN IMMEDIATE"]
        assert ledger.notes.parent_run == "abc"


class Slow(ToyAttempt):
    """Takes a moment."""

    def values(self, trial: optuna.Trial, options: Options, seed: int) -> list[float]:
        time.sleep(0.2)
        return super().values(trial, options, seed)


def test_a_failure_is_recorded_and_does_not_stop_the_study(storage: str) -> None:
    settings = settings_of(storage, trials=6, confirm=False)
    work(settings, with_attempt(Faulty))
    ledger = opened(settings)
    tickets = ledger.tickets(ledger.search)
    assert [len(ticket.attempts) for ticket in tickets] == [1] * 6
    assert tickets[1].last.state == TrialState.FAIL
    assert tickets[1].last.user_attrs["error"] == "ValueError: no such weather"
    assert states(ledger)[TrialState.COMPLETE] == 5


class Swept(ToyAttempt):
    """Counts as dead while it works."""

    def values(self, trial: optuna.Trial, options: Options, seed: int) -> list[float]:
        values = super().values(trial, options, seed)
        if trial.user_attrs["ticket"] == 1 and trial.user_attrs["attempt"] == 1:
            ledger = self._worker.ledger
            ledger.fail(ledger.search.get_trials()[trial.number])
        return values


def test_a_worker_whose_ticket_was_given_to_another_goes_on_with_the_next(storage: str) -> None:
    settings = settings_of(storage, trials=6, confirm=False)
    work(settings, with_attempt(Swept))
    ledger = opened(settings)
    assert states(ledger) == {TrialState.COMPLETE: 6, TrialState.FAIL: 1}


class SweptAtTheEnd(ToyWorker):
    """Counts as dead at the last moment: Optuna has looked already, and now writes the end of the attempt."""

    def attempt(self, study: optuna.Study, release: object) -> Attempt:
        ledger = self.ledger
        original = study.sampler.after_trial

        def after_trial(study_: optuna.Study, trial: optuna.trial.FrozenTrial, *rest: object) -> None:
            if trial.user_attrs["ticket"] == 1 and trial.user_attrs["attempt"] == 1:
                ledger.fail(trial)
            original(study_, trial, *rest)

        study.sampler.after_trial = after_trial
        return super().attempt(study, release)


def test_a_worker_whose_ticket_was_given_away_at_the_last_moment(storage: str) -> None:
    settings = settings_of(storage, trials=6, confirm=False)
    work(settings, SweptAtTheEnd)
    assert states(opened(settings)) == {TrialState.COMPLETE: 6, TrialState.FAIL: 1}


class Outage(ToyAttempt):
    """The database is restarted, as in a crash, while ticket 1 is in hand."""

    server: Postgres

    def values(self, trial: optuna.Trial, options: Options, seed: int) -> list[float]:
        if trial.user_attrs["ticket"] == 1 and trial.user_attrs["attempt"] == 1:
            connection = self._worker.ledger.storage.engine.connect()  # one that is in use breaks
            self.server.restart()
            connection.exec_driver_sql("SELECT 1")
        return super().values(trial, options, seed)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_that_the_database_is_away_is_no_fault_of_the_ticket(postgres: Postgres) -> None:
    settings = settings_of(postgres.address("outage"), trials=6, confirm=False)
    Outage.server = postgres
    work(settings, with_attempt(Outage))
    ledger = opened(settings)
    tickets = ledger.tickets(ledger.search)
    assert [ticket.result.state for ticket in tickets] == [TrialState.COMPLETE] * 6
    assert [len(ticket.attempts) for ticket in tickets] == [1, 2, 1, 1, 1, 1]
    assert Notes.of(tickets[1].attempts[0]).interrupted


# What is refused


def test_a_study_with_another_space_is_refused_in_one_line(storage: str) -> None:
    opened(settings_of(storage))
    with pytest.raises(StudyError, match=r"^study=toy: exists already with space_holes=0-4, not 0-2; .*NAME$"):
        opened(settings_of(storage, space_holes="0-2"))
    assert states(opened(settings_of(storage))) == {}


def test_a_study_that_is_not_there_is_refused_in_one_line(storage: str) -> None:
    with pytest.raises(StudyError, match=r"^study=toy: .* contains no study with this name; .*mlflow run"):
        Ledger("toy", storage, 1.0)


def test_sqlite_in_a_place_that_is_no_folder_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        StudyError, match=r"^storage=sqlite:///.*cannot be opened, because there is no folder .*/file: "
    ):
        open_storage(f"sqlite:///{tmp_path}/file/studies.db", 1.0)


def whole_story(error: BaseException) -> str:
    """Everything that is said anywhere in the chain of errors."""
    words, seen = [], set()
    todo: list[BaseException | None] = [error]
    while todo:
        one = todo.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            words += [repr(one), str(one), *getattr(one, "__notes__", [])]
            todo += [one.__cause__, one.__context__]
    return "\n".join([*words, *traceback.format_exception(error)])


@pytest.mark.parametrize("host", ["127.0.0.1", "192.0.2.1"])  # refuses; answers never (a network for documentation)
def test_a_database_that_does_not_answer_is_refused_without_the_password(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("psycopg")
    import psycopg

    port, connect, limits = free_port(), psycopg.connect, []

    def connected(*given: Any, connect_timeout: int, **named: Any) -> Any:
        limits.append(connect_timeout)
        return connect(*given, connect_timeout=connect_timeout, **named)

    monkeypatch.setattr(psycopg, "connect", connected)
    with pytest.raises(StudyError) as caught:
        open_storage(f"postgresql://me:{PASSWORD}@{host}:{port}/studies", 1.0)
    assert limits == [CONNECT_S]  # once: what the user is promised
    assert str(caught.value).startswith(f"storage=postgresql://me:***@{host}:{port}/studies: does not answer (")
    assert "\n" not in str(caught.value)
    assert PASSWORD not in whole_story(caught.value)


def test_a_wrong_password_is_refused_without_it(postgres: Postgres) -> None:
    wrong = postgres.address("locked").replace(PASSWORD, "guess-of-mine")
    with pytest.raises(StudyError, match="password authentication failed") as caught:
        open_storage(wrong, 1.0)
    assert "guess-of-mine" not in whole_story(caught.value)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("sqlite:///studies.db", "sqlite:///studies.db"),
        ("postgresql://host/db", "postgresql://host/db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
        ("postgresql://me:secret@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql://me:sec/ret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:sec#ret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:sec?ret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:sec@ret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:sec%40ret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db?user=me&password=***"),
        ("postgresql://host/db?password=secret&sslmode=require", "postgresql://host/db?password=***&sslmode=require"),
    ],
)
def test_an_address_is_shown_without_its_password(given: str, shown: str) -> None:
    assert without_password(given) == shown


def test_no_password_is_written_into_the_study(tmp_path: Path) -> None:
    ledger = opened(settings_of(sqlite(tmp_path)))
    commission(ledger, TuneSettings.of(storage=f"postgresql://me:{PASSWORD}@host/db", trials=24))
    assert ledger.notes.given == {"trials": "24"}


def test_the_own_setting_is_the_first_ticket(tmp_path: Path) -> None:
    settings = settings_of(sqlite(tmp_path))
    work(settings)
    ledger = opened(settings)
    first = ledger.tickets(ledger.search)[0].result
    assert first.user_attrs["baseline"] == OWN
    assert label(first.user_attrs["options"]) == label(settings.own_holes)


# What proposes settings


@pytest.mark.parametrize("name", ["gp", "qmc", "cmaes"])
def test_samplers_that_know_no_conditions_propose_the_holes_together(tmp_path: Path, name: str) -> None:
    settings = settings_of(sqlite(tmp_path), sampler=name, trials=24, confirm=False)
    work(settings)
    ledger = opened(settings)
    ledger.proposing(settings)
    trials = ledger.search.get_trials()
    together = set(ledger.search.sampler.infer_relative_search_space(ledger.search, trials[-1]))
    axes = settings.space.axes().keys()
    assert together == axes - ({"cutout_fill", "cutout_placement"} if name == "cmaes" else set())
    # What two of them leave where they have proposed something; the third does from the first trial on.
    mark = {"gp": "gp:", "cmaes": "cma:generation", "qmc": ""}[name]
    by_itself = [
        trial
        for trial in trials
        if "baseline" not in trial.user_attrs and any(key.startswith(mark) for key in [*trial.system_attrs, ""])
    ]
    assert len(by_itself) >= 3
    assert all(together <= trial.params.keys() for trial in by_itself)


# Time, faults and losses


class OutOfMemory(ToyAttempt):
    """A device that another program has filled."""

    def values(self, trial: optuna.Trial, options: Options, seed: int) -> list[float]:
        raise RuntimeError("CUDA out of memory")


def test_a_machine_on_which_everything_fails_does_not_use_up_the_study(storage: str) -> None:
    settings = settings_of(storage)
    with pytest.raises(
        StudyStopped, match="3 trainings failed one after another, the last with out of memory; give a smaller"
    ):
        work(settings, with_attempt(OutOfMemory))
    assert len([trial for trial in opened(settings).search.get_trials() if "error" in trial.user_attrs]) == 2
    work(settings)
    ledger = opened(settings)
    assert states(ledger)[TrialState.COMPLETE] == 24 - 2


def test_when_the_time_is_up_the_search_ends_and_what_it_leaves_is_confirmed(tmp_path: Path) -> None:
    settings = settings_of(sqlite(tmp_path), hours=1)
    ledger = opened(settings)
    hand = worker(ledger, settings)
    for _ in range(5):
        hand._take()
    ledger.note(search_until=time.time() - 1)
    hand.work()
    assert ledger.stages[0].search == 5
    assert ledger.stages[0].pairs >= 3
    assert len(ledger.tickets(ledger.search)) == 5
    assert len(ledger.tickets(ledger.confirmation)) == ledger.stages[0].total - 5


def test_time_ends_the_search_of_every_stage_and_no_stage_gets_less_than_nothing(tmp_path: Path) -> None:
    opened(settings_of(sqlite(tmp_path), trials=15, confirm=False))
    more = settings_of(sqlite(tmp_path), trials=30, confirm=False, hours=1)
    ledger = opened(more)
    hand = worker(ledger, more)
    hand._take()
    ledger.note(search_until=time.time() - 1)
    hand.work()
    assert ledger.stages == [Budget(1, 0, 0), Budget(0, 0, 0)]


def test_after_the_time_a_worker_waits_for_pairs_that_others_have_in_hand(tmp_path: Path) -> None:
    settings = settings_of(sqlite(tmp_path), hours=1)
    ledger = opened(settings)
    hand = worker(ledger, settings)
    while len(ledger.tickets(ledger.confirmation)) <= ledger.stages[0].race:
        hand._take()
    agenda = Agenda(ledger, settings)
    found = agenda.next()
    assert found is ledger.confirmation
    with pytest.warns(UserWarning, match="Heartbeat"):
        taken = ledger.confirmation.ask()
    write(taken, Notes.of(taken), worker=worker_name())
    ledger.note(until=time.time() - 1)
    assert agenda.next() is Idle.WAIT
    ledger.confirmation.tell(taken, 0.5)
    assert agenda.next() is Idle.DONE


def test_a_lost_database_is_told_in_one_line_also_where_optuna_raises_something_else() -> None:
    address = "postgresql://me:secret@host/studies"

    def as_optuna_does() -> None:
        try:
            raise sa.exc.OperationalError("SELECT 1", {}, Exception("no route to secret@host"))
        finally:
            raise AssertionError("Should not reach.")

    with pytest.raises(StorageLost, match="does not answer any more") as told, telling_of_loss(address):
        as_optuna_does()
    assert "secret" not in str(told.value)
    with pytest.raises(AssertionError, match="of our own"), telling_of_loss(address):
        raise AssertionError("of our own")


def test_a_lost_sign_of_life_does_not_end_the_heart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = opened(settings_of(sqlite(tmp_path)))

    def gone(*ignored: object) -> None:
        raise sa.exc.OperationalError("INSERT", {}, Exception("gone"))

    monkeypatch.setattr(optuna.storages.RDBStorage, "record_heartbeat", gone)
    ledger.storage.record_heartbeat(0)

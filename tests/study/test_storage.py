"""What a storage can be, and what happens when it is away: each in one line, and nothing is lost."""

import os
import sqlite3
import threading
from pathlib import Path

import optuna
import pytest
import sqlalchemy as sa

from experiments.study import reconnect, storage
from experiments.study.addresses import StorageLost, StudyError
from experiments.study.reconnect import until_it_answers
from experiments.study.storage import open_storage
from experiments.study.storage_lock import lock_of
from experiments.system import sqlite_files, waiting
from tests.toys.postgres import Postgres
from tests.toys.study import child, end_of, opened, settings_of, sqlite, work


def problem(address: str) -> str:
    """The one line in which the storage is refused."""
    with pytest.raises(StudyError) as refused:
        open_storage(address, 1.0)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def execute(file: Path, *statements: str) -> None:
    connection = sqlite3.connect(file)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def test_the_file_of_mlflow_is_refused_and_left(store: Path) -> None:
    before = (store / "mlflow.db").read_bytes()
    said = problem(f"sqlite:///{store}/mlflow.db")
    assert said.endswith("mlflow.db: is MLflow's own file; give another one, such as sqlite:///studies.db")
    assert (store / "mlflow.db").read_bytes() == before


def test_a_database_of_something_else_is_refused_and_left(tmp_path: Path) -> None:
    execute(tmp_path / "shop.db", "CREATE TABLE customers (name)")
    before = (tmp_path / "shop.db").read_bytes()
    assert "is a database of another program, with tables such as customers; give another file" in problem(
        f"sqlite:///{tmp_path}/shop.db"
    )
    assert (tmp_path / "shop.db").read_bytes() == before


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("milk\n" * 100)
    assert (
        "notes.txt is no SQLite database: restore it from a copy if it was one, or give another file with"
        in problem(f"sqlite:///{tmp_path}/notes.txt")
    )


@pytest.mark.parametrize(
    ("version", "said"),
    [
        (
            "v3.0.0.d",
            "was made by Optuna 0.1, which is older than 5.0.0: make a copy of it, then run `optuna storage up",
        ),
        ("v99.0.0.a", "was made by Optuna 0.1, which is newer than 5.0.0: use that Optuna, or give another file"),
    ],
)
def test_a_storage_of_another_optuna_is_named(tmp_path: Path, version: str, said: str) -> None:
    opened(settings_of(sqlite(tmp_path)))
    versions = f"UPDATE alembic_version SET version_num = '{version}'"
    execute(tmp_path / "studies.db", versions, "UPDATE version_info SET library_version = '0.1'")
    assert said in problem(sqlite(tmp_path))


def test_a_study_of_another_program_is_refused_and_left(tmp_path: Path) -> None:
    foreign = optuna.create_study(study_name="toy", storage=sqlite(tmp_path), direction="maximize")
    foreign.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    with pytest.raises(
        StudyError, match=r"^study=toy: .* a study of another program with this name \(2 trials\); give"
    ):
        opened(settings_of(sqlite(tmp_path)))
    assert optuna.load_study(study_name="toy", storage=sqlite(tmp_path)).user_attrs == {}


def test_a_lock_is_waited_for_and_its_holder_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "SAY_S", 0.05)
    asked, released = os.pipe()
    holding, held = os.pipe()

    def hold() -> None:
        with lock_of(sqlite(tmp_path)):
            os.write(held, b"x")
            os.read(asked, 1)

    holder = child(hold)
    os.read(holding, 1)
    threading.Timer(0.5, lambda: os.write(released, b"x")).start()
    with lock_of(sqlite(tmp_path)):
        pass
    assert end_of(holder) == 0
    said = f"waiting for the study in {tmp_path}/studies.db, which another program uses: {tmp_path}/studies.db.lock is"
    assert f"{said} locked by process {holder} (" in capfd.readouterr().err


def test_an_sqlite_file_that_another_program_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = opened(settings_of(sqlite(tmp_path)))
    monkeypatch.setattr(sqlite_files, "SAY_S", 0.02)
    monkeypatch.setattr(sqlite_files, "LOCKED_S", 0.05)
    connection = sqlite3.connect(tmp_path / "studies.db", isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    with (
        pytest.raises(StorageLost, match=r"studies\.db is locked by another program: wait until that has ended"),
        storage.telling_of_loss(ledger.address),
    ):
        ledger.note(parent_run="x")
    connection.close()


def test_pauses_grow_and_the_last_error_comes_after_all(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(reconnect, "_wait", pauses.append)
    monkeypatch.setattr(reconnect.time, "monotonic", lambda: sum(pauses))

    def away() -> None:
        raise OSError("password=s3cret is away")

    with pytest.raises(OSError, match="is away"):
        until_it_answers("postgresql://me:s3cret@host/x", away, OSError)
    assert pauses[:8] == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert 540 < sum(pauses) <= 600
    answers = iter([OSError("away"), OSError("away"), 7])

    def back() -> int:
        answer = next(answers)
        if isinstance(answer, OSError):
            raise answer
        return answer

    assert until_it_answers("postgresql://me:s3cret@host/x", back, OSError) == 7
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("storage=postgresql://me:***@host/x: does not answer (")
    assert said[0].endswith("; trying again for 600 seconds")
    assert said[1:] == ["storage=postgresql://me:***@host/x: answers again"]
    assert "s3cret" not in "".join(said)


def test_a_statement_whose_connection_breaks_is_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = opened(settings_of(sqlite(tmp_path)))
    real, breaks = optuna.storages.RDBStorage.get_study_user_attrs, [True, True]
    broken = sa.exc.OperationalError("SELECT", {}, Exception("gone"), connection_invalidated=True)

    def sometimes(self: object, study_id: int) -> object:
        if breaks:
            breaks.pop()
            raise broken
        return real(self, study_id)

    monkeypatch.setattr(type(ledger.storage), "get_study_user_attrs", storage._again(sometimes))
    assert ledger.notes.definition is not None
    breaks[:] = [True] * storage.TRIES
    with pytest.raises(sa.exc.OperationalError):
        ledger.storage.get_study_user_attrs(1)


@pytest.mark.slow
def test_a_study_goes_on_when_postgresql_was_stopped_for_a_while(
    postgres: Postgres, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_of(postgres.address("stopped"), trials=6, confirm=False)
    ledger = opened(settings)
    monkeypatch.setattr(reconnect, "FIRST_PAUSE_S", 0.05)
    postgres.stop()
    threading.Timer(0.5, postgres.start).start()
    assert ledger.planned == 6
    assert "answers again" in capsys.readouterr().err
    work(settings)
    assert [trial.state.name for trial in opened(settings).search.get_trials()] == ["COMPLETE"] * 6


@pytest.mark.slow
def test_the_holder_of_a_lock_of_postgresql_is_said(
    postgres: Postgres, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    address = postgres.address("held")
    monkeypatch.setattr("experiments.study.storage_lock.SAY_S", 0.05)
    asked, released = os.pipe()
    holding, held = os.pipe()

    def hold() -> None:
        with lock_of(address):
            os.write(held, b"x")
            os.read(asked, 1)

    holder = child(hold)
    os.read(holding, 1)
    threading.Timer(0.5, lambda: os.write(released, b"x")).start()
    with lock_of(address):
        pass
    assert end_of(holder) == 0
    said = capfd.readouterr().err
    assert (
        f"waiting for the study in postgresql://camparison:***@127.0.0.1:{postgres.port}/held, which camparison "
        in said
    )
    assert f" {holder} on 127.0.0.1 uses" in said

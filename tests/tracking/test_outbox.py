"""The outbox: what is logged lies on this machine until MLflow has it, once, whole and in order."""

import contextlib
import itertools
import json
import math
import os
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from mlflow import MlflowClient

from experiments.tracking import __main__, outbox, sender
from experiments.tracking.client import ERROR, FINGERPRINT, PARENT, STATUS
from experiments.tracking.journal import Journal, Sent
from experiments.tracking.lifetime import RunDeleted, experiment_of, is_there, open_run, prepare_tracking, set_parent
from experiments.tracking.locations import TrackingError
from experiments.tracking.reading import DamagedFile, completed_run, finished_run, finished_training, finished_trainings
from experiments.tracking.records import Metrics, Param, Tag, Text
from experiments.tracking.sender import close_sender, last_words, pick_up
from experiments.tracking.sending import KILLED, Sending
from experiments.tracking.store import prepare_store
from experiments.tracking.ui import save_view
from experiments.tracking.views import comparison_view, unpack
from experiments.tracking.waiting import Contents, contents, waiting_run
from experiments.tracking.writing import Run
from tests.conftest import PATIENCE_S, free_port, mlflow_server
from tests.toys.postgres import Postgres
from tests.toys.study import child, end_of
from tests.toys.unreliable import FROZEN, GONE, LOGIN, proxy
from tests.tracking.test_tracking import check_everything_is_there, every_record, fast_net

pytestmark = pytest.mark.slow

KEY = "0" * 32


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are short: of SQLite for a lock, of the sender between two attempts, of a run for MLflow."""
    monkeypatch.setattr(sender, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(sender, "LONGEST_PAUSE_S", 0.05)
    monkeypatch.setenv(outbox.WAIT, "0.1")


@pytest.fixture
def ready(store: Path, quick: None) -> Iterator[Path]:
    """A test's folder whose store is prepared, and which SQLite calls locked at once."""

    def impatient(c: object, cursor: object, text: str, values: object, context: object, many: bool) -> tuple[Any, Any]:
        return text.replace("busy_timeout = 20000", "busy_timeout = 20"), values

    sa.event.listen(sa.Engine, "before_cursor_execute", impatient, retval=True)
    prepare_store()
    yield store
    sa.event.remove(sa.Engine, "before_cursor_execute", impatient)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Nobody can read or write the database of the store: MLflow is away."""
    connection = sqlite3.connect(folder / "mlflow.db", timeout=60, isolation_level=None)
    connection.execute("BEGIN EXCLUSIVE")
    try:
        yield
    finally:
        connection.execute("ROLLBACK")
        connection.close()


@contextmanager
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine without a network."""
    with monkeypatch.context() as patch:
        patch.setenv(outbox.OFFLINE, "1")
        yield


def send() -> None:
    """`python -m experiments.tracking send`, as a process of its own would do it."""
    close_sender()
    assert __main__.main(["send"]) == 0


def left() -> list[str]:
    """What lies in the outbox, except for the list of ids."""
    return sorted(path.name for path in outbox.folder().iterdir() if path.name not in ("ids", "again.lock"))


def runs() -> list[Any]:
    return list(MlflowClient().search_runs(["0"], order_by=["attributes.start_time ASC"]))


# ------------------------------------------------------------------------------------------------------------- journal


def journal_of(folder: Path, *entries: dict[str, Any]) -> Journal:
    journal = Journal(folder / KEY)
    assert journal.open()
    journal.append(entries)
    journal.close()
    return journal


@given(st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=20)), min_size=1, max_size=5), st.data())
def test_a_damaged_entry_costs_only_itself(entries: list[dict[str, str]], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        journal = journal_of(Path(folder), *entries)
        file = journal.folder / "journal"
        content = bytearray(file.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] ^= 1 << data.draw(st.integers(0, 7))
        file.write_bytes(content)
        ends = list(itertools.accumulate(len(line) + 1 for line in bytes(content).split(b"\n")))
        found = list(journal.entries())
        assert all(entry in entries for entry in found)
        assert len(found) >= len(entries) - 2 if ends else True  # a flipped line end joins two lines


@given(st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=20)), min_size=1, max_size=4), st.data())
def test_a_journal_that_is_cut_anywhere_keeps_every_whole_entry_and_can_be_continued(
    entries: list[dict[str, str]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        journal = journal_of(Path(folder), *entries)
        file = journal.folder / "journal"
        content = file.read_bytes()
        cut = data.draw(st.integers(0, len(content)))
        file.write_bytes(content[:cut])
        whole = content[:cut].count(b"\n")
        assert list(journal.entries()) == entries[:whole]
        assert journal.open()
        journal.append([{"more": "é"}])
        journal.close()
        ended = content[: cut + 1].count(b"\n")  # one that lacked nothing but its end is whole again
        assert list(journal.entries()) == [*entries[:ended], {"more": "é"}]


def test_a_journal_has_one_writer(tmp_path: Path) -> None:
    first, second = Journal(tmp_path / KEY), Journal(tmp_path / KEY)
    assert first.open()
    assert not second.open()
    assert second.is_written
    first.close()
    assert second.open()
    second.close()
    assert not first.is_written


def test_a_lost_note_of_what_was_sent_means_that_nothing_was(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, {"a": 1})
    journal.acknowledge(Sent("1" * 32, 20))
    assert journal.sent == Sent("1" * 32, 20)
    note = journal.folder / "sent"
    for damage in every_flip(note.read_bytes()):
        note.write_bytes(damage)
        assert journal.sent in (Sent(), Sent("1" * 32, 20))
    note.write_text('{"run": ')
    assert journal.sent == Sent()


def every_flip(content: bytes) -> Iterator[bytes]:
    """The content with one bit flipped."""
    for at, bit in itertools.product(range(len(content)), range(8)):
        yield content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]


def test_a_damaged_id_is_no_other_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(outbox.OUTBOX, str(tmp_path))
    kept = {"1" * 32: "2" * 32, "3" * 32: "4" * 32}
    for here, there in kept.items():
        outbox.keep_id(here, there)
    assert outbox.new_ids() == kept
    for damage in every_flip((tmp_path / "ids").read_bytes()):
        (tmp_path / "ids").write_bytes(damage)
        assert outbox.new_ids().items() <= kept.items()
    (tmp_path / "ids").write_text("0badc0de 75 {half of")
    outbox.keep_id("5" * 32, "6" * 32)
    assert outbox.new_ids() == {"5" * 32: "6" * 32}


# ------------------------------------------------------------------------------------------------------- MLflow is away


def test_a_run_that_mlflow_took_leaves_nothing_in_the_outbox(ready: Path) -> None:
    with open_run(kind="train", name="baseline") as run:
        run.log(every_record(fast_net()))
    check_everything_is_there(run.id)
    assert left() == []
    assert not (outbox.folder() / "ids").exists()
    assert last_words() == ""


def test_a_lock_in_the_middle_of_a_run_costs_nothing(ready: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_run(kind="train", name="baseline") as run:
        run.log([Param("first", 1)])
        with locked(ready):
            run.log(every_record(fast_net()))
            assert not sender.sender().flush()
    assert sender.sender().flush(PATIENCE_S)
    check_everything_is_there(run.id)
    assert finished_run(run.id).params["first"] == "1"
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert said[0].startswith("MLflow does not answer (database is locked); the work goes on")
    assert said[1] == "MLflow answers again; what waited is being sent"


def test_a_run_that_ends_while_mlflow_is_away_can_be_read_and_is_sent_by_the_next_command(ready: Path) -> None:
    with locked(ready):
        with open_run(kind="train", name="baseline", tags={FINGERPRINT: "abc"}) as run:
            run.log(every_record(fast_net()))
        found = finished_run(run.id)
        assert found.metrics == {"val/accuracy": 0.5, "val/loss": 1.0}
        assert found.metric_history("val/accuracy") == [(0, 0.25), (1, 0.5)]
        assert found.read_json("config.json") == {"epochs": 2, "of": "é"}
        assert found.list_keys() == ("gradcam/test_0003_cat",)
        assert not found.load_model().training
        again = completed_run("abc")
        assert again is not None
        assert again.id == run.id
        assert last_words().startswith(f"1 run waits in {outbox.folder()} because MLflow does not answer (")
        close_sender()
    pick_up()
    check_everything_is_there(finished_run(run.id).id)  # by the id that it had here
    assert left() == []


def test_a_run_that_begins_while_mlflow_is_away_gets_its_id_later(ready: Path) -> None:
    with open_run(kind="compare", name="parent") as parent:
        with locked(ready), open_run(kind="train", name="child", parent_run_id=parent.id) as run:
            run.log([Metrics({"loss": 1.0}, 0)])
        parent.log([Text("children.txt", f"see {run.id}")])
    assert sender.sender().flush(PATIENCE_S)
    sent = finished_run(run.id)
    assert sent.id == outbox.new_ids()[run.id] != run.id
    assert (sent.tags[PARENT], sent.metrics) == (parent.id, {"loss": 1.0})
    assert finished_run(parent.id).read_text("children.txt") == f"see {sent.id}"
    assert finished_training(run.id[:10]).id == sent.id


def test_a_refused_value_does_not_wait_for_ever(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.tracking.writing._validate_param", lambda key, value: None)
    with pytest.raises(TrackingError, match="MLflow refuses a record of run"), open_run(kind="train", name="a") as run:
        run.log([Param("long", "x" * 9000), Tag("note", "after it")])
    assert MlflowClient().get_run(run.id).data.tags["note"] == "after it"
    assert [path.name for path in (outbox.folder() / "refused").iterdir()] == [run.journal.key]


def deleted_meanwhile(study: Run) -> None:
    with open_run(kind="train", name="trial", parent_run_id=study.id) as run:
        MlflowClient().delete_run(run.id)
        run.log([Metrics({"loss": 1.0}, 0)])
        set_parent([run.id], study.id)


def test_a_run_that_is_deleted_meanwhile_is_named_and_the_rest_goes_on(ready: Path) -> None:
    with open_run(kind="tune", name="study") as study:
        with pytest.raises(RunDeleted, match=r"run \w+ was deleted in MLflow"):
            deleted_meanwhile(study)
        study.log([Metrics({"best": 1.0}, 0)])
    assert finished_run(study.id).metrics == {"best": 1.0}
    assert left() == []


# ------------------------------------------------------------------------------------------------ sent again, or by two


def written_offline(monkeypatch: pytest.MonkeyPatch, fingerprint: str = "abc") -> str:
    with offline(monkeypatch), open_run(kind="train", name="baseline", tags={FINGERPRINT: fingerprint}) as run:
        run.log(every_record(fast_net()))
    return run.id


def test_sending_twice_changes_nothing(ready: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key = written_offline(monkeypatch)
    shutil.copytree(outbox.folder() / key, tmp_path / "copy")
    send()
    (first,) = runs()
    models, files = MlflowClient().search_logged_models(["0"]), files_of(ready)
    (tmp_path / "copy").rename(outbox.folder() / key)
    send()  # as if no answer of the server had arrived
    (second,) = runs()
    assert second.to_dictionary() == first.to_dictionary()
    assert files_of(ready) == files
    assert [model.model_id for model in MlflowClient().search_logged_models(["0"])] == [m.model_id for m in models]
    check_everything_is_there(first.info.run_id)


def files_of(folder: Path) -> set[str]:
    return {str(path) for path in (folder / "mlruns" / "0").rglob("*")}


def test_a_sender_that_dies_at_any_entry_is_followed_by_one_that_goes_on(
    ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = written_offline(monkeypatch)
    journal = Journal(outbox.folder() / key)
    entries = len(list(journal.entries()))
    for sent in range(1, entries + 1, 2):
        for _ in range(sent):  # each starts at the first entry: its note of what was sent had not reached the disk
            Sending(journal, print).step()
        (journal.folder / "sent").unlink()
    send()
    (run,) = runs()
    check_everything_is_there(run.info.run_id)
    assert len(MlflowClient().search_logged_models(["0"])) == 1


def test_two_processes_never_send_the_same_journal(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = written_offline(monkeypatch)
    with Journal(outbox.folder() / key).sending:  # another process is at it
        assert not sender.sender().take(Sending(Journal(outbox.folder() / key), print))
    send()
    assert len(runs()) == 1


@pytest.mark.parametrize("next_command", [pick_up, send])
def test_a_sender_that_dies_while_it_removes_a_journal_leaves_nothing(
    next_command: Callable[[], None], ready: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written_offline(monkeypatch)

    def die(outbox: Path) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr("experiments.tracking.journal.remove_leftovers", die)
        assert end_of(child(send)) == -signal.SIGKILL
    assert left() != []
    next_command()
    assert left() == []
    assert len(runs()) == 1


# -------------------------------------------------------------------------------------------------------------- offline


def test_what_was_written_offline_comes_to_mlflow_as_it_was(
    ready: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with offline(monkeypatch):
        with open_run(kind="compare", name="parent") as parent:
            with open_run(kind="train", name="baseline", parent_run_id=parent.id) as run:
                run.log(every_record(fast_net()))
            found = finished_run(run.id)
            view = comparison_view("a view", [run.id], ["gradcam/a"], 1, colours=["#112233"])
            parent.log([Text("comparison.json", json.dumps({"link": save_view("0", view), "runs": [found.id]}))])
        assert finished_training(run.id[:8]).metrics == found.metrics
        assert [one.id for one in finished_trainings("metrics.`val/accuracy` = 0.5")] == [run.id]
        here = [contents(journal) for journal in outbox.journals() if outbox.ids_of(journal)]
        assert last_words().startswith(f"2 runs wait in {outbox.folder()}: `python -m experiments.tracking send`")
    assert runs() == []
    send()
    said = capsys.readouterr().err.splitlines()
    assert sorted(line.partition(": ")[2] for line in said) == [
        "sent baseline",
        "sent notes on other runs",
        "sent parent",
    ]
    assert left() == []
    up, down = runs()
    check_everything_is_there(down.info.run_id)
    finished_run(down.info.run_id).load_model()
    assert (up.data.tags[STATUS], down.data.tags[PARENT]) == ("completed", up.info.run_id)
    times = [(one.info.start_time, one.info.end_time) for one in (up, down)]
    assert times == [(one.start, one.end) for one in here]
    logged = finished_run(up.info.run_id).read_json("comparison.json")
    assert logged["runs"] == [down.info.run_id]
    assert down.data.tags["mlflow.runColor"] == "#112233"
    tags = MlflowClient().get_experiment("0").tags
    assert unpack(tags[view.tag]).state["searchFilter"] == f"attributes.run_id IN ('{down.info.run_id}')"
    assert logged["link"] in tags["mlflow.note.content"]


def test_an_experiment_that_only_has_a_name_yet(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with offline(monkeypatch):
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "on the cluster")
        with open_run(kind="train", name="a") as run:
            run.log([Text("link.txt", f"#/experiments/{run.experiment_id}/runs/{run.id}")])
        monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME")
    send()
    sent = finished_run(run.id)
    experiment = MlflowClient().get_experiment_by_name("on the cluster")
    assert experiment is not None
    assert sent.read_text("link.txt") == f"#/experiments/{experiment.experiment_id}/runs/{sent.id}"


def test_a_training_that_mlflow_has_finished_is_not_sent_twice(
    ready: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_run(kind="train", name="first", tags={FINGERPRINT: "abc"}) as run:
        pass
    key = written_offline(monkeypatch)
    send()
    assert [found.info.run_id for found in runs()] == [run.id]
    assert f"MLflow has finished run {run.id} of the same training; it is not sent twice" in capsys.readouterr().err
    assert finished_run(key).id == run.id
    assert is_there(key)
    assert experiment_of(key) == run.experiment_id


@pytest.mark.parametrize("name", ["config.json", "maps.npz"])
def test_a_damaged_file_costs_only_itself(
    name: str, ready: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key = written_offline(monkeypatch)
    (file,) = (outbox.folder() / key).rglob(name)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with offline(monkeypatch), pytest.raises(DamagedFile, match=f"has a damaged {name}"):
        finished_run(key).read_text(name)
    send()
    assert f"{name} is damaged; it is left out" in capsys.readouterr().err
    sent = finished_run(key)
    with pytest.raises(TrackingError, match="has no file"):
        sent.read_text(name)
    assert sent.read_table("table.csv").to_dict("records") == [{"variant": "baseline", "accuracy": 0.5}]


# --------------------------------------------------------------------------------- what is asked of other offline modes


def allocation(epochs: range, *, ends: bool) -> None:
    """A process that trains some epochs, as one allocation of a cluster; it repeats what a checkpoint remembers."""
    with open_run(kind="train", name="long", tags={FINGERPRINT: "long"}, goes_on=True) as run:
        run.log([Param("epochs", 8), *(Metrics({"loss": 1.0 / (1 + epoch)}, epoch) for epoch in range(epochs.start))])
        for epoch in epochs:
            run.log([Metrics({"loss": 1.0 / (1 + epoch)}, epoch), Text(f"epoch{epoch}.txt", str(epoch))])
        if not ends:
            os.kill(os.getpid(), signal.SIGKILL)


def killed_offline(monkeypatch: pytest.MonkeyPatch, epochs: range) -> None:
    with offline(monkeypatch):
        _, status = os.waitpid(child(lambda: allocation(epochs, ends=False)), 0)
    assert os.WTERMSIG(status) == signal.SIGKILL


def check_long(run: Any, epochs: int) -> None:
    history = MlflowClient().get_metric_history(run.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(n, 1.0 / (1 + n)) for n in range(epochs)]
    files = {file.path for file in MlflowClient().list_artifacts(run.info.run_id)}
    assert files == {f"epoch{epoch}.txt" for epoch in range(epochs)}
    assert run.data.params["epochs"] == "8"


def test_a_killed_run_is_sent_whole(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed_offline(monkeypatch, range(3))
    send()
    (run,) = runs()
    check_long(run, 3)
    assert (run.info.status, run.data.tags[ERROR]) == ("KILLED", KILLED)


def next_job(function: Callable[[], Any]) -> int:
    """How a command ends that does what every command does first, and then the function."""
    return end_of(child(lambda: (prepare_tracking(), function())))


@pytest.mark.parametrize("way", ["offline", "offline, sent in between", "with a network"])
def test_a_run_of_four_allocations_is_one_run(way: str, ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with offline(monkeypatch) if "offline" in way else contextlib.nullcontext():
        for number in range(3):
            # The epoch that came after the last checkpoint is trained again.
            epochs = range(max(0, 2 * number - 1), 2 * number + 2)
            assert next_job(partial(allocation, epochs, ends=False)) == -signal.SIGKILL
            if way == "offline, sent in between":
                with monkeypatch.context() as patch:
                    patch.delenv(outbox.OFFLINE)
                    send()
        assert next_job(partial(allocation, range(6, 8), ends=True)) == 0
    send()
    (run,) = runs()
    check_long(run, 8)
    assert (run.info.status, run.data.tags[STATUS]) == ("FINISHED", "completed")
    assert ERROR not in run.data.tags
    assert left() == []


def begun(*, ends: bool, **options: Any) -> str:
    """The id of a run of a training whose process logs everything, and is killed or ends."""
    with open_run(kind="train", name="baseline", **{"tags": {FINGERPRINT: "same"}, "goes_on": True} | options) as run:
        run.log(every_record(fast_net()))
        sender.sender().flush()
        if not ends:
            os.kill(os.getpid(), signal.SIGKILL)
    return run.id


@pytest.mark.usefixtures("one_thread")  # that of a process which was forked
@pytest.mark.parametrize("network", [True, False])
def test_a_run_that_goes_on_has_everything_once(network: bool, ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.nullcontext() if network else offline(monkeypatch):
        assert next_job(partial(begun, ends=False)) == -signal.SIGKILL
        assert next_job(partial(begun, ends=True)) == 0
    send()
    (run,) = runs()
    check_everything_is_there(run.info.run_id)
    assert len(MlflowClient().search_logged_models(["0"])) == 1
    assert len(MlflowClient().list_artifacts(run.info.run_id, "images")) == 2  # a picture, and its thumbnail


@pytest.mark.usefixtures("one_thread")
def test_only_a_killed_run_of_the_same_kind_goes_on(ready: Path) -> None:
    assert next_job(partial(begun, ends=False)) == -signal.SIGKILL
    prepare_tracking()
    (killed,) = runs()
    with open_run(kind="compare", name="parent") as parent:
        others = (
            {"tags": {FINGERPRINT: "other"}},
            {"goes_on": False},
            {"parent_run_id": parent.id},
        )
        assert not any(begun(ends=True, **other) == killed.info.run_id for other in others)
    # Of two that start at once, one goes on with it.
    with open_run(kind="train", name="b", tags={FINGERPRINT: "same"}, goes_on=True) as first:
        assert first.id == killed.info.run_id
        with open_run(kind="train", name="c", tags={FINGERPRINT: "same"}, goes_on=True) as second:
            assert second.id != first.id


def test_a_run_is_sent_while_it_is_going_on(ready: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with offline(monkeypatch), open_run(kind="train", name="long") as run:
        for epoch in range(3):
            run.log([Metrics({"loss": 1.0 / (1 + epoch)}, epoch)])
            with monkeypatch.context() as patch:
                patch.delenv(outbox.OFFLINE)
                send()
                (found,) = runs()
                history = MlflowClient().get_metric_history(found.info.run_id, "loss")
                assert (found.info.status, len(history)) == ("RUNNING", epoch + 1)
    send()
    assert finished_run(run.id).id == found.info.run_id
    assert left() == []


def test_a_run_that_is_killed_with_mlflow_there_is_closed_by_the_next_command(ready: Path) -> None:
    with contextlib.suppress(TrackingError), open_run(kind="train", name="killed") as run:
        run.log([Metrics({"loss": 1.0}, 0)])
        with (run.journal.folder / "journal").open("a") as file:
            file.write("0badc0de 100 {half of an en")
        sender.sender().flush()
        close_sender()
        run.journal.close()  # as the system does when the process dies
        pick_up()
        assert MlflowClient().get_run(run.id).info.status == "KILLED"
        assert left() == []


def test_a_run_that_another_process_finished_is_as_that_one_left_it(ready: Path) -> None:
    """The journal of the process that began it, which died or sleeps, describes an older state."""
    pid = child(begun_and_killed)
    assert end_of(pid) == -signal.SIGKILL
    (begun,) = MlflowClient().search_runs(["0"])
    with open_run(kind="train", name="baseline", again=begun.info.run_id) as run:
        run.log([Metrics({"loss": 1.0}, 0), Metrics({"loss": math.nan}, 1), Metrics({"loss": 0.5}, 2)])
    assert run.id == begun.info.run_id
    assert left()  # the journal of the process that died
    assert finished_run(run.id).metrics == {"loss": 0.5}
    # Nothing is there twice that the first process logged too.
    assert [step for step, _ in finished_run(run.id).metric_history("loss")] == [0, 1, 2]
    send()
    assert not left()
    after = MlflowClient().get_run(run.id)
    assert (after.info.status, after.data.tags[STATUS]) == ("FINISHED", "completed")
    assert ERROR not in after.data.tags


def begun_and_killed() -> None:
    with open_run(kind="train", name="baseline") as run:
        run.log([Metrics({"loss": 1.0}, 0), Metrics({"loss": math.nan}, 1)])
        sender.sender().flush()
        os.kill(os.getpid(), signal.SIGKILL)


# -------------------------------------------------------------------------------------------------- a server that fails


def test_no_failure_of_a_server_stops_a_run_or_costs_an_entry(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    failures = [GONE, FROZEN, "500", "503", "401", "403", "404", LOGIN]
    command = ["mlflow", "ui", "--workers", "1"]  # its experiment keeps files behind the server
    with mlflow_server(tmp_path, command, free_port()) as behind, proxy(behind) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
        prepare_store()
        with open_run(kind="train", name="baseline") as run:
            for step, failure in enumerate(failures):
                server.mode = failure
                run.log([Metrics({"loss": 1.0 / (1 + step)}, step), Text(f"{failure}.txt", failure)])
                assert not sender.sender().flush(), failure
                assert finished_or_waiting(run.id).files.keys() >= {f"{failure}.txt"}
                server.mode = ""
                assert sender.sender().flush(PATIENCE_S)
            server.mode = FROZEN
            run.log(every_record(fast_net()))
        assert "1 run waits in" in last_words()
        close_sender()
        server.mode = ""
        server.thawed.set()
        send()
        check_served(run.id, failures)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    assert [f"status {status}" in said for status in ("500", "503", "401")] == [True] * 3


@pytest.mark.wild
def test_a_postgresql_that_is_stopped_for_a_while_costs_nothing(
    tmp_path: Path, quick: None, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = postgres.address("mlflow").replace("postgresql:", "postgresql+psycopg:")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    prepare_store()
    with open_run(kind="train", name="baseline") as run:
        run.log([Param("first", 1)])
        postgres.stop()
        run.log(every_record(fast_net()))
        assert not sender.sender().flush()
        postgres.start()
    assert sender.sender().flush(PATIENCE_S)
    check_everything_is_there(run.id)
    assert finished_run(run.id).params["first"] == "1"
    assert left() == []


def test_a_full_disk_is_told_in_a_line(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, {"a": 1})
    run = Run(journal, KEY, "0")
    (journal.folder / "journal").rename(tmp_path / "kept")
    (journal.folder / "journal").symlink_to("/dev/full")
    with pytest.raises(TrackingError, match=f"{KEY} cannot be written: OSError: .*No space left on device"):
        run.log([Metrics({"loss": 1.0}, 0)])
    (tmp_path / "kept").replace(journal.folder / "journal")
    assert list(journal.entries()) == [{"a": 1}]


def finished_or_waiting(run_id: str) -> Contents:
    found = waiting_run(run_id)
    assert found is not None
    return found


def check_served(run_id: str, failures: list[str]) -> None:
    run = finished_run(run_id)
    assert run.metric_history("loss") == [(step, 1.0 / (1 + step)) for step in range(len(failures))]
    assert [run.read_text(f"{failure}.txt") for failure in failures] == failures
    assert run.metric_history("val/accuracy") == [(0, 0.25), (1, 0.5)]
    assert not run.load_model().training
    assert len(MlflowClient().search_logged_models(["0"])) == 1

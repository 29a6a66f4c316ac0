"""A confirmed training whose files are damaged is trained again, into its own run, and no other."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from experiments.study import mending
from experiments.study.notes import Notes
from experiments.study.results import results
from experiments.system.progress import Reporter
from experiments.tracking.reading import FinishedRun
from tests.toys.study import DATASET, score, toy_study, work_off


def test_damaged_runs_of_the_verdict_are_trained_again_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, settings = toy_study(tmp_path)
    work_off(ledger, settings, lambda options, seed: [score(options, seed)])
    final = results(ledger, settings).final
    assert final is not None
    broken = final.runs[0][1]
    said: list[str] = []
    trained: list[tuple[str, int, str]] = []

    @contextmanager
    def opened(*, again: str, **ignored: object) -> Iterator[str]:
        yield again

    def train_into(run: str, prepared: object, reporter: object) -> None:
        seed, size = prepared  # type: ignore[misc]
        trained.append((run, seed, size))

    run_of = lambda run_id: FinishedRun(run_id, f"name of {run_id}", "0", {}, {}, {})  # noqa: E731
    monkeypatch.setattr(mending, "finished_run", run_of)
    monkeypatch.setattr(mending, "damage", lambda run, classes: "it is damaged" if run.id == broken else "")
    monkeypatch.setattr(mending, "prepare", lambda settings, **named: (settings.seed, settings.cutout_size))
    monkeypatch.setattr(mending, "tags_of", lambda prepared: {})
    monkeypatch.setattr(mending, "open_run", opened)
    monkeypatch.setattr(mending, "train_into", train_into)
    reporter = Reporter()
    monkeypatch.setattr(reporter, "say", said.append)
    mending.mend(final, ledger, settings, DATASET, reporter)
    (ticket,) = [one for one in ledger.tickets(ledger.confirmation) if Notes.of(one.result).run == broken]
    notes = Notes.of(ticket.result)
    assert notes.options is not None
    assert trained == [(broken, notes.seed, str(notes.options["cutout_size"]))]
    assert said == ["it is damaged; it is trained again now"]

"""The chaos benchmark sees what is lost, doubled or left open, and carries on where it stopped."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.chaos.notes import Notes, report
from benchmarks.chaos.places import rest
from tests.conftest import PATIENCE_S, REPOSITORY
from tests.toys.programs import ANY, Left, Verdict, judged, stable

RUN, LEAVES = "train: baseline, seed 0", {"metric loss": "[(1, 0.5)]", "file a.txt line 0": "trained"}


def found(*runs: dict[str, str], running: int = 0, waiting: int = 0) -> Left:
    return Left({"FINISHED": len(runs), "RUNNING": running}, {RUN: list(runs)}, ["journal"] * waiting)


@pytest.mark.parametrize(
    ("there", "wrong"),
    [
        (found(LEAVES), Verdict()),
        (found(LEAVES, LEAVES), Verdict(doubled=1)),
        (found(), Verdict(lost=1)),
        (found(LEAVES, running=2, waiting=1), Verdict(running=2, lost=1)),
    ],
)
def test_a_verdict_counts_what_is_wrong(there: Left, wrong: Verdict) -> None:
    assert judged({RUN: LEAVES}, there, "") == wrong


def test_values_that_differ_are_named() -> None:
    other = found({"metric loss": "[(1, 0.5), (1, 0.5)]"})
    verdict = judged({RUN: LEAVES}, other, "Traceback (most recent call last):")
    assert (verdict.lost, verdict.doubled, verdict.tracebacks, len(verdict.differs)) == (1, 1, 1, 2)
    assert not verdict.is_good


def test_what_differs_between_undisturbed_runs_may_differ() -> None:
    one, other = found(LEAVES | {"file b": "10:00"}), found(LEAVES | {"file b": "10:01"})
    expected = stable(one, other)
    assert expected == {RUN: LEAVES | {"file b": ANY}}
    assert judged(expected, found(LEAVES | {"file b": "10:02"}), "").is_good


def test_what_nobody_expects_is_doubled() -> None:
    verdict = judged({RUN: LEAVES}, found(LEAVES | {"file a.png again": "1"}), "")
    assert (verdict.lost, verdict.doubled, len(verdict.differs)) == (0, 1, 1)


@pytest.mark.parametrize(
    ("name", "one", "other", "may"),
    [
        ("compare: a vs b: file runs.csv 0 reused", "False", "True", True),
        ("train: a: file runs.csv 0 reused", "False", "True", False),
        ("compare: a: file report.html line 9", "x<td>earlier, reused</td>", "x<td>for this comparison</td>", True),
        ("compare: a: file report.html line 9", "x<td>earlier, reused</td>", "y<td>for this comparison</td>", False),
        ("tune: s: file tables/trials.json 2 attempts", "1", "3", True),
        ("tune: s: file tables/trials.json 2 accuracy", "1", "3", False),
    ],
)
def test_only_words_about_attempts_may_differ(name: str, one: str, other: str, may: bool) -> None:
    assert (rest(name, one) == rest(name, other)) is may


def test_notes_carry_on_and_repeat_what_went_wrong(tmp_path: Path) -> None:
    notes = Notes(tmp_path / "notes")
    for number, verdict in ((0, Verdict()), (1, Verdict(lost=1)), (2, Verdict())):
        notes.add("kills", number, 3, verdict)
    again = Notes(tmp_path / "notes")
    assert list(again.todo("kills", 6)) == []
    assert next(iter(again.todo("kills", 9))) == 1
    again.add("kills", 1, 3, Verdict())
    assert list(Notes(tmp_path / "notes").todo("kills", 9)) == []
    assert "| kills | 9 | 0 | 0 | 0 | 0 | 3 of 3 |" in report(again)


@pytest.mark.wild
def test_the_short_form_loses_nothing(tmp_path: Path) -> None:
    parts = ["kills-train", "kills-compare", "kills-tune"]
    words = [sys.executable, "-m", "benchmarks.chaos", *parts, "--count", "1"]
    places = ["--notes", str(tmp_path / "notes"), "--report", str(tmp_path / "report.md")]
    subprocess.run([*words, *places], cwd=REPOSITORY, check=True, timeout=PATIENCE_S)
    tries = [json.loads(line) for line in (tmp_path / "notes").read_text().splitlines()]
    assert {one["part"] for one in tries} == {"kills in train", "kills in compare", "kills in tune"}
    wrong = ("lost", "doubled", "running", "tracebacks", "differs")
    assert not [one for one in tries if any(one[name] for name in wrong)]

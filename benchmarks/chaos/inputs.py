"""Files that are harmed before they are read back, and command lines as nobody should type them."""

import random
from collections import Counter
from functools import partial
from pathlib import Path

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from mlflow import MlflowClient

from experiments.settings.command_line import words_of
from experiments.tracking.reading import finished_run
from experiments.tracking.store import prepare_store
from experiments.tracking.waiting import waiting_runs
from tests.toys import damage
from tests.toys.command_lines import LOCALES, Line, command_lines, try_line, try_program, where_no_training_starts
from tests.toys.programs import Program, Verdict, called

from .notes import Notes
from .places import COMMANDS, Place

IN_PROGRAMS = 50  # of so many command lines one is typed as a program
LINES_AT_ONCE = 500
FILES_AT_ONCE = 100


def files(notes: Notes, place: Place, count: int) -> None:
    """Harms the files that are read back, each kind as often as the others."""
    with place.folder("files") as folder:
        assert Program("train", words_of(COMMANDS["train"]), folder).run() == 0
        offline = {"CAMPARISON_OFFLINE": "1"}
        assert Program("train", words_of(COMMANDS["train"] | {"seed": "1"}), folder, offline).run() == 0
        for number in notes.todo(part := "damaged files", count):
            size = min(FILES_AT_ONCE, count)
            found = called(partial(harm, folder, number, size), folder)
            ends = Counter(end for _, end in found)
            good = {"refused", "as written"}
            verdict = Verdict(
                lost=ends["accepted"], tracebacks=sum(n for end, n in ends.items() if end not in {*good, "accepted"})
            )
            notes.add(part, number, len(found), verdict, "; ".join(f"{n} {end}" for end, n in ends.items()))
            for kind, end in found:
                if end not in good:
                    print(f"    {kind}: {end}", flush=True)


def harm(folder: Path, number: int, count: int) -> list[tuple[str, str]]:
    """The kinds of so many files that were harmed one after the other, and what their readers made of them."""
    prepare_store()
    (run,) = MlflowClient().search_runs(["0"])
    (waits,) = waiting_runs()
    specimens = [
        damage.a_checkpoint(folder),
        damage.the_scenes(folder),
        *damage.files_of_a_run(finished_run(run.info.run_id)),
        *damage.the_outbox(waits.run_id),
    ]
    by_kind: dict[str, list[damage.Specimen]] = {}
    for specimen in specimens:
        by_kind.setdefault(specimen.kind, []).append(specimen)
    chance = random.Random(number)
    kinds = [list(by_kind)[at % len(by_kind)] for at in range(count)]
    return [(kind, damage.outcome(chance.choice(by_kind[kind]), chance)) for kind in kinds]


def lines(notes: Notes, place: Place, count: int) -> None:
    """Odd command lines in this process, and one in fifty as programs."""
    for part, how_many, at_once in (
        ("command lines", count, LINES_AT_ONCE),
        ("command lines of programs", count // IN_PROGRAMS, LINES_AT_ONCE // IN_PROGRAMS),
    ):
        for number in notes.todo(part, how_many):
            with place.folder("lines") as folder:
                tried, wrong = called(partial(odd_lines, part, number, at_once), folder)
                tracebacks = sum("Traceback" in said for said in wrong)
                notes.add(
                    part,
                    number,
                    tried,
                    Verdict(tracebacks=tracebacks, differs=[w[:300] for w in wrong if "Traceback" not in w]),
                )


def odd_lines(part: str, number: int, count: int) -> tuple[int, list[str]]:
    """How many were tried, and what was wrong."""
    tried, wrong = [0], []

    def check(line: Line, locale: dict[str, str]) -> None:
        tried[0] += 1
        try:
            try_program(*line, locale) if "programs" in part else try_line(*line)
        except AssertionError as error:
            wrong.append(f"{line}: {error}")
        except Exception as error:
            wrong.append(f"{line}: Traceback: {type(error).__name__}: {error}")

    some = settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    strategies = {"line": command_lines(), "locale": st.sampled_from(LOCALES)}
    with where_no_training_starts():
        seed(f"{part} {number}")(some(given(**strategies)(check)))()
    return tried[0], wrong

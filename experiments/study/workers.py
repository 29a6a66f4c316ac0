"""The workers of a study on this machine: started, watched, started again when they die."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..data.dataset import Dataset
from ..runs.prepare import load_dataset
from ..system.processes import cores
from ..system.progress import Printer, Reporter, shown
from ..tracking.lifetime import sweep_stale
from .addresses import STORAGE, StudyError
from .ledger import Ledger
from .results import Results, results, trials, written
from .settings import TuneSettings
from .worker import Worker

LOOK_S = 1.0  # between two looks at what the workers have done
QUICK_DEATHS = 20  # in a row, after which a worker is not started again
QUICK_S = 30.0
STOP_S = 30.0  # for workers to close their runs


def work_off(ledger: Ledger, settings: TuneSettings, dataset: Dataset) -> None:
    """Returns when the study owes nothing more."""
    settled = sum(ticket.settled for study in (ledger.search, ledger.confirmation) for ticket in ledger.tickets(study))
    planned = ledger.planned
    if settled:
        goes_on = "carries on" if settled < planned else "is complete"
        asked = f", more than trials={settings.trials}" if settings.trials < planned else ""
        print(f"study {ledger.name} {goes_on}: {settled} of {planned} trainings are done{asked}", flush=True)
    with shown(max(planned - settled, 1)) as reporter:
        watch = Watch(ledger, settings, reporter)
        if settings.workers == 1:
            quiet = _Stages(reporter)
            Worker(ledger, settings, dataset, quiet, watch.look).work()
        else:
            Processes(settings).run(watch)
    sweep_stale()


class _Stages(Reporter):
    """Passes on what is being done, but not its steps: the bar counts trainings."""

    def __init__(self, reporter: Reporter) -> None:
        self.stage = reporter.stage  # type: ignore[method-assign]


Row = Mapping[Any, Any]
"""A row of a table, by column."""


@dataclass
class Watch:
    """Tells of every training that is settled since the last look."""

    ledger: Ledger
    settings: TuneSettings
    reporter: Reporter
    _told: set[tuple[bool, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._told = set(self._settled())

    def _settled(self) -> dict[tuple[bool, int], Row]:
        rows = trials(self.ledger, self.settings.goals).to_dict("records")
        return {
            (row["part"] == "search", row["ticket"]): row
            for row in rows
            if row["state"] not in ("running", "waiting", "to be repeated")
        }

    def look(self) -> None:
        """A line for each, and a step of the bar."""
        settled = self._settled()
        if not settled.keys() - self._told:
            return
        found, planned = results(self.ledger, self.settings), self.ledger.planned
        for key, row in settled.items():
            if key not in self._told:
                self._told.add(key)
                self.reporter.say(f"{len(self._told)} of {planned}: {self._line(row, found)}")
                self.reporter.advance()

    def _line(self, row: Row, found: Results) -> str:
        start = f"{row['part']}, {row['name']} ({row['holes']}), seed {row['seed']}"
        if row["state"] != "complete":
            return f"{start}: {row['state']}{': ' if row['error'] else ''}{row['error']}"
        goal = self.settings.goals[0]
        line = f"{start}: {found.goal.name} {written(float(str(row[goal])), found.goal)}"
        line += ", trained before" if row["reused"] else ""
        best = found.best_of_search
        if row["part"] == "search" and best:
            line += f" (best so far {written(best.search_score, found.goal)}, {best.name})"
        return line


@dataclass
class Processes:
    """Workers of this machine: started, watched, started again when they die."""

    settings: TuneSettings

    def run(self, watch: Watch) -> None:
        """Returns when all have found nothing more to do.

        Raises:
            StudyError: a worker gives up, with what it said last on the terminal.
        """
        running = {slot: self._start() for slot in range(self.settings.workers)}
        began = dict.fromkeys(running, time.monotonic())
        deaths = dict.fromkeys(running, 0)
        try:
            while running:
                time.sleep(LOOK_S)
                watch.look()
                for slot, process in list(running.items()):
                    code = process.poll()
                    if code is None:
                        continue
                    del running[slot]
                    if code == 0:
                        continue
                    deaths[slot] = deaths[slot] + 1 if time.monotonic() - began[slot] < QUICK_S else 1
                    if code > 0 or deaths[slot] >= QUICK_DEATHS:
                        raise StudyError(
                            f"a worker of study {self.settings.study} ended with exit code {code}: see above"
                        )
                    running[slot], began[slot] = self._start(), time.monotonic()
            watch.look()
        finally:
            _stop(list(running.values()))

    def _start(self) -> "subprocess.Popen[bytes]":
        settings = self.settings
        threads = max(1, cores() // settings.workers) if settings.threads == "auto" else settings.threads
        words = ["worker", "--study", settings.study, "--quiet"]
        words += ["--threads", str(threads), "--data_dir", settings.data_dir, "--device", settings.device]
        words += ["--precision", settings.precision]
        environment = os.environ | {STORAGE: settings.storage, "OMP_NUM_THREADS": str(threads)}
        # In a session of its own, so that Ctrl-C reaches it once, as a request to end.
        return subprocess.Popen(
            [sys.executable, "-m", "experiments.tune", *words], env=environment, start_new_session=True
        )


def _stop(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    for process in processes:
        process.send_signal(signal.SIGTERM)
    end = time.monotonic() + STOP_S
    for process in processes:
        try:
            process.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()


def work_alone(study: str, storage: str, machine: Mapping[str, str], *, quiet: bool) -> None:
    """A worker of a study that exists, until nothing is left to do or the process that started it is gone.

    `machine` are options that this machine decides: `threads`, `device`, `data_dir`.

    Raises:
        StudyError: there is no such study, its storage does not answer, or its images are not those found here.
    """
    reporter: Reporter = Reporter() if quiet else Printer()
    ledger, settings = reopened(study, storage, machine)
    dataset = load_dataset(settings, reporter)
    kept = ledger.search.user_attrs
    if dataset.digest != kept["definition"]["images"]:
        raise StudyError(f"study={study}: is of other images than {dataset.name} is here ({dataset.source})")
    starter = os.getppid()

    def leave_with_starter() -> None:
        if os.getppid() != starter:
            raise SystemExit(0)

    between = leave_with_starter if quiet else Watch(ledger, settings, reporter).look
    Worker(ledger, settings, dataset, reporter, between).work()


def reopened(study: str, storage: str, machine: Mapping[str, str]) -> tuple[Ledger, TuneSettings]:
    """A study that `tune` has started, with its settings as they are on this machine.

    Raises:
        StudyError: there is no such study, it has no run yet, or its storage does not answer.
    """
    ledger = Ledger(study, storage, heartbeat_s=60.0)
    if ledger.parent is None:
        raise StudyError(f"study={study}: has no run yet; start it with `mlflow run . -e tune -P study={study}` first")
    given = ledger.search.user_attrs["given"] | {"storage": storage, "study": study, **machine}
    settings = TuneSettings.of(**given)
    return Ledger(study, storage, settings.heartbeat), settings

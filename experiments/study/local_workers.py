"""The workers of a study on this machine: started, watched, and started again when they die; and `tune worker`."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..data.dataset import Dataset
from ..runs.prepare import load_dataset, suited
from ..system.processes import cores
from ..system.progress import Printer, Reporter, shown
from ..tracking.lifetime import sweep_stale
from .addresses import STORAGE, StudyError, StudyStopped
from .ledger import Ledger
from .results import OPEN_STATES, Results, results, trials, written
from .settings import TuneSettings
from .worker import Worker

LOOK_S = 1.0  # between two looks at what the workers have done
QUICK_S = 30.0  # a worker that lives shorter has died quickly
QUICK_DEATHS = 20  # in a row, after which a worker is not started again
STOP_S = 30.0  # for workers to close their runs


class StageOnly(Reporter):
    """Passes on what is being done, but not its steps: the bar counts trainings."""

    def __init__(self, reporter: Reporter) -> None:
        self.stage = reporter.stage  # type: ignore[method-assign]


class Watch:
    """Prints a line for every training that was settled since the last look."""

    def __init__(self, ledger: Ledger, settings: TuneSettings, reporter: Reporter) -> None:
        self.ledger, self.settings, self.reporter = ledger, settings, reporter
        self._reported = set(self._settled())

    def _settled(self) -> dict[tuple[bool, int], Mapping[Any, Any]]:
        rows = trials(self.ledger, self.settings.goals).to_dict("records")
        return {(row["part"] == "search", row["ticket"]): row for row in rows if row["state"] not in OPEN_STATES}

    def look(self) -> None:
        """Prints a line and moves the bar for each newly settled training."""
        settled = self._settled()
        if not settled.keys() - self._reported:
            return
        found, planned = results(self.ledger, self.settings), self.ledger.planned
        for key, row in settled.items():
            if key not in self._reported:
                self._reported.add(key)
                self.reporter.say(f"{len(self._reported)} of {planned}: {self._line(row, found)}")
                self.reporter.advance()

    def _line(self, row: Mapping[Any, Any], found: Results) -> str:
        start = f"{row['part']}, {row['name']} ({row['holes']}), seed {row['seed']}"
        if row["state"] != "complete":
            return f"{start}: {row['state']}{': ' if row['error'] else ''}{row['error']}"
        goal = self.settings.goals[0]
        line = f"{start}: {found.goal.name} {written(float(str(row[goal])), found.goal)}"
        line += ", near chance" if row["near_chance"] else ""
        line += ", trained before" if row["reused"] else ""
        best = found.best_of_search
        if row["part"] == "search" and best:
            line += f" (best so far {written(best.search_score, found.goal)}, {best.name})"
        return line


def work_off(ledger: Ledger, settings: TuneSettings, dataset: Dataset) -> None:
    """Trains everything that the study plans, in this process or in several; prints a line for each training.

    Raises:
        StudyStopped: a worker gave up, or the storage of the study was lost.
    """
    settled = sum(ticket.settled for study in ledger.parts for ticket in ledger.tickets(study))
    planned = ledger.planned
    if settled:
        goes_on = "continues" if settled < planned else "is complete"
        asked = f", more than trials={settings.trials}" if settings.trials < planned else ""
        print(f"study {ledger.name} {goes_on}: {settled} of {planned} trainings are done{asked}", flush=True)
    with shown(max(planned - settled, 1)) as reporter:
        watch = Watch(ledger, settings, reporter)
        if settings.workers == 1:
            Worker(ledger, settings, dataset, StageOnly(reporter), watch.look).work()
        else:
            _run_processes(settings, watch)
    sweep_stale()


def _run_processes(settings: TuneSettings, watch: Watch) -> None:
    """Keeps the worker processes running until all have found nothing more to do.

    Raises:
        StudyStopped: a worker gave up; the reason is above it on the terminal.
    """
    running = {slot: _start(settings) for slot in range(settings.workers)}
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
                    raise StudyStopped(f"a worker of study {settings.study} ended with exit code {code}; see above why")
                running[slot], began[slot] = _start(settings), time.monotonic()
        watch.look()
    finally:
        _stop(list(running.values()))


def _start(settings: TuneSettings) -> "subprocess.Popen[bytes]":
    threads = max(1, cores() // settings.workers) if settings.threads == "auto" else settings.threads
    words = ["worker", "--study", settings.study, "--quiet"]
    words += ["--threads", str(threads), "--data_dir", settings.data_dir, "--device", settings.device]
    words += ["--precision", settings.precision]
    environment = os.environ | {STORAGE: settings.storage, "OMP_NUM_THREADS": str(threads)}
    # A session of its own: Ctrl-C on the terminal does not reach the worker, `_stop` asks it once.
    return subprocess.Popen([sys.executable, "-m", "experiments.tune", *words], env=environment, start_new_session=True)


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
    """Works for a study that exists, until nothing is left to do. With `quiet`, also until its parent process is gone.

    Args:
        machine: options that this machine decides: `threads`, `device`, `precision`, `data_dir`.

    Raises:
        StudyError: there is no such study, its storage does not answer, or the images here are not its images.
    """
    reporter: Reporter = Reporter() if quiet else Printer()
    ledger, settings = reopened(study, storage, machine)
    dataset = load_dataset(settings, reporter)
    if dataset.digest != (ledger.notes.definition or {}).get("images"):
        raise StudyError(f"study={study}: uses other images than those of {dataset.name} here ({dataset.source})")
    starter = os.getppid()

    def leave_with_starter() -> None:
        if os.getppid() != starter:
            raise SystemExit(0)

    between = leave_with_starter if quiet else Watch(ledger, settings, reporter).look
    Worker(ledger, settings, dataset, reporter, between).work()


def reopened(study: str, storage: str, machine: Mapping[str, str]) -> tuple[Ledger, TuneSettings]:
    """Opens a study that `tune` has started; its settings contain the options of this machine.

    Raises:
        StudyError: there is no such study, it has no run yet, or its storage does not answer.
    """
    notes = Ledger(study, storage, heartbeat_s=60.0).notes
    if notes.parent_run is None:
        raise StudyError(f"study={study}: has no run yet; start it with `mlflow run . -e tune -P study={study}` first")
    settings = suited(TuneSettings.of(**{**notes.given, "storage": storage, "study": study, **machine}))
    return Ledger(study, storage, settings.heartbeat), settings

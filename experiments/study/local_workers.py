"""The workers of a study on this machine: started, watched, and started again when they die."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from ..data.dataset import Dataset
from ..system.processes import cores
from ..system.progress import shown
from ..tracking.lifetime import sweep_stale
from .addresses import STORAGE, StudyStopped
from .ledger import Ledger
from .settings import TuneSettings
from .watch import StageOnly, Watch
from .worker import Worker

LOOK_S = 1.0  # between two looks at what the workers have done
QUICK_S = 30.0  # a worker that lives shorter has died quickly
QUICK_DEATHS = 20  # in a row, after which a worker is not started again
STOP_S = 30.0  # for workers to close their runs


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

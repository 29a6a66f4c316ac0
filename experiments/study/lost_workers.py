"""Workers that are gone: how that is noticed, and how their trainings are given to others."""

import json
import os
import time
from dataclasses import replace

import optuna
import sqlalchemy as sa
from optuna.trial import FrozenTrial, TrialState

from ..system.processes import here, is_alive, started
from .ledger import Ledger, Ticket
from .notes import Notes
from .sampling import experimental


class LostWorkers:
    """Looks for attempts whose workers are gone.

    A worker signs an attempt while it holds the lock of the ledger. So an attempt that nobody has signed belongs to a
    worker that was killed at this moment.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._without_beat: dict[int, float] = {}  # when a trial was first seen without a sign of life

    def sweep(self) -> None:
        """Marks the attempts of lost workers as failed. Call it under the lock of the ledger.

        A worker of this machine is lost when its process is gone, a worker of another machine when it has given no
        sign of life for `storage.SILENT` heartbeats.
        """
        for study in self._ledger.parts:
            for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                worker = Notes.of(trial).worker
                if worker is None or _died_here(worker):
                    self._ledger.fail(trial)
                else:
                    self._first_beat(trial)
            with experimental():
                optuna.storages.fail_stale_trials(study)

    def _first_beat(self, trial: FrozenTrial) -> None:
        """Gives the first sign of life for a worker that died before it did; it would never count as lost otherwise."""
        storage = self._ledger.storage
        with storage.engine.connect() as connection:
            query = sa.text("SELECT 1 FROM trial_heartbeats WHERE trial_id = :trial")
            if connection.execute(query, {"trial": trial._trial_id}).first():
                return
        # The worker has time for its own first sign, or both would be inserted at once.
        first_seen = self._without_beat.setdefault(trial._trial_id, time.monotonic())
        if time.monotonic() - first_seen > self._ledger.heartbeat_s:
            storage.record_heartbeat(trial._trial_id)


def give_to_another(ledger: Ledger, study: optuna.Study, ticket: Ticket) -> None:
    """Adds another attempt at the ticket of a lost worker, with the same settings, in the same run.

    Call it under the lock of the ledger.
    """
    dead = ticket.last
    # Half of a proposal is drawn anew as a whole: with some of it fixed the sampler's numbers would fall otherwise.
    drawn = dead.params if ticket.notes.options is not None else {}
    fixed = dead.system_attrs.get("fixed_params")
    params = None if fixed is None and not drawn else (fixed or {}) | drawn
    ledger.enqueue(study, params, replace(ticket.notes, interrupted=False, worker=None))


def worker_name() -> str:
    """This process among those of all machines: host, process id and start of the process, as JSON."""
    return json.dumps([here(), os.getpid(), started(os.getpid())])


def _died_here(worker: str) -> bool:
    host, pid, start = json.loads(worker)
    return bool(host == here()) and not is_alive(pid, start)

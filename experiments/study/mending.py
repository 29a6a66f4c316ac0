"""Confirmed trainings whose files are damaged or gone: trained again into their own runs before the verdict."""

from ..data.dataset import Dataset
from ..runs.contents import damage
from ..runs.prepare import prepare
from ..runs.train import tags_of, train_into
from ..system.progress import Reporter
from ..tracking.client import TRAIN
from ..tracking.lifetime import open_run
from ..tracking.reading import FinishedRun, finished_run
from .ledger import Ledger
from .notes import Notes
from .results import Final
from .settings import TuneSettings
from .worker import settings_of


def mend(final: Final, ledger: Ledger, settings: TuneSettings, dataset: Dataset, reporter: Reporter) -> None:
    """Trains the damaged ones of the runs that the verdict needs again. Their scores in the ledger stay.

    Raises:
        TrackingError: a run was deleted, or cannot be reached now.
    """
    needed = {run_id for side in final.runs for run_id in side}
    for ticket in ledger.tickets(ledger.confirmation):
        notes = Notes.of(ticket.result)
        if ticket.completed and notes.run in needed:
            run = finished_run(notes.run)
            if problem := damage(run, dataset.classes):
                reporter.say(f"{problem}; it is trained again now")
                _train_again(run, notes, settings, dataset, reporter)


def _train_again(run: FinishedRun, notes: Notes, settings: TuneSettings, dataset: Dataset, reporter: Reporter) -> None:
    assert notes.options is not None
    assert notes.seed is not None
    prepared = prepare(settings_of(settings, notes.options, notes.seed), name=run.name, dataset=dataset)
    with open_run(kind=TRAIN, name=run.name, tags=tags_of(prepared), again=run.id) as opened:
        train_into(opened, prepared, reporter)

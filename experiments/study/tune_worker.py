"""`tune worker`: works for a study that `tune` has started, on any machine."""

import os
from collections.abc import Mapping

from ..runs.prepare import load_dataset, suited
from ..system.progress import Printer, Reporter
from .addresses import StudyError
from .ledger import Ledger
from .settings import TuneSettings
from .watch import Watch
from .worker import Worker


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

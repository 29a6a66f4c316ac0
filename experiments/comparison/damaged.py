"""Finished runs whose files are damaged or gone: named, trained again alone, or left out."""

from collections.abc import Sequence

from ..data.dataset import Dataset
from ..runs.contents import damage
from ..runs.prepare import Prepared
from ..settings.base import SettingsError
from ..settings.compare import CompareSettings
from ..settings.trainings import Training
from ..tracking.reading import FinishedRun, completed_run
from .members import Member

Trained = dict[str, FinishedRun]
"""Finished runs by the fingerprint of their training."""


def finished_before(prepared: Sequence[Prepared], settings: CompareSettings) -> Trained:
    """The finished runs of these trainings, without those that are damaged if `retrain=damaged` is given.

    Raises:
        SettingsError: a run is damaged, and the settings do not say what to do with it.
    """
    found = {ready.fingerprint: completed_run(ready.fingerprint) for ready in prepared}
    there = {fingerprint: run for fingerprint, run in found.items() if run and not left_out(run, settings)}
    broken = _broken(there, prepared[0].dataset)
    if broken and settings.retrain != "damaged":
        cure = "retrain=damaged trains it again alone, and without={} leaves its seed out"
        raise SettingsError([f"{problem}; {cure.format(there[key].id[:8])}" for key, problem in broken.items()])
    return {fingerprint: run for fingerprint, run in there.items() if fingerprint not in broken}


def _broken(runs: Trained, dataset: Dataset) -> dict[str, str]:
    """What is wrong with the damaged ones of the runs, by the same keys."""
    problems = {key: damage(run, dataset.classes) for key, run in runs.items()}
    return {key: problem for key, problem in problems.items() if problem}


def without_seeds(
    trainings: Sequence[Training], prepared: Sequence[Prepared], settings: CompareSettings
) -> list[tuple[Training, Prepared]]:
    """The trainings whose seed is not that of a run which `without` leaves out, in any variant.

    Raises:
        SettingsError: none is left.
    """
    both = list(zip(trainings, prepared, strict=True))
    if not settings.left_out:
        return both
    runs = [completed_run(ready.fingerprint) for ready in prepared]
    gone = {one.settings.seed for one, run in zip(trainings, runs, strict=True) if run and left_out(run, settings)}
    if not gone:
        raise SettingsError(
            [f"without={settings.without}: is no finished run of this comparison; leave the option out"]
        )
    kept = [(training, ready) for training, ready in both if training.settings.seed not in gone]
    if not kept:
        raise SettingsError([f"without={settings.without}: leaves no seed; give more seeds"])
    return kept


def left_out(run: FinishedRun, settings: CompareSettings) -> bool:
    """Whether `without` names the run."""
    return bool(settings.left_out) and run.id.startswith(settings.left_out)


def refuse_damaged(members: Sequence[Member], dataset: Dataset, option: str) -> None:
    """Checks that the files of finished runs can be read.

    Raises:
        SettingsError: some cannot; a line for each run.
    """
    broken = _broken({member.run.id: member.run for member in members}, dataset)
    if broken:
        raise SettingsError(
            [f"{option}: {problem}; without={run_id[:8]} leaves it out" for run_id, problem in broken.items()]
        )

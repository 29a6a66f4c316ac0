"""The checkpoint of a run: where it is written, and from which one a run resumes."""

from pathlib import Path

from ..settings.base import AUTO, NONE
from ..settings.train import TrainSettings
from ..system.files import user_path
from ..system.progress import Reporter
from ..training.checkpoints import AUTO_EVERY_S, Checkpoint, CheckpointError, Keeper, of_this_training


def keeper_of(settings: TrainSettings, fingerprint: str) -> Keeper | None:
    """The writer of the checkpoints that the settings ask for, or None."""
    where = settings.checkpoint
    if where == NONE:
        return None
    if where == AUTO:
        return Keeper(_own_checkpoint(settings, fingerprint), AUTO_EVERY_S, passing=True)
    return Keeper(user_path(where), 0.0, passing=False)


def find_checkpoint(settings: TrainSettings, fingerprint: str, reporter: Reporter) -> Checkpoint | None:
    """The checkpoint from which the settings resume, or None.

    Raises:
        CheckpointError: the named file is no checkpoint of this training.
    """
    if settings.resume == NONE:
        return None
    named = settings.checkpoint if settings.resume == AUTO else settings.resume
    if named not in (AUTO, NONE):
        path = user_path(named)
        return None if settings.resume == AUTO and not path.exists() else _checkpoint_in(path, settings, fingerprint)
    own = _own_checkpoint(settings, fingerprint)
    try:
        return _checkpoint_in(own, settings, fingerprint) if own.exists() else None
    except CheckpointError as error:
        reporter.say(f"starts over: {error}")
        return None


def _checkpoint_in(path: Path, settings: TrainSettings, fingerprint: str) -> Checkpoint:
    return of_this_training(path, fingerprint, settings.as_params())


def _own_checkpoint(settings: TrainSettings, fingerprint: str) -> Path:
    return user_path(settings.data_dir) / "checkpoints" / f"{fingerprint}.pt"

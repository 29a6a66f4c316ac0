"""Finds finished runs by id, fingerprint or filter, and reads their files."""

import contextlib
import difflib
import errno
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from jaxtyping import UInt8
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.search_utils import SearchUtils
from PIL import Image
from torch import nn

from ..system.files import Damaged
from . import outbox, server
from .client import ERROR, FINGERPRINT, KIND, MODEL, STATUS, TRAIN, of_finished, one_line
from .failures import is_away
from .journal import damaged
from .locations import TrackingError
from .models import load_model
from .patience import patiently
from .store import current_experiment
from .waiting import Contents, waiting_run, waiting_runs

_KEY_IN_FILE = re.compile(r"images/(?P<key>.+?)\+step\+(?P<step>\d+)\+timestamp\+.*\.png$")


class Unreachable(TrackingError):
    """The store does not give a file now; it may be there."""


class DamagedFile(TrackingError):
    """A file of a finished run is there, but cannot be read."""


@dataclass(frozen=True)
class FinishedRun:
    """A completed run with its parameters as text, its tags, and the last value of each metric."""

    id: str
    name: str
    experiment_id: str
    params: Mapping[str, str]
    tags: Mapping[str, str]
    metrics: Mapping[str, float]

    @property
    def waits_in(self) -> str:
        """The folder of the outbox where the run lies; empty if MLflow has it."""
        return ""

    @cached_property
    def memo(self) -> dict[str, Any]:
        """What callers have read of the run and need again; the files of a completed run do not change."""
        return {}

    def read_text(self, path: str) -> str:
        """The text file at `path`.

        Like all readers here, raises TrackingError if the run has no such file, DamagedFile if it cannot be read, and
        Unreachable if the store does not give it now.
        """
        with self._fetched(path) as file:
            return file.read_text(encoding="utf-8")

    def read_json(self, path: str) -> Any:
        """The content of the JSON file at `path`."""
        return json.loads(self.read_text(path))

    def read_table(self, path: str) -> pd.DataFrame:
        """The table at `path`, `.parquet` or `.csv`."""
        with self._fetched(path) as file:
            return pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file)

    def read_arrays(self, path: str) -> dict[str, np.ndarray]:
        """The arrays in the `.npz` at `path`, by name."""
        # Opened here, because numpy does not close a damaged file.
        with self._fetched(path) as file, file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            return dict(arrays)

    def read_picture(self, path: str) -> UInt8[np.ndarray, "h w 3"]:
        """The picture at `path`."""
        with self._fetched(path) as file, Image.open(file) as picture:
            return np.asarray(picture.convert("RGB"))

    def metric_history(self, key: str) -> list[tuple[int, float]]:
        """Step and value of a metric, in the order of the steps; empty if the run has no metric of that name."""
        history = patiently(lambda: MlflowClient().get_metric_history(self.id, key))
        return sorted((metric.step, metric.value) for metric in history)

    def list_keys(self) -> tuple[str, ...]:
        """The keys of the pictures in MLflow's image grid, sorted."""
        return tuple(sorted({match["key"].replace("~", "/") for match in self._grid_pictures()}))

    def picture_steps(self) -> set[int]:
        """The steps at which there are pictures in MLflow's image grid."""
        return {int(match["step"]) for match in self._grid_pictures()}

    def _grid_pictures(self) -> list[re.Match[str]]:
        files = patiently(lambda: MlflowClient().list_artifacts(self.id, "images"))
        return [match for file in files if (match := _KEY_IN_FILE.match(file.path))]

    def load_model(self) -> nn.Module:
        """The network on the CPU, in evaluation mode."""
        with tempfile.TemporaryDirectory() as folder:
            try:
                return patiently(lambda: load_model(f"runs:/{self.id}/{MODEL}", folder))
            except Damaged as error:
                raise DamagedFile(f"run {self.id} ({self.name}) has a damaged model: {error}") from error
            except (OSError, MlflowException) as error:
                raise TrackingError(
                    f"run {self.id} ({self.name}) has no model that can be loaded: {one_line(error)}"
                ) from error

    @cached_property
    def _artifacts(self) -> ArtifactRepository:
        # Found once: MLflow's client asks the store three times for each file that it fetches.
        return get_artifact_repository(MlflowClient().get_run(self.id).info.artifact_uri)

    @contextlib.contextmanager
    def _fetched(self, path: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            try:
                file = Path(patiently(lambda: self._artifacts.download_artifacts(path, folder)))  # type: ignore[no-untyped-call]
            except (OSError, MlflowException) as error:
                uri = mlflow.get_tracking_uri()
                if server.is_server(uri) and (away := server.trouble(uri)):
                    raise Unreachable(away) from error
                if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT, errno.ENOTDIR):
                    raise Unreachable(f"run {self.id} ({self.name}): {one_line(error)}") from error
                raise TrackingError(f"run {self.id} ({self.name}) has no file {path!r}: {one_line(error)}") from error
            try:
                yield file
            except Exception as error:
                raise DamagedFile(f"run {self.id} ({self.name}) has a damaged {path}: {one_line(error)}") from error


@dataclass(frozen=True)
class _WaitingRun(FinishedRun):
    """A completed run in the outbox, which MLflow does not have yet."""

    here: Contents

    @property
    def waits_in(self) -> str:
        return "" if self.here.is_sent else str(self.here.folder)

    @property
    def _there(self) -> FinishedRun:
        return finished_run(self.id)

    def metric_history(self, key: str) -> list[tuple[int, float]]:
        return sorted((step, value) for name, step, value in self.here.metrics if name == key)

    def _grid_pictures(self) -> list[re.Match[str]]:
        if self.here.is_sent:
            return self._there._grid_pictures()
        return [match for path in self.here.files if (match := _KEY_IN_FILE.match(path))]

    def load_model(self) -> nn.Module:
        if self.here.is_sent:
            return self._there.load_model()
        folder, digests = self.here.model or (None, {})
        if folder is None or damaged(folder, digests):
            raise TrackingError(f"run {self.id} ({self.name}) has no model that can be loaded")
        with tempfile.TemporaryDirectory() as copies:
            return load_model(str(folder), copies)

    @contextlib.contextmanager
    def _fetched(self, path: str) -> Iterator[Path]:
        file = self.here.file(path)
        if file is None and self.here.is_sent:
            with self._there._fetched(path) as fetched:
                yield fetched
                return
        if file is None and path in self.here.files:
            raise DamagedFile(f"run {self.id} ({self.name}) has a damaged {path}: it is not as it was written")
        if file is None:
            raise TrackingError(f"run {self.id} ({self.name}) has no file {path!r}")
        yield file


def completed_run(fingerprint: str, experiment_id: str | None = None) -> FinishedRun | None:
    """The newest completed run with this fingerprint, or None, in the given experiment, else in that of `open_run`.

    Raises:
        ValueError: the fingerprint contains other characters than letters, digits, dashes and underscores.
    """
    if not re.fullmatch(r"[\w-]+", fingerprint):
        raise ValueError(f"{fingerprint!r} is not a fingerprint: letters, digits, - and _ are allowed")
    here = [run for run in waiting_runs() if run.tags.get(FINGERPRINT) == fingerprint and _is_completed(run.entity())]
    if here or outbox.is_offline():
        return _finished(here[-1].entity(), here[-1]) if here else None
    try:
        found = MlflowClient().search_runs(
            [experiment_id or current_experiment()],
            of_finished(fingerprint),
            order_by=["attributes.start_time DESC"],
            max_results=1,
        )
    except (MlflowException, TrackingError) as error:
        if not is_away(error) and not is_away(error.__cause__ or error):
            raise
        return None  # the training does not wait; should MLflow have one, `_begin` in `sending` does not send a second
    return _finished(found[0]) if found else None


def finished_run(run_id: str) -> FinishedRun:
    """The completed run with this id.

    Raises:
        TrackingError: there is no such run, or it did not complete.
    """
    if (here := waiting_run(run_id)) and not here.may_go_on:
        return _completed(here.entity(), here)
    try:
        run = patiently(lambda: MlflowClient().get_run(outbox.id_now(run_id)))
    except MlflowException as error:
        raise TrackingError(f"{outbox.store()} has no run {run_id!r}: {one_line(error)}") from error
    return _completed(run)


def finished_training(prefix: str) -> FinishedRun:
    """The completed training whose run id begins with `prefix`, in any experiment.

    Raises:
        TrackingError: no run or several runs begin like this, or the run is not a training, or it did not complete.
        ValueError: the prefix contains other characters than 0-9 and a-f.
    """
    if not re.fullmatch("[0-9a-f]+", prefix):
        raise ValueError(f"{prefix!r} is not the beginning of a run id: the digits 0-9 and a-f are allowed")
    here = {run.run_id: run for run in waiting_runs() if run.run_id.startswith(prefix) and not run.may_go_on}
    experiments = _experiments()
    there = {run.info.run_id: run for run in _search(experiments, f"attributes.run_id LIKE '{_sent(prefix)}%'")}
    found = [run.entity() for run in here.values()] + [run for run_id, run in there.items() if run_id not in here]
    if not found:
        raise TrackingError(f"no run id begins with {prefix!r}{_near_run(prefix, experiments)}")
    if len(found) > 1:
        several = ", ".join(f"{run.info.run_id} ({run.info.run_name})" for run in found[:3])
        raise TrackingError(f"{len(found)} run ids begin with {prefix!r}, such as {several}: give more digits")
    kind = found[0].data.tags.get(KIND)
    if kind != TRAIN:
        what = f"of kind {kind!r}" if kind else "of another program"
        raise TrackingError(f"run {prefix} ({found[0].info.run_name}) is {what}: give the ids of trainings")
    return _completed(found[0], here.get(found[0].info.run_id))


def finished_trainings(matching: str) -> list[FinishedRun]:
    """The completed trainings that MLflow's search finds with the filter `matching`, the oldest first.

    Searches in the experiment that `open_run` uses.

    Raises:
        TrackingError: MLflow cannot read the filter, or no completed training matches.
    """
    here = {run.run_id: run for run in waiting_runs() if not run.may_go_on}
    try:
        found = SearchUtils.filter([run.entity() for run in here.values()], matching)  # type: ignore[no-untyped-call]
        there = [] if outbox.is_offline() else _search([current_experiment()], matching)
    except MlflowException as error:
        raise TrackingError(f"MLflow does not accept {matching!r} ({one_line(error)})") from error
    found = [run for run in there if run.info.run_id not in here] + found
    trainings = [run for run in found if _is_completed(run) and run.data.tags.get(KIND) == TRAIN]
    finished = [_finished(run, here.get(run.info.run_id)) for run in trainings]
    if not finished:
        others = "".join(
            f", only such as {run.info.run_id} ({run.info.run_name}, {run.info.status})" for run in found[:1]
        )
        raise TrackingError(f"{matching!r} matches no completed training{others}")
    return finished


def _experiments() -> list[str]:
    return [] if outbox.is_offline() else [found.experiment_id for found in MlflowClient().search_experiments()]


def _sent(prefix: str) -> str:
    """The id in MLflow of the run that had an id with this beginning in the outbox; else the beginning itself."""
    return next((there for here, there in outbox.new_ids().items() if here.startswith(prefix)), prefix)


def _search(experiment_ids: list[str], matching: str) -> list[mlflow.entities.Run]:
    runs: list[mlflow.entities.Run] = []
    token = None
    if not experiment_ids:
        return runs
    while True:
        order = ["attributes.start_time ASC"]
        page = MlflowClient().search_runs(experiment_ids, matching, order_by=order, page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def _near_run(prefix: str, experiment_ids: list[str]) -> str:
    """A suggestion such as `; did you mean 1a2b3c (baseline, seed 0)?`, or a hint if no id is similar."""
    trainings = _search(experiment_ids, f"tags.`{KIND}` = '{TRAIN}'")
    names = {run.info.run_id[: len(prefix)]: run.info.run_name for run in trainings}
    near = difflib.get_close_matches(prefix, names, n=1, cutoff=0.8)  # one of six digits may differ
    return (
        f"; did you mean {near[0]} ({names[near[0]]})?" if near else ": MLflow's UI shows the id on the page of a run"
    )


def _is_completed(run: mlflow.entities.Run) -> bool:
    return run.data.tags.get(STATUS) == "completed"


def _completed(run: mlflow.entities.Run, here: Contents | None = None) -> FinishedRun:
    if not _is_completed(run):
        why = run.data.tags.get(ERROR, "no error recorded")
        cure = "wait until it ends" if run.info.status == "RUNNING" else "train it again"
        raise TrackingError(f"run {run.info.run_id} did not complete (status {run.info.status}, {why}): {cure}")
    return _finished(run, here)


def _finished(run: mlflow.entities.Run, here: Contents | None = None) -> FinishedRun:
    info, data = run.info, run.data
    values = (info.run_id, info.run_name, info.experiment_id, data.params, data.tags, data.metrics)
    return _WaitingRun(*values, here) if here else FinishedRun(*values)

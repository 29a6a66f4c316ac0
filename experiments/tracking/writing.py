"""Turns records into calls of MLflow: one call for all records of a kind."""

import copy
import json
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import singledispatch
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import mlflow
import mlflow.pytorch
import numpy as np
import pandas as pd
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric
from mlflow.entities import Param as RunParam
from mlflow.exceptions import MlflowException
from mlflow.models import Model as ModelFormat
from mlflow.models import infer_signature
from PIL import Image

from cam_core import enlarge

from .client import METRICS_PER_CALL, MODEL, SETTINGS_PER_CALL, chunks, import_path_kept, one_line, set_tags
from .locations import TrackingError
from .records import Arrays, DatasetUse, File, KeyedPicture, Metrics, Model, Param, Picture, Record, Table, Tag, Text

GRID_PIXELS = 256  # MLflow's thumbnails have this length; it enlarges smaller pictures, which blurs them


class Run:
    """A run that is being written: `id`, `experiment_id`, `artifact_uri`."""

    def __init__(self, run: mlflow.entities.Run) -> None:
        self.id: str = run.info.run_id
        self.experiment_id: str = run.info.experiment_id
        self.artifact_uri: str = run.info.artifact_uri
        self._params = set(run.data.params)
        self.before_writing: Callable[[], None] = lambda: None

    def log(self, records: Iterable[Record]) -> None:
        """Writes the records: one MLflow call for all of a kind, and one for all files. Returns when they are written.

        Parameters that the run already has keep their values, because `mlflow run` writes them, as text, before the
        program starts.

        Raises:
            TypeError: an item is not a record; then nothing is written.
            TrackingError: MLflow refuses a value that is too long or malformed.
        """
        groups: dict[Callable[[Run, list[Any]], None], list[Record]] = {}
        for record in records:
            if type(record) not in _WRITERS:
                raise TypeError(
                    f"{type(record).__name__} is not a record that can be logged: see experiments.tracking.records"
                )
            groups.setdefault(_WRITERS[type(record)], []).append(record)
        self.before_writing()
        try:
            for write, group in groups.items():
                write(self, group)
        except MlflowException as error:
            raise TrackingError(f"MLflow refuses a record of run {self.id}: {one_line(error)}") from error


def _log_params(run: Run, records: list[Param]) -> None:
    new = {record.key: str(record.value) for record in records if record.key not in run._params}
    for part in chunks([RunParam(key, value) for key, value in new.items()], SETTINGS_PER_CALL):
        MlflowClient().log_batch(run.id, params=part)
    run._params.update(new)


def _log_tags(run: Run, records: list[Tag]) -> None:
    set_tags(run.id, {record.key: record.value for record in records})


def _log_metrics(run: Run, records: list[Metrics]) -> None:
    now = int(time.time() * 1000)
    metrics = [
        Metric(key, float(value), now, record.step) for record in records for key, value in record.values.items()
    ]
    for part in chunks(metrics, METRICS_PER_CALL):
        MlflowClient().log_batch(run.id, metrics=part)


def _log_files(run: Run, records: list[Picture | Text | File | Table | Arrays]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for record in records:
            path = Path(folder, _inside(record.path))
            if isinstance(record, Table) and path.suffix == ".json":
                # As objects, because with the other text type MLflow's code causes a pandas warning.
                frame = record.frame.copy()
                for name in [name for name in frame if pd.api.types.is_string_dtype(frame[name])]:
                    frame[name] = frame[name].astype(object)
                MlflowClient().log_table(run.id, frame, record.path)
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                _save(record, path)
        MlflowClient().log_artifacts(run.id, folder)


def _log_keyed_pictures(run: Run, records: list[KeyedPicture]) -> None:
    for record in records:
        # Enlarged here, so that pixels are squares and not blurred.
        factor = -(-GRID_PIXELS // max(record.image.shape[:2]))
        picture = Image.fromarray(enlarge(record.image, factor))
        try:
            # Not asynchronous (MLflow's default): the run would count as finished although a picture failed.
            MlflowClient().log_image(run.id, picture, key=record.key, step=record.step, synchronous=True)
        except ValueError as error:
            raise ValueError(f"{record.key!r} cannot be the key of a picture: {one_line(error)}") from error


def _log_datasets(run: Run, records: list[DatasetUse]) -> None:
    inputs = [
        DatasetInput(
            Dataset(
                name=record.name,
                digest=record.digest[:36],  # MLflow stores no more characters; the full digest is in the source
                source_type="local",
                source=json.dumps({"uri": record.source, "digest": record.digest}),
                profile=json.dumps({"rows": dict(record.rows)}),
            ),
            tags=[InputTag("mlflow.data.context", "training")],
        )
        for record in records
    ]
    MlflowClient().log_inputs(run.id, inputs)


def _log_models(run: Run, records: list[Model]) -> None:
    """Logs models with pickle, because MLflow's newer pt2 format loads a traced graph without forward hooks for CAM.

    The requirements are given, so that MLflow needs no child process to infer them. The package is stored with the
    model, so that the model can be loaded where this project is not installed.
    """
    for record in records:
        with import_path_kept():
            ModelFormat.log(
                artifact_path=None,
                name=MODEL,
                flavor=mlflow.pytorch,
                run_id=run.id,
                pytorch_model=copy.deepcopy(record.module).cpu().eval(),
                serialization_format="pickle",
                pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in ("torch", "numpy", "jaxtyping")],
                signature=infer_signature(record.example_input, record.example_output),
                input_example=record.example_input,
                code_paths=[str(Path(__file__).parents[1])],
                step=record.step,
            )


_WRITERS: dict[type, Callable[[Run, list[Any]], None]] = {
    Param: _log_params,
    Tag: _log_tags,
    Metrics: _log_metrics,
    Picture: _log_files,
    Text: _log_files,
    File: _log_files,
    Table: _log_files,
    Arrays: _log_files,
    KeyedPicture: _log_keyed_pictures,
    DatasetUse: _log_datasets,
    Model: _log_models,
}


def _inside(path: str) -> str:
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts:
        raise ValueError(
            f"{path!r} is not a path inside a run: give a relative path without `..`, such as galleries/a.png"
        )
    return path


@singledispatch
def _save(record: object, path: Path) -> None:
    raise TypeError(f"{type(record).__name__} is not a file")


@_save.register
def _save_picture(record: Picture, path: Path) -> None:
    Image.fromarray(record.image).save(path, format="PNG")


@_save.register
def _save_text(record: Text, path: Path) -> None:
    path.write_text(record.text, encoding="utf-8")


@_save.register
def _save_file(record: File, path: Path) -> None:
    path.write_bytes(record.content)


@_save.register
def _save_table(record: Table, path: Path) -> None:
    if path.suffix == ".parquet":
        record.frame.to_parquet(path)
    elif path.suffix == ".csv":
        record.frame.to_csv(path, index=False)
    else:
        raise ValueError(f"a table cannot be written to {record.path!r}: the name must end in .parquet, .csv or .json")


@_save.register
def _save_arrays(record: Arrays, path: Path) -> None:
    with path.open("wb") as file:  # with a name instead of a file, numpy would add its own ending
        np.savez_compressed(file, allow_pickle=False, **dict(record.arrays))

"""Turns records into entries of the journal of a run: one entry for all records of a kind."""

import contextlib
import json
import re
import time
import uuid
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import singledispatch
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags
from mlflow.tracking.multimedia import compress_image_size
from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS, MLFLOW_LOGGED_IMAGES
from mlflow.utils.validation import _validate_metric, _validate_param, _validate_tag
from PIL import Image

from cam_core import enlarge

from . import outbox
from .client import one_line
from .journal import Entry, Journal, sync
from .locations import TrackingError
from .models import save_model
from .records import Arrays, DatasetUse, File, KeyedPicture, Metrics, Model, Param, Picture, Record, Table, Tag, Text
from .sender import sender
from .sending import Sending

GRID_PIXELS = 256  # MLflow's thumbnails have this length; it enlarges smaller pictures, which blurs them
_FILES = (Picture, KeyedPicture, Text, File, Table, Arrays)
_Known = tuple[str, int, float]


class Run:
    """A run that is being written: `id`, `experiment_id`, `artifact_uri`.

    `params`: those that the run already has. `metrics`: the values that its journal already has.
    """

    def __init__(
        self,
        journal: Journal,
        run_id: str,
        experiment_id: str,
        artifact_uri: str = "",
        params: Iterable[str] = (),
        metrics: Iterable[_Known] = (),
    ) -> None:
        self.id, self.experiment_id, self.artifact_uri = run_id, experiment_id, artifact_uri
        self.journal = journal
        self._params, self._metrics = set(params), set(metrics)
        self._tables: list[dict[str, str]] = []
        self.before_writing: Callable[[], None] = lambda: None

    def log(self, records: Iterable[Record]) -> None:
        """Writes the records into the journal of the run; returns when they are on the disk. MLflow gets them later.

        Parameters that the run already has keep their values, because `mlflow run` writes them, as text, before the
        program starts.

        Raises:
            TypeError: an item is not a record; then nothing is written.
            TrackingError: MLflow would refuse a value that is too long or malformed, or the disk is full.
        """
        groups: dict[Callable[[Run, list[Any]], list[Entry]], list[Record]] = {}
        for record in records:
            if type(record) not in _WRITERS:
                raise TypeError(
                    f"{type(record).__name__} is not a record that can be logged: see experiments.tracking.records"
                )
            groups.setdefault(_WRITERS[type(record)], []).append(record)
        self.before_writing()
        try:
            entries = [entry for write, group in groups.items() for entry in write(self, group)]
        except MlflowException as error:
            raise TrackingError(f"MLflow refuses a record of run {self.id}: {one_line(error)}") from error
        self.append(entries)

    def append(self, entries: Sequence[Entry]) -> None:
        """Writes entries into the journal, and wakes the sender.

        Raises:
            TrackingError: the disk is full.
        """
        try:
            self.journal.append(entries)
        except OSError as error:
            raise TrackingError(f"{self.journal.folder} cannot be written: {one_line(error)}") from error
        if not outbox.is_offline():
            sender().wake()

    def tag(self, tags: Mapping[str, str]) -> None:
        """Sets tags of the run."""
        self.append([{"what": "tags", "values": dict(tags)}])

    def waiting_file(self, path: str) -> Path | None:
        """The file in the outbox, if MLflow does not have it yet."""
        found = [e for e in self.journal.entries() if e["what"] == "files" and path in e["files"]]
        return self.journal.folder / found[-1]["in"] / path if found else None


def log_notes(entries: Sequence[Entry]) -> None:
    """Writes entries about other runs, each with their ids; waits until MLflow has them, unless it is away."""
    with _notes() as journal:
        journal.append(entries)


def append_records(run_id: str, records: Iterable[Record]) -> None:
    """Writes more records into a run, which may have ended; does not change its status."""
    with _notes(run_id) as journal:
        Run(journal, run_id, "").log(records)


@contextlib.contextmanager
def _notes(run_id: str | None = None) -> Iterator[Journal]:
    journal = outbox.new_journal(
        {"what": "begin", "notes": True, "run": run_id, "start": now(), "store": store_of_new()}
    )
    yield journal
    journal.close()
    if not outbox.is_offline():
        sender().take(Sending(journal, sender().say, is_new=True))
        sender().flush()


def store_of_new() -> str | None:
    """The store for which a journal is written now; None if it is for any."""
    return None if outbox.is_offline() else outbox.store()


def now() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)


# --------------------------------------------------------------------------------------------------- records to entries


def _param_entries(run: Run, records: list[Param]) -> list[Entry]:
    new = {record.key: str(record.value) for record in records if record.key not in run._params}
    for key, value in new.items():
        _validate_param(key, value)  # type: ignore[no-untyped-call]
    run._params.update(new)
    return [{"what": "params", "values": new}] if new else []


def _tag_entries(run: Run, records: list[Tag]) -> list[Entry]:
    tags = {record.key: record.value for record in records}
    for key, value in tags.items():
        _validate_tag(key, value)  # type: ignore[no-untyped-call]
    return [{"what": "tags", "values": tags}]


def _metric_entries(run: Run, records: list[Metrics]) -> list[Entry]:
    time_ms = now()
    values = [(key, float(value), record.step) for record in records for key, value in record.values.items()]
    new = [(key, value, step) for key, value, step in values if (key, step, value) not in run._metrics]
    for key, value, step in new:
        _validate_metric(key, value, time_ms, step)  # type: ignore[no-untyped-call]
    return [{"what": "metrics", "time": time_ms, "values": new}] if new else []


def _file_entries(run: Run, records: list[Picture | KeyedPicture | Text | File | Table | Arrays]) -> list[Entry]:
    """All files of a call are one entry; their tags, by which MLflow's UI finds tables and pictures, are another."""
    place = run.journal.place()
    for record in records:
        path = _keyed_path(record) if isinstance(record, KeyedPicture) else _inside(record.path)
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        _save(record, place / path)
    where = place.relative_to(run.journal.folder).as_posix()
    tags = _marks(run, records)
    return [{"what": "files", "in": where, "files": sync(place)}, *([{"what": "tags", "values": tags}] if tags else [])]


def _marks(run: Run, records: Sequence[Record]) -> dict[str, str]:
    tables = [{"path": r.path, "type": "table"} for r in records if isinstance(r, Table) and r.path.endswith(".json")]
    run._tables += [table for table in tables if table not in run._tables]
    marks = {MLFLOW_LOGGED_ARTIFACTS: json.dumps(run._tables)} if tables else {}
    return marks | ({MLFLOW_LOGGED_IMAGES: "True"} if any(isinstance(r, KeyedPicture) for r in records) else {})


def _input_entries(run: Run, records: list[DatasetUse]) -> list[Entry]:
    values = [
        {
            "name": record.name,
            "digest": record.digest[:36],  # MLflow stores no more characters; the full digest is in the source
            "source_type": "local",
            "source": json.dumps({"uri": record.source, "digest": record.digest}),
            "profile": json.dumps({"rows": dict(record.rows)}),
        }
        for record in records
    ]
    return [{"what": "inputs", "values": values}]


def _model_entries(run: Run, records: list[Model]) -> list[Entry]:
    return [_model_entry(run, record) for record in records]


def _model_entry(run: Run, record: Model) -> Entry:
    place = run.journal.place()
    save_model(record, place)
    where = place.relative_to(run.journal.folder).as_posix()
    return {"what": "model", "in": where, "files": sync(place), "step": record.step, "tags": resolve_tags()}


_WRITERS: dict[type, Callable[[Run, list[Any]], list[Entry]]] = {
    Param: _param_entries,
    Tag: _tag_entries,
    Metrics: _metric_entries,
    **dict.fromkeys(_FILES, _file_entries),
    DatasetUse: _input_entries,
    Model: _model_entries,
}


def _keyed_path(record: KeyedPicture) -> str:
    """The path under which MLflow's grid finds a picture, as `MlflowClient.log_image` names it.

    The same each time, so that a run that goes on after a kill has each picture once.
    """
    if not re.fullmatch(r"[a-zA-Z0-9_\-./ ]+", record.key):
        allowed = "letters, digits, _ - . / and spaces"
        raise ValueError(f"{record.key!r} cannot be the key of a picture: MLflow allows {allowed}")
    key = record.key.replace("/", "~")
    return f"images/{key}+step+{record.step}+timestamp+0+{uuid.uuid5(uuid.NAMESPACE_OID, key)}.png"


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
def _save_keyed_picture(record: KeyedPicture, path: Path) -> None:
    """With its thumbnail. Enlarged here, so that pixels are squares and not blurred."""
    picture = Image.fromarray(enlarge(record.image, -(-GRID_PIXELS // max(record.image.shape[:2]))))
    picture.save(path)
    compress_image_size(picture).save(path.with_name(f"{path.name.removesuffix('.png')}+compressed.webp"))


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
    elif path.suffix == ".json":
        # As objects, because with the other text type pandas warns; the form is that of `MlflowClient.log_table`.
        record.frame.astype(_objects(record.frame)).to_json(path, orient="split", index=False, date_format="iso")
    else:
        raise ValueError(f"a table cannot be written to {record.path!r}: the name must end in .parquet, .csv or .json")


def _objects(frame: pd.DataFrame) -> dict[Hashable, type[object]]:
    return {name: object for name in frame if pd.api.types.is_string_dtype(frame[name])}


@_save.register
def _save_arrays(record: Arrays, path: Path) -> None:
    with path.open("wb") as file:  # with a name instead of a file, numpy would add its own ending
        np.savez_compressed(file, allow_pickle=False, **dict(record.arrays))

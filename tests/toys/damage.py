"""Files that are read back, one of each kind, and what happens when a bit of one flips or its end is missing."""

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow import MlflowClient

from experiments.runs import contents
from experiments.system.files import Damaged
from experiments.tracking import outbox
from experiments.tracking.journal import Journal, Sent
from experiments.tracking.locations import TrackingError
from experiments.tracking.reading import FinishedRun, finished_run
from experiments.tracking.waiting import waiting_run
from experiments.training import checkpoints
from tests.toys.scenes import put_scenes

REFUSALS = (TrackingError, checkpoints.CheckpointError, Damaged)


@dataclass(frozen=True)
class Specimen:
    """A file, and a reader: True if what it reads is as it was written, False if it is something else.

    Where the file is refused, the reader raises one of `REFUSALS`, or says that there is nothing.
    """

    kind: str
    path: Path
    is_as_written: Callable[[], bool]


def harmed(content: bytes, chance: random.Random) -> bytes:
    """With one bit flipped, a part missing at the end, or a block of zeros, as a disk does it."""
    at = chance.randrange(len(content))
    match chance.choice(["flip", "flip", "cut", "zeros"]):
        case "flip":
            return content[:at] + bytes([content[at] ^ 1 << chance.randrange(8)]) + content[at + 1 :]
        case "cut":
            return content[:at]
        case _:
            return content[:at] + bytes(min(512, len(content) - at)) + content[at + 512 :]


def outcome(specimen: Specimen, chance: random.Random) -> str:
    """What a reader makes of the harmed file: refused, as written, accepted (it is something else), or an error."""
    written = specimen.path.read_bytes()
    while (harm := harmed(written, chance)) == written:
        pass  # zeros in the place of zeros
    specimen.path.write_bytes(harm)
    try:
        return "as written" if specimen.is_as_written() else "accepted"
    except REFUSALS:
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        specimen.path.write_bytes(written)


def same(read: Callable[[], Any]) -> Callable[[], bool]:
    """Whether it reads the same as now."""
    before = plain(read())
    return lambda: plain(read()) == before


def plain(value: Any) -> str:
    """Text that is equal for equal values, also of arrays, tables, tensors and dataclasses of them."""
    if is_dataclass(value):
        value = {item.name: getattr(value, item.name) for item in fields(value)}
    if isinstance(value, pd.DataFrame):
        value = {str(name): value[name].to_numpy() for name in value}
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape} {value.tolist()}"
    if isinstance(value, Mapping):
        return str({str(key): plain(item) for key, item in value.items()})
    return repr(value)


def a_checkpoint(folder: Path) -> Specimen:
    """Of a training with two weights."""
    state = {"epochs": 2, "model": {"weight": torch.randn(3, 20)}, "random": {"cpu": torch.get_rng_state()}}
    written = checkpoints.Checkpoint(
        "0" * 20, {"epochs": "6"}, {1: {"train/loss": 1.0}}, {"wall": {}, "cpu": {}}, state
    )
    path = folder / "run.pt"
    checkpoints.write(path, written)

    return Specimen("checkpoint", path, same(lambda: checkpoints.read(path)))


def the_scenes(folder: Path) -> Specimen:
    """The built-in images, which are drawn again where their file is damaged."""
    (path,) = folder.glob("data/scenes-*.npz")
    return Specimen("images drawn once", path, same(lambda: put_scenes(folder).digest))


def files_of_a_run(run: FinishedRun) -> Iterator[Specimen]:
    """Those of a finished run that a comparison reads, and its network."""
    classes = contents.config(run).dataset.classes
    info = MlflowClient().get_run(run.id).info
    readers: dict[str, Callable[[FinishedRun], object]] = {
        "config.json": contents.config,
        "predictions.parquet": lambda run: contents.predictions(run, classes),
        "maps.npz": contents.maps,
        "cam_measures.parquet": contents.map_measures,
        "faithfulness.parquet": contents.faithfulness,
    }
    for name, read in readers.items():
        path = Path(str(info.artifact_uri).removeprefix("file://")) / name
        yield Specimen(f"{name} of a run", path, same(partial(_read, read, run, classes)))
    (model,) = MlflowClient().search_logged_models([info.experiment_id], f"source_run_id = '{run.id}'")
    weights = same(lambda: finished_run(run.id).load_model().state_dict())
    place = Path(str(model.artifact_location).removeprefix("file://"))
    for name in ("data/model.pth", "MLmodel", "code/experiments/models/fastnet.py"):
        yield Specimen("logged network", place / name, weights)


def _read(read: Callable[[FinishedRun], object], run: FinishedRun, classes: tuple[str, ...]) -> object:
    again = finished_run(run.id)
    if problem := contents.damage(again, classes):
        raise Damaged(problem)
    return read(again)


def the_outbox(run_id: str) -> Iterator[Specimen]:
    """What lies in the outbox of a run that MLflow does not have."""
    journal = outbox.of_run(run_id)
    assert journal is not None
    entries = list(journal.entries())
    yield Specimen(
        "journal in the outbox", journal.folder / "journal", lambda: all(e in entries for e in journal.entries())
    )
    here = waiting_run(run_id)
    assert here is not None
    for name, (folder, _) in here.files.items():
        yield Specimen("file in the outbox", folder / name, partial(_is_refused, run_id, name))
    assert here.model is not None
    weights = same(lambda: finished_run(run_id).load_model().state_dict())
    yield Specimen("network in the outbox", here.model[0] / "data" / "model.pth", weights)
    journal.acknowledge(sent := Sent("1" * 32, 345))
    yield Specimen("note of what was sent", journal.folder / "sent", lambda: _note(journal) == sent)
    outbox.keep_id("2" * 32, "3" * 32)
    outbox.keep_id("4" * 32, "5" * 32)
    ids = outbox.new_ids()
    yield Specimen("ids in the outbox", outbox.folder() / "ids", lambda: outbox.new_ids().items() <= ids.items())


def _is_refused(run_id: str, name: str) -> bool:
    here = waiting_run(run_id)
    if here is None or here.file(name) is None:
        raise Damaged(name)
    return False


def _note(journal: Journal) -> Sent:
    if journal.sent == Sent():
        raise Damaged("as if nothing was sent")
    return journal.sent

"""The network of a run: saved in MLflow's form without a server, sent later, loaded again.

Its description has a digest of itself and of all other files.
"""

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import mlflow.pytorch
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModel, LoggedModelOutput, Metric
from mlflow.models import Model as ModelFormat
from mlflow.models import infer_signature
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.store.artifact.models_artifact_repo import REGISTERED_MODEL_META_FILE_NAME
from safetensors.torch import save_file
from torch import nn

from ..system.files import Damaged
from ..system.stored_networks import picklable
from .client import MODEL, import_path_kept, one_line
from .journal import digest
from .records import Model

_OTHERS = {MLMODEL_FILE_NAME, REGISTERED_MODEL_META_FILE_NAME}  # MLflow adds the second when it downloads a model
_SEAL = b"metadata:\n  camparison.sha256: "  # the last lines of the description, which MLflow reads as its metadata
WEIGHTS, DECLARATION = "network.safetensors", "network.json"
"""Beside MLflow's files: the weights by name, and the declaration of the network, which `WEIGHTS` also has inside."""

_SUITE = Path(__file__).parents[1]


def save_model(record: Model, folder: Path) -> None:
    """Saves a model with pickle, because MLflow's newer pt2 format loads a traced graph without forward hooks for CAM.

    The requirements are given, so that MLflow needs no child process to infer them. The package and one's own files are
    stored with the model, so that the model can be loaded where they are not. What needs no pickle lies beside it.
    """
    network = picklable(record.module)
    packages = {"torch", "numpy", "jaxtyping", *record.declaration.get("libraries", {})}
    with import_path_kept(), tempfile.TemporaryDirectory() as place:
        for path, text in record.declaration.get("sources", {}).items():
            Path(place, path).parent.mkdir(parents=True, exist_ok=True)
            Path(place, path).write_text(text, encoding="utf-8")
        mlflow.pytorch.save_model(
            pytorch_model=network,
            path=str(folder),
            serialization_format="pickle",
            pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in sorted(packages)],
            signature=infer_signature(record.example_input, record.example_output),
            input_example=record.example_input,
            code_paths=[str(_SUITE), *sorted(map(str, Path(place).iterdir()))],
        )
    if record.declaration:
        declared = json.dumps(record.declaration, indent=2)
        weights = {name: tensor.cpu().clone().contiguous() for name, tensor in record.module.state_dict().items()}
        save_file(weights, folder / WEIGHTS, {"network": declared})
        (folder / DECLARATION).write_text(declared, encoding="utf-8")
    for cache in folder.rglob("__pycache__"):
        shutil.rmtree(cache, ignore_errors=True)
    _seal(folder)


def _seal(folder: Path) -> None:
    """Adds the digest to the description."""
    file = folder / MLMODEL_FILE_NAME
    described = file.read_bytes()
    file.write_bytes(described + _SEAL + _digest(described, folder) + b"\n")


def _check(folder: Path) -> None:
    described, seal, written = (folder / MLMODEL_FILE_NAME).read_bytes().rpartition(_SEAL)
    if seal and written.strip() != _digest(described, folder):
        raise Damaged("its content does not match its digest")


def _digest(described: bytes, folder: Path) -> bytes:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in _OTHERS)
    lines = "".join(f"{digest(path)} {path.relative_to(folder).as_posix()}\n" for path in files)
    return hashlib.sha256(lines.encode() + described).hexdigest().encode()


def send_model(
    run_id: str, folder: Path, step: int, tags: Mapping[str, str], mark: tuple[str, str], *, look: bool
) -> None:
    """Logs the saved model into the run, as `mlflow.pytorch.log_model` does.

    The parts of that call are made here one by one, because the whole makes a second model when it is repeated. The
    model carries the tag `mark`; with `look`, an earlier attempt is searched by it and completed.
    """
    client = MlflowClient()
    run = client.get_run(run_id)
    model = _earlier(run.info.experiment_id, mark) if look else None
    if model is None:
        model = client.create_logged_model(
            run.info.experiment_id, MODEL, run_id, {**tags, mark[0]: mark[1]}, run.data.params
        )
    linked = run.outputs.model_outputs if run.outputs else []
    if model.model_id not in [output.model_id for output in linked]:
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step)])
    metrics = [metric for key in run.data.metrics for metric in client.get_metric_history(run_id, key)]
    of_model = [_of_model(metric, run_id, model) for metric in metrics if metric.step == step and not metric.model_id]
    client.log_batch(run_id, metrics=of_model)
    with tempfile.TemporaryDirectory() as copies:
        copied = shutil.copytree(folder, Path(copies, "model"))
        _name(copied, run_id, model)
        client.log_model_artifacts(model.model_id, str(copied))


def _earlier(experiment_id: str, mark: tuple[str, str]) -> LoggedModel | None:
    found = MlflowClient().search_logged_models([experiment_id], f"tags.`{mark[0]}` = '{mark[1]}'")
    return found[0] if found else None


def _of_model(metric: Metric, run_id: str, model: LoggedModel) -> Metric:
    place = {"run_id": run_id, "model_id": model.model_id}
    return Metric(metric.key, metric.value, metric.timestamp, metric.step, **place)


def _name(folder: Path, run_id: str, model: LoggedModel) -> None:
    """Writes into the description of the model to which run it belongs."""
    described = ModelFormat.load(str(folder))
    described.artifact_path, described.run_id = model.artifact_location, run_id
    described.model_uuid = described.model_id = model.model_id
    described.metadata = None
    described.save(str(folder / MLMODEL_FILE_NAME))
    _seal(folder)


def load_model(uri: str, folder: str) -> nn.Module:
    """The network at `uri` on the CPU, in evaluation mode; downloaded into `folder`.

    Raises:
        Damaged: a file is not as it was written. Models of version 0.2 or older have no digest.
    """
    place = Path(download_artifacts(uri, dst_path=folder))
    _check(place)
    names = {path.stem for path in (place / "code").glob("*")} - {_SUITE.name}
    try:
        with import_path_kept(), _imported_anew(names):
            loaded: nn.Module = mlflow.pytorch.load_model(str(place), map_location="cpu")
    except Exception as error:  # of a description without its last lines: of YAML, of a key that is not there
        raise Damaged(one_line(error)) from error
    return loaded


@contextmanager
def _imported_anew(names: Collection[str]) -> Iterator[None]:
    """Inside, modules of these names are those of the model, which may be of another version than those in use."""
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in names}
    try:
        yield
    finally:
        for name in [name for name in sys.modules if name.partition(".")[0] in names]:
            del sys.modules[name]
        sys.modules.update(kept)

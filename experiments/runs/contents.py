"""The files of a training's run: their names, the records that write them, and typed readers.

Every file that is read back has a digest of its content in it. Every reader raises TrackingError if the run does not
have the file, if the file is damaged, or if it has the form of another version.
"""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Int64

from cam_core import spec_of

from ..pictures.style import Pixels, drawn_or_explained
from ..settings.base import Settings, SettingsError, spelled
from ..settings.recipes import PLAIN, RECIPES, as_toml
from ..settings.train import TrainSettings
from ..system.files import Damaged
from ..tracking.locations import TrackingError
from ..tracking.reading import DamagedFile, FinishedRun, Unreachable
from ..tracking.records import Arrays, Param, Picture, Record, Table, Text
from ..training.machine import Machine
from ..training.predictions import Predictions, prediction_table, predictions_of

AUGMENTED = "augmented.png"
NEAR_CHANCE = "camparison.near_chance"  # a tag, with the sentence
LEFT_OUT = "left_out.txt"
MASKED = "masks.png"
CONFUSION = "confusion.png"
CURVES = "curves.png"
LAYERS = "gradcam/probes.png"
METHODS = "gradcam/methods.png"
PREDICTED_EXPLAINED = "gradcam/misclassified_predicted.png"

_CONFIG = "config.json"
_RECIPE = "recipe.toml"
_PREDICTIONS = "predictions.parquet"
_MAPS = "maps.npz"
_MAP_MEASURES = "cam_measures.parquet"
_FAITHFULNESS = "faithfulness.parquet"

_DIGEST = "sha256"  # in the content of each file that is read back

T = TypeVar("T")


def gallery(group: str) -> str:
    """The picture of the test images of a group, `correct` or `misclassified`."""
    return f"galleries/{group}.png"


def explained(group: str, *, alone: bool = False) -> str:
    """The picture of their maps: over the images, or `alone`."""
    return f"gradcam/{group}{'_heat' if alone else ''}.png"


@dataclass(frozen=True)
class UsedData:
    """The data set of a run: its classes, the side of its images in pixels, and the size of each split."""

    name: str
    digest: str
    source: str
    classes: tuple[str, ...]
    image_size: int
    sizes: Mapping[str, int]


@dataclass(frozen=True)
class RunConfig:
    """The settings of a run; the one place from which those of a finished run are read.

    Attributes:
        given: the options given by hand.
        settings: all options; `machine` has what `auto` became on the machine.
        layers: those that the run explained, from shallow to deep.
        methods: the CAM methods of the picture that compares several; empty for runs of version 0.1.
        augmentation: its steps in words; empty for runs of version 0.1.
        network: how it began, in words; empty for one of ours without weights.
    """

    name: str
    fingerprint: str
    given: Mapping[str, str]
    settings: TrainSettings
    machine: Machine
    processes: int
    layers: tuple[str, ...]
    dataset: UsedData
    software: Mapping[str, str]
    methods: tuple[str, ...] = ()
    augmentation: str = ""
    network: str = ""

    @property
    def method(self) -> str:
        """The CAM method of pictures and measures."""
        return spec_of(self.settings.cam_method).name

    @property
    def resolved(self) -> dict[str, str]:
        """Every setting with the value that was used, as text; MLflow has them as `resolved.NAME`."""
        used = {
            "dataset": self.dataset.name,
            "image_size": str(self.dataset.image_size),
            "augmentation": self.augmentation,
            "network": self.network,
            "augment_by": self.settings.augment_path,
            **{f"{name}_px": text for name, text in self.settings.in_pixels.items()},
            "layers": " ".join(self.layers),
            "cam_method": self.method,
            "cam_methods": " ".join(self.methods),
        }
        machine = {name: spelled(value) for name, value in asdict(self.machine).items()}
        return self.settings.as_params() | machine | {name: text for name, text in used.items() if text}


@dataclass(frozen=True)
class RunMaps:
    """The maps of a run, which explain the true class; a dead map is zero.

    Attributes:
        layers: from shallow to deep.
        maps: of the images that every run explains, in [0, 1] at the images' size.
        strength: the maximum of each of these maps before it was scaled to [0, 1].
        indices, labels: the place of these images in the test split, and their true classes.
        sample_indices: the test images that are measured.
        sample_maps: their maps at the last layer, at its own resolution and relative to their mean.
    """

    layers: tuple[str, ...]
    maps: Float32[np.ndarray, "layers n h w"]
    strength: Float32[np.ndarray, "layers n"]
    indices: Int64[np.ndarray, "n"]
    labels: Int64[np.ndarray, "n"]
    sample_indices: Int64[np.ndarray, "images"]
    sample_maps: Float[np.ndarray, "images rows columns"]


def picture(path: str, draw: Callable[[], Pixels]) -> Picture:
    """A picture of the run, or a picture of the error if it cannot be drawn."""
    return Picture(path, drawn_or_explained(path, draw))


def config_records(config: RunConfig) -> tuple[Text, Text]:
    """The settings of a run, and a recipe that decides the same."""
    plain = asdict(config) | {"settings": config.settings.model_dump()}
    plain["machine"]["processes"] = plain.pop("processes")
    recipe = as_toml(f"as in the run {config.name}", config.settings.recipe_values)
    return Text(_CONFIG, json.dumps(plain | {_DIGEST: _digest_of_json(plain)}, indent=2)), Text(_RECIPE, recipe)


def option_records(settings: Settings, names: Collection[str] = ()) -> Iterator[Record]:
    """The options of a comparison or a study, which has no network of its own: all of them, or those in `names`."""
    texts = {name: settings.shown(name, text) for name, text in settings.as_params().items()}
    given = {name: settings.shown(name, text) for name, text in settings.given.items()}
    chosen = {name: text for name, text in texts.items() if name in (names or texts)}
    yield from setting_params(chosen)
    yield Text(_CONFIG, json.dumps({"given": given, "settings": chosen}, indent=2))


def setting_params(texts: Mapping[str, str]) -> Iterator[Param]:
    """Each setting once, as `resolved.NAME`, because MLflow's launcher logs what was typed as `NAME`."""
    for name, text in texts.items():
        yield Param(f"resolved.{name}", text)


def predictions_record(predictions: Predictions, classes: tuple[str, ...]) -> Table:
    """The predictions for all test images."""
    return _table_record(_PREDICTIONS, prediction_table(predictions, classes))


def maps_record(maps: RunMaps) -> Arrays:
    """The maps; those of the sample in half precision."""
    arrays = {field.name: getattr(maps, field.name) for field in fields(maps)}
    arrays |= {"layers": np.array(maps.layers), "sample_maps": maps.sample_maps.astype(np.float16)}
    return Arrays(_MAPS, arrays | {_DIGEST: np.array(_digest_of_arrays(arrays))})


def map_measures_record(table: pd.DataFrame) -> Table:
    """The measures of each map of the sample: `measuring.Looks.table`."""
    return _table_record(_MAP_MEASURES, table)


def faithfulness_record(table: pd.DataFrame) -> Table:
    """The faithfulness of maps: `measuring.faithfulness`."""
    return _table_record(_FAITHFULNESS, table)


def _table_record(path: str, table: pd.DataFrame) -> Table:
    kept = table.copy(deep=False)
    kept.attrs = {_DIGEST: _digest_of_table(kept)}  # pandas stores them in the file
    return Table(path, kept)


def _digest_of_json(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _digest_of_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    sha = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        sha.update(f"{name} {array.dtype.str} {array.shape}".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()


def _digest_of_table(table: pd.DataFrame) -> str:
    sha = hashlib.sha256(repr([str(name) for name in table]).encode())
    sha.update(pd.util.hash_pandas_object(table, index=False).to_numpy().tobytes())
    return sha.hexdigest()


def config(run: FinishedRun) -> RunConfig:
    """The run's settings, read only once. Options that are newer than the run are off."""
    if _CONFIG not in run.memo:
        run.memo[_CONFIG] = _read(run, _CONFIG, lambda: _config_of(dict(run.read_json(_CONFIG))))
    found: RunConfig = run.memo[_CONFIG]
    return found


def _config_of(logged: dict[str, Any]) -> RunConfig:
    _check(logged.pop(_DIGEST, None), _digest_of_json, logged)
    machine, dataset = logged["machine"], logged["dataset"]
    return RunConfig(
        **{
            **logged,
            "settings": _settings_of(logged["settings"]),
            "machine": Machine(**{field.name: machine[field.name] for field in fields(Machine)}),
            "processes": machine["processes"],
            "layers": tuple(logged["layers"]),
            "dataset": UsedData(**{**dataset, "classes": tuple(dataset["classes"])}),
            "methods": tuple(logged.get("methods", ())),
        }
    )


def _settings_of(logged: Mapping[str, Any]) -> TrainSettings:
    """Every option is there, so the recipe is not needed: its file may be gone."""
    named = {TrainSettings.former.get(name, name): value for name, value in logged.items()}
    known = {name: value for name, value in named.items() if name in TrainSettings.model_fields}
    recipe = known.get("recipe", "fast")
    settings = TrainSettings.of(
        **{**PLAIN, "centre_crop": 1.0, **known, "recipe": recipe if recipe in RECIPES else "fast"}
    )
    return settings.model_copy(update={"recipe": recipe})


def predictions(run: FinishedRun, classes: tuple[str, ...]) -> Predictions:
    """The run's predictions for all test images."""
    return predictions_of(_table(run, _PREDICTIONS), classes)


def map_measures(run: FinishedRun) -> pd.DataFrame:
    """A row per layer and measured test image: `measuring.Looks.table`."""
    return _table(run, _MAP_MEASURES)


def faithfulness(run: FinishedRun) -> pd.DataFrame:
    """A row per image of the smaller sample: `measuring.faithfulness`."""
    return _table(run, _FAITHFULNESS)


def _table(run: FinishedRun, path: str) -> pd.DataFrame:
    def whole() -> pd.DataFrame:
        table = run.read_table(path)
        _check(table.attrs.pop(_DIGEST, None), _digest_of_table, table)
        return table

    if path not in run.memo:
        run.memo[path] = _read(run, path, whole)
    return run.memo[path].copy()  # several parts of a comparison need it


def maps(run: FinishedRun) -> RunMaps:
    """The run's maps."""
    return _read(run, _MAPS, lambda: _maps_of(run.read_arrays(_MAPS)))


def damage(run: FinishedRun, classes: tuple[str, ...]) -> str:
    """What is wrong with the files of the run that a comparison reads, in one line; "" if all can be read.

    Raises:
        Unreachable: the store does not give the files now.
    """
    readers: list[Callable[[], object]] = [
        lambda: config(run),
        lambda: predictions(run, classes),
        lambda: map_measures(run),
        lambda: maps(run),
    ]
    if "faith/deletion_margin" in run.metrics:
        readers.append(lambda: faithfulness(run))
    try:
        for read in readers:
            read()
    except Unreachable:
        raise
    except (TrackingError, KeyError, ValueError) as error:
        return " ".join(str(error).split())
    return ""


def _maps_of(arrays: dict[str, np.ndarray]) -> RunMaps:
    _check(arrays.pop(_DIGEST, None), _digest_of_arrays, arrays)
    found: dict[str, Any] = {field.name: arrays[field.name] for field in fields(RunMaps)}
    layers = tuple(map(str, arrays["layers"]))
    return RunMaps(**{**found, "layers": layers, "sample_maps": arrays["sample_maps"].astype(np.float32)})


def _check(digest: object, digest_of: Callable[[T], str], content: T) -> None:
    """Checks the content of a file against the digest in it; a run of version 0.2 or older has none.

    Raises:
        Damaged: the content is not what was logged.
    """
    if digest is not None and str(digest) != digest_of(content):
        raise Damaged("its content does not match its digest")


def _read(run: FinishedRun, path: str, read: Callable[[], T]) -> T:
    try:
        return read()
    except Unreachable:
        raise
    except DamagedFile as error:
        raise _damaged(run, path, error) from error
    except (TrackingError, SettingsError, KeyError, TypeError, AttributeError) as error:
        why = f"{path}: {' '.join(str(error).split())}"
        raise TrackingError(
            f"run {run.id[:8]} ({run.name}) was not logged as this version does it ({why}): train it again"
        ) from error
    except Exception as error:  # readers of damaged files raise many kinds
        raise _damaged(run, path, error) from error


def _damaged(run: FinishedRun, path: str, error: Exception) -> DamagedFile:
    why = " ".join(str(error).split())
    return DamagedFile(
        f"run {run.id[:8]} ({run.name}): its file {path} is damaged ({why}): train it again, or leave it out"
    )

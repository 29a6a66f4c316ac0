"""What a run records of its settings and data."""

import json
import platform
from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict

import numpy as np
import torch

from ..explaining.probes import in_turn
from ..pictures import sheets
from ..settings.base import Settings
from ..settings.recipes import as_toml
from ..tracking.records import DatasetUse, Param, Picture, Record, Text
from ..training import distributed
from .prepare import Prepared


def iter_settings(prepared: Prepared) -> Iterator[Record]:
    """What was given, what it became, and the data."""
    settings, dataset = prepared.settings, prepared.dataset
    resolved = settings.as_params() | {key: str(value).lower() for key, value in asdict(prepared.machine).items()}
    resolved |= {"dataset": dataset.name, "image_size": str(settings.side), "augmentation": str(prepared.augmentation)}
    resolved["augment"] = settings.augment_path
    resolved["layers"] = " ".join(prepared.explaining.layers)
    resolved["cam_method"] = prepared.explaining.method
    resolved["cam_methods"] = " ".join(prepared.explaining.methods)
    yield from _settings(resolved)
    sizes = {name: len(split) for name, split in dataset.splits.items()}
    yield DatasetUse(dataset.name, dataset.digest, dataset.source, sizes)
    yield Text("config.json", json.dumps(_config(prepared, sizes), indent=2))
    yield Text("recipe.toml", as_toml(f"as in the run {prepared.name}", settings.recipe_values))
    train = dataset.splits["train"]
    chosen = in_turn(train.labels, np.ones(len(train), bool), 16)
    examples = prepared.augmentation.examples(train.images[chosen])
    yield Picture("augmented.png", sheets.augmented(examples))


def option_records(settings: Settings, names: Collection[str] = ()) -> Iterator[Record]:
    """What was given to a comparison or a study and what it became, of all options or of those in `names`."""
    texts = {name: settings.shown(name, text) for name, text in settings.as_params().items()}
    given = {name: settings.shown(name, text) for name, text in settings.given.items()}
    chosen = {name: text for name, text in texts.items() if name in (names or texts)}
    yield from _settings(chosen)
    yield Text("config.json", json.dumps({"given": given, "settings": chosen}, indent=2))


def _settings(texts: Mapping[str, str]) -> Iterator[Param]:
    """Each setting once; under a name of its own, because MLflow's launcher logs what was typed under the plain one."""
    for name, text in texts.items():
        yield Param(f"resolved.{name}", text)


def _config(prepared: Prepared, sizes: Mapping[str, int]) -> dict[str, object]:
    dataset = prepared.dataset
    return {
        "name": prepared.name,
        "fingerprint": prepared.fingerprint,
        "given": dict(prepared.settings.given),
        "settings": prepared.settings.model_dump(),
        "machine": asdict(prepared.machine) | {"processes": distributed.size()},
        "layers": list(prepared.explaining.layers),
        "dataset": {"name": dataset.name, "digest": dataset.digest, "source": dataset.source}
        | {"classes": list(dataset.classes), "image_size": prepared.settings.side, "sizes": dict(sizes)},
        "software": {"python": platform.python_version(), "torch": torch.__version__},
    }

"""What a run records before the work begins: settings, data, augmented training images."""

import platform
from collections.abc import Collection, Iterator, Mapping
from importlib.metadata import version

import numpy as np
import torch

from ..explaining.probes import in_turn
from ..models.foreign import network_of
from ..pictures import sheets
from ..settings.base import Settings
from ..tracking.records import DatasetUse, Param, Record, Text
from ..training import distributed
from .contents import AUGMENTED, RunConfig, UsedData, config_records, options_record, picture
from .prepare import Prepared


def iter_settings(prepared: Prepared) -> Iterator[Record]:
    """The settings of a training, its data, and examples of augmented images."""
    config, dataset = run_config(prepared), prepared.dataset
    yield from _settings(config.resolved)
    yield DatasetUse(dataset.name, dataset.digest, dataset.source, config.dataset.sizes)
    yield from config_records(config)
    for path, text in network_of(prepared.settings).sources.items():
        yield Text(f"network/{path}", text)
    train = dataset.splits["train"]
    chosen = in_turn(train.labels, np.ones(len(train), bool), 16)
    yield picture(AUGMENTED, lambda: sheets.augmented(prepared.augmentation.examples(train.images[chosen])))


def run_config(prepared: Prepared) -> RunConfig:
    """The settings as the run records them."""
    dataset, sizes = prepared.dataset, {name: len(split) for name, split in prepared.dataset.splits.items()}
    return RunConfig(
        name=prepared.name,
        fingerprint=prepared.fingerprint,
        given=prepared.settings.given,
        settings=prepared.settings,
        machine=prepared.machine,
        processes=distributed.size(),
        layers=prepared.explaining.layers,
        dataset=UsedData(
            dataset.name, dataset.digest, dataset.source, tuple(dataset.classes), prepared.settings.side, sizes
        ),
        software={"python": platform.python_version(), "torch": torch.__version__}
        | {name: version(name) for name in network_of(prepared.settings).libraries},
        methods=prepared.explaining.methods,
        augmentation=str(prepared.augmentation),
        network=prepared.network,
    )


def option_records(settings: Settings, names: Collection[str] = ()) -> Iterator[Record]:
    """The options of a comparison or a study: all of them, or those in `names`."""
    texts = {name: settings.shown(name, text) for name, text in settings.as_params().items()}
    given = {name: settings.shown(name, text) for name, text in settings.given.items()}
    chosen = {name: text for name, text in texts.items() if name in (names or texts)}
    yield from _settings(chosen)
    yield options_record(given, chosen)


def _settings(texts: Mapping[str, str]) -> Iterator[Param]:
    """Each setting once, as `resolved.NAME`, because MLflow's launcher logs what was typed as `NAME`."""
    for name, text in texts.items():
        yield Param(f"resolved.{name}", text)

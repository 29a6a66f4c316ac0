"""The fingerprint of a training: equal for trainings with the same result."""

import hashlib
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import MappingProxyType

import cam_core

from ..data.dataset import Dataset
from ..models.foreign import network_of
from ..settings.train import OF_MACHINE, TrainSettings
from ..training.machine import Machine

# The code that decides a result: whole rooms, and the module that reads the notation of settings. Other code makes
# another run.
_ROOMS = ("data", "models", "augmentation", "training", "explaining")
_NOTATION = Path("settings", "notation.py")
_WORDS = Path("explaining", "map_measures.py")  # headings of what `measuring` computes: no part of the result

# Options of the machine, and those for which the data set's digest or another part of the fingerprint stands.
_NOT_IDENTITY = {
    *("recipe", "dataset", "data_dir", "background_bias", "image_size", "train_images", "holdout", "on_bad"),
    *("interpolation", "centre_crop", "model", "weights", "precision", "augment_by", "augmentation"),
    *OF_MACHINE,
}


def fingerprint(
    settings: TrainSettings, dataset: Dataset, machine: Machine, sources: Mapping[str, str] = MappingProxyType({})
) -> str:
    """20 hex digits that are equal if settings, data, number format, code and libraries give the same result.

    The same up to rounding: threads, compilation and options without effect are left out. `sources` are files of one's
    own that decide the result, as text by name.
    """
    left_out = settings.idle().keys() | _NOT_IDENTITY
    texts = settings.as_params() | settings.in_pixels
    options = {name: value for name, value in texts.items() if name not in left_out}
    code = hashlib.sha256(b"".join(source.read_bytes() for source in deciding_sources())).hexdigest()
    network = network_of(settings)
    packages = {"torch", "torchvision", "albumentations", "opencv-python-headless", *network.libraries}
    libraries = [version(name) for name in sorted(packages)]
    # In another memory layout the state of an optimizer means another thing.
    computed = [machine.device, machine.precision, machine.channels_last, settings.augment_path]
    own = [settings.augmentation.rpartition(":")[2] if sources else "", *sorted(sources.items())]
    identity = [options, network.identity, dataset.digest, *computed, code, libraries, own]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:20]


def deciding_sources() -> list[Path]:
    """The files whose text is part of each fingerprint, always in the same order."""
    suite, engine = Path(__file__).parents[1], Path(cam_core.__file__).parent
    rooms = [path for room in _ROOMS for path in sorted((suite / room).rglob("*.py")) if path != suite / _WORDS]
    return [*rooms, suite / _NOTATION, *sorted(engine.glob("*.py"))]

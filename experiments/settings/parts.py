"""All parts that an option can name, and where their code is. To add a part, add a file and one line here.

The code of a part is imported only when the part is used, so `--help` needs neither torch nor OpenCV.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import MappingProxyType
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from ..errors import did_you_mean

Parts = Mapping[str, str]
"""Name of a part -> `module:attribute`, relative to the package of this suite."""

NETWORKS: Parts = MappingProxyType(
    {
        "fastnet": "models.fastnet:FastNet",
        "fastnet_wide": "models.fastnet:FastNetWide",
        "resnet18": "models.resnet18:ResNet18",
    }
)
"""`(classes, mean, std, dropout=0.0) -> nn.Module`; `models/__init__.py` lists what else a network has."""

NETWORK_DOORS = ("torchvision:NAME", "timm:NAME", "FILE.py:function", "module:function")
"""Networks of others, by `models.foreign`; a function of one's own is `(classes) -> nn.Module`."""

DATA_SETS: Parts = MappingProxyType(
    {
        "cifar10": "data.cifar10:load_cifar10",
        "cifar10_c": "data.cifar10:load_cifar10_c",
        "scenes": "data.scenes:load_scenes",
        "folder": "data.folder:load_folder",
        "csv": "data.csv_file:load_csv",
        "torchvision": "data.of_torchvision:load_torchvision",
        "function": "data.own:load_own",
    }
)
"""`(request: data.dataset.Request) -> Dataset`."""

DATA_DOORS: Parts = MappingProxyType(
    {"folder": "folder:PATH", "csv": "csv:FILE", "torchvision": "torchvision:NAME", "function": "FILE.py:function"}
)
"""The data sets that are named with a place, and how."""


def data_set(text: str) -> tuple[str, str]:
    """The part of `DATA_SETS` that a value of `dataset` names, and the place; of `FILE.py:function` the whole text."""
    kind, _, place = text.partition(":")
    return ("function", text) if re.fullmatch(r".+\.py:[^:\s]+", text) else (kind, place)


_OF_TORCH = (
    *("sgd", "adamw", "adam", "adadelta", "adafactor", "adagrad"),
    *("adamax", "asgd", "nadam", "radam", "rmsprop", "rprop"),
)
OPTIMISERS: Parts = MappingProxyType(
    dict.fromkeys(_OF_TORCH, "training.optimisers:of_torch") | {"muon": "training.optimisers:muon"}
)
"""`(model, trained parameters, settings) -> Optimizers`. Of torch.optim all that need only dense gradients."""

WITH = MappingProxyType(
    {
        "momentum": ("sgd", "muon", "rmsprop"),
        "nesterov": ("sgd", "muon"),
        "weight_decay": tuple(name for name in OPTIMISERS if name != "rprop"),
    }
)
"""The optimisers with each of these options."""

SCHEDULES: Parts = MappingProxyType(
    {
        "constant": "training.schedule:constant",
        "step": "training.schedule:step",
        "onecycle": "training.schedule:onecycle",
        "cosine": "training.schedule:cosine",
        "linear": "training.schedule:linear",
    }
)
"""`(settings, finished epochs) -> share of the peak learning rate`."""


ENTRY_POINTS: Parts = MappingProxyType(
    {
        "train": "settings.train:TrainSettings",
        "compare": "settings.compare:CompareSettings",
        "tune": "study.settings:TuneSettings",
    }
)
"""The options of each entry point."""


def load_part(table: Parts, name: str) -> Any:
    """The code of the part `name`."""
    module, attribute = table[name].split(":")
    return getattr(import_module(f"{__package__.rpartition('.')[0]}.{module}"), attribute)


@dataclass(frozen=True)
class OneOf:
    """Marks an option whose value is the name of a part or one of a few words; with `doors`, also `where:what`."""

    names: tuple[str, ...]
    doors: tuple[str, ...] = ()

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.checked, handler(source))

    def checked(self, text: str) -> str:
        """Checks that `text` is one of the names, and returns it.

        Raises:
            ValueError: it is not; the message lists the names and suggests a similar one.
        """
        if text not in self.names and not (self.doors and is_foreign(text)):
            raise ValueError(f"must be one of {', '.join(self.names + self.doors)}{did_you_mean(text, self.names)}")
        return text


def is_foreign(text: str) -> bool:
    """Whether the text has the form of a part of others, `where:what`."""
    return re.fullmatch(r"\S.*:[^\s:]+", text) is not None

"""Which layers a run explains, and with which methods of `cam_core`."""

from dataclasses import dataclass

import torch

from cam_core import METHODS, capture, predicted, spec_of

from ..settings.base import AUTO, SettingsError
from ..settings.parts import NETWORKS, load_part
from ..settings.train import TrainSettings


@dataclass(frozen=True)
class Explaining:
    """Layers from shallow to deep, the method of pictures and measures, and the methods that one picture compares."""

    layers: tuple[str, ...]
    method: str
    methods: tuple[str, ...]

    @property
    def all_methods(self) -> tuple[str, ...]:
        """All methods, each once."""
        return tuple(dict.fromkeys((self.method, *self.methods)))


def resolve_explaining(settings: TrainSettings) -> Explaining:
    """Resolves `cam_method`, `cam_methods` and `cam_layers`, and tries the layers on one image.

    Raises:
        SettingsError: a method or layer is unknown, or a layer has no map as its output; names the nearest one.
    """
    problems: list[str] = []
    method = _method("cam_method", settings.cam_method, problems)
    chosen = METHODS if settings.cam_methods == AUTO else _parts(settings.cam_methods)
    methods = tuple(dict.fromkeys(_method("cam_methods", name, problems) for name in chosen))
    layers = _layers(settings, problems)
    if problems:
        raise SettingsError(list(dict.fromkeys(problems)))
    return Explaining(layers, method, methods)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _method(option: str, name: str, problems: list[str]) -> str:
    try:
        return spec_of(name).name
    except ValueError as error:
        problems.append(f"{option}={name}: {error}")
        return name


def _layers(settings: TrainSettings, problems: list[str]) -> tuple[str, ...]:
    network = load_part(NETWORKS, settings.model)
    if settings.cam_layers == AUTO:
        return network.cam_layers
    layers = list(dict.fromkeys(_parts(settings.cam_layers)))
    with torch.random.fork_rng([]):
        model = network(2, [0.0] * 3, [1.0] * 3, 0.0)
    try:
        capture(model, torch.zeros(1, 3, settings.side, settings.side), layers, predicted)
    except ValueError as error:
        problems.append(f"cam_layers={settings.cam_layers}: {error}")
        return ()
    # However they were named: the last one is the deepest.
    return tuple(name for name, _ in model.named_modules() if name in layers)

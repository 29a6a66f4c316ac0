"""Which layers a run explains, and with which methods of `cam_core`."""

from dataclasses import dataclass

from cam_core import METHODS, spec_of

from ..errors import CannotStart
from ..settings.base import AUTO, SettingsError
from ..settings.train import TrainSettings
from .trial import tried


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


def resolve_explaining(settings: TrainSettings, classes: int = 2) -> Explaining:
    """Resolves `cam_method`, `cam_methods` and `cam_layers`, and tries the network if it is not one of ours.

    Raises:
        SettingsError: a method or layer is unknown, or a layer has no map as its output; names the nearest one. Or the
            network cannot be trained on these images and classes.
    """
    problems: list[str] = []
    method = _method("cam_method", settings.cam_method, problems)
    chosen = METHODS if settings.cam_methods == AUTO else _parts(settings.cam_methods)
    methods = tuple(dict.fromkeys(_method("cam_methods", name, problems) for name in chosen))
    try:
        layers, _ = tried(settings, classes)
    except CannotStart as error:
        problems += error.problems
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

"""Tries a network on two images before it is trained: does it take them, give logits, and have layers with maps?"""

import os
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn

from cam_core import auto_layers, capture, layer_grids, predicted
from cam_core.models import layer_names

from ..models.foreign import build, network_of
from ..models.own import told
from ..models.weights import NetworkError
from ..settings.base import AUTO, NONE
from ..settings.parts import NETWORKS, load_part
from ..settings.train import TrainSettings
from ..training.steps import smaller_side

_SIDES = (32, 48, 64, 96, 128, 160, 192, 224, 256)
_DECIDING = ("model", "weights", "small_stem", "sides", "cam_layers")


@dataclass(frozen=True)
class Tried:
    """The layers to explain, from shallow to deep, and in words what of the network was replaced."""

    layers: tuple[str, ...]
    replaced: str = ""


def tried(settings: TrainSettings, classes: int) -> Tried:
    """The result of trying the network of the settings, which is kept for other trainings of it.

    Raises:
        NetworkError: it cannot be built, takes no such images, gives no logits for these classes, or has no such layer.
    """
    if settings.model in NETWORKS and (settings.weights, settings.cam_layers) == (NONE, AUTO):
        return Tried(load_part(NETWORKS, settings.model).cam_layers)
    options = {name: getattr(settings, name) for name in _DECIDING} | {"image_size": settings.side}
    return _tried(tuple(options.items()), classes, os.getcwd())


@lru_cache(maxsize=64)
def _tried(options: tuple[tuple[str, object], ...], classes: int, folder: str) -> Tried:
    settings = TrainSettings.of(**dict(options))
    with torch.random.fork_rng([]):
        network, replaced = _built(settings, classes)
        _check_sides(network, settings, classes)
        return Tried(_layers(network, settings), replaced)


def _built(settings: TrainSettings, classes: int) -> tuple[nn.Module, str]:
    torch.manual_seed(0)
    network, replaced = build(settings, classes, [0.5] * 3, [0.25] * 3)
    return network.eval(), replaced


def _check_sides(network: nn.Module, settings: TrainSettings, classes: int) -> None:
    """Checks that it takes every size of images that the training has, in evaluation and in training."""
    files = network_of(settings).files
    if why := _refusal(network, settings.model, settings.side, classes, files):
        others = (side for side in _SIDES if not _refusal(network, settings.model, side, classes, files))
        other = next((side for side in others if side > settings.side), None)
        cure = f"; it takes {other} pixels: give image_size={other}" if other else ""
        raise NetworkError(f"model={settings.model}: does not take images of {settings.side} pixels: {why}{cure}")
    for side in {smaller_side(share, settings.side) for share in settings.side_shares}:
        if why := _refusal(network, settings.model, side, classes, files):
            problem = f"sides={settings.sides}: {settings.model} does not take images of {side} pixels: {why}"
            raise NetworkError(f"{problem}; add sides=none")


def _refusal(network: nn.Module, model: str, side: int, classes: int, files: Collection[str]) -> str:
    """Why it does not take images of this size; empty if it does.

    Raises:
        NetworkError: it gives no logits for these classes.
    """
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    try:
        for training in (True, False):
            with torch.no_grad():
                logits = network.train(training)(images)
            if logits.shape != (2, classes):
                problem = f"model={model}: gives logits {tuple(logits.shape)} for 2 images of {classes} classes"
                raise NetworkError(f"{problem}; they must be (2, {classes})")
    except NetworkError:
        raise
    except Exception as error:  # of any network
        return told(error, files)
    return ""


def _layers(network: nn.Module, settings: TrainSettings) -> tuple[str, ...]:
    images = torch.rand(1, 3, settings.side, settings.side)
    try:
        if settings.cam_layers == AUTO:
            own: tuple[str, ...] | None = getattr(network, "cam_layers", None)
            return own or auto_layers(network, images)
        chosen = layer_names(network, list(dict.fromkeys(part.strip() for part in settings.cam_layers.split(","))))
        capture(network, images, chosen, predicted)
        if again := [name for name in chosen if "#" in name]:
            raise ValueError(f"layer {again[0]!r} runs more than once; choose a layer that runs once")
    except ValueError as error:
        if settings.cam_layers != AUTO:
            raise NetworkError(f"cam_layers={settings.cam_layers}: {error}") from error
        why = f"has no layer with a map of images of {settings.side} pixels"
        cure = "take a network with convolutions or tokens, give a larger image_size, or name layers with cam_layers"
        raise NetworkError(f"model={settings.model}: {why}; {cure}") from error
    # However they were named: the last one is the deepest.
    return tuple(name for name, _ in network.named_modules() if name in chosen)


def listed(settings: TrainSettings) -> str:
    """The layers that `cam_layers` can name, one a line, with the grids of their maps.

    Raises:
        NetworkError: as `tried`.
    """
    chosen = settings.with_values(cam_layers=AUTO)
    default = tried(chosen, 2).layers
    network, _ = _built(chosen, 2)
    grids = layer_grids(network, torch.rand(2, 3, settings.side, settings.side))
    head = f"layers of {settings.model} for images of {settings.side} pixels; those with * are explained by default"
    width = max(map(len, grids))
    rows = (
        f"{'*' if name in default else ' '} {name:<{width}}  {' x '.join(map(str, g))}" for name, g in grids.items()
    )
    return "\n".join([head, *rows])

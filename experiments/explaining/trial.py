"""Tries a network on two images before it is trained: does it take them, give logits, and have layers with maps?"""

import os
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from cam_core import auto_layers, capture, layer_grids, predicted
from cam_core.models import layer_names

from ..errors import memory_problem
from ..models.foreign import build, network_of
from ..models.weights import NetworkError
from ..settings.base import AUTO
from ..settings.parts import NETWORKS, load_part
from ..settings.recipes import find, side_of
from ..settings.train import TrainSettings
from ..system.own_code import told
from ..system.stored_networks import check_picklable
from ..training.frozen import UNTIL, freeze
from ..training.machine import resolve_machine
from ..training.steps import smaller_side

_SIDES = (32, 48, 64, 96, 128, 160, 192, 224, 256, 299, 320, 384, 448, 512)
_ANY = ([0.5] * 3, [0.25] * 3)  # statistics of images
STEP_BYTES = 512 << 20
"""What autograd may keep in a step whose batch `auto` chooses. The recipe `fast` keeps 545 MiB at 32 pixels."""
FEWEST = 4  # with fewer images, batch normalisation sees too little
_DECIDING = ("model", "weights", "small_stem", "sides", "cam_layers", "freeze", "precision", "device")


def tried(settings: TrainSettings, classes: int) -> tuple[tuple[str, ...], str]:
    """The layers to explain, from shallow to deep, and in words what of the network was replaced.

    The result is kept for other trainings of the same network.

    Raises:
        CannotStart: it cannot be built, takes no such images, gives no logits for these classes, or has no such layer.
    """
    if network_of(settings).is_plain and settings.cam_layers == AUTO and not settings.freeze.startswith(UNTIL):
        return load_part(NETWORKS, settings.model).cam_layers, ""
    options = {name: getattr(settings, name) for name in _DECIDING} | {"image_size": settings.side}
    return _tried(tuple(options.items()), classes, os.getcwd())


@lru_cache(maxsize=64)
def _tried(options: tuple[tuple[str, object], ...], classes: int, folder: str) -> tuple[tuple[str, ...], str]:
    settings = TrainSettings.of(**dict(options))
    with torch.random.fork_rng([]):
        network, replaced = build(settings, classes, *_ANY)
        smaller = sorted({smaller_side(share, settings.side) for share in settings.side_shares})
        for side in [settings.side, *smaller]:
            if why := _refusal(network, settings, side, classes):
                fits = [s for s in _SIDES if s > side and not _refusal(network, settings, s, classes)]
                larger = f"give image_size={fits[0]}" if fits else "give another image_size"
                cure = larger if side == settings.side else "add sides=none"
                raise NetworkError(f"model={settings.model}: does not take images of {side} pixels: {why}; {cure}")
        _check_training(network, settings)
        layers = _layers(network, settings)
        freeze(network, settings.freeze)  # last, because the layers are found by their gradients
        return layers, replaced


def batch_that_fits(settings: TrainSettings) -> int:
    """The batch of the recipe, or a smaller power of two if larger images would need more than `STEP_BYTES`.

    It depends on the network and the size of the images, never on the machine, because it changes the result. A batch
    that was given by hand stays.

    Raises:
        NetworkError: the network does not take such images.
    """
    if "batch_size" in settings.given or settings.side <= side_of(find(settings.recipe).values):
        return settings.batch_size
    options = {name: getattr(settings, name) for name in _DECIDING} | {"image_size": settings.side}
    fitting = STEP_BYTES // _kept_bytes(tuple(options.items()), os.getcwd())
    return min(settings.batch_size, max(FEWEST, 1 << fitting.bit_length() >> 1))


@lru_cache(maxsize=64)
def _kept_bytes(options: tuple[tuple[str, object], ...], folder: str) -> int:
    """The bytes that autograd keeps for each image of a step, in float32."""
    settings, kept = TrainSettings.of(**dict(options)), dict[int, int]()
    with torch.random.fork_rng([]):
        network, _ = build(settings, 2, *_ANY)
        weights = {weight.data_ptr() for weight in network.parameters()}

        def keep(tensor: Tensor) -> Tensor:
            if tensor.data_ptr() not in weights:
                kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        try:
            with saved_tensors_hooks(keep, lambda tensor: tensor):
                logits = network.train()(_images(settings.side))  # they are kept as long as these logits
        except Exception:  # `tried` tells what is wrong with it
            return 1
        del logits
    return max(1, sum(kept.values()) // 2)


def _images(side: int) -> Tensor:
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def _refusal(network: nn.Module, settings: TrainSettings, side: int, classes: int) -> str:
    """Why it does not take images of this size, in training or in evaluation; empty if it does.

    Raises:
        NetworkError: it gives no logits for these classes.
    """
    try:
        with torch.no_grad():
            found = [network.train(training)(_images(side)).shape for training in (True, False)]
    except (Exception, SystemExit) as error:  # of any network
        if memory_problem(error):
            raise
        return told(error)
    if set(found) != {(2, classes)}:
        problem = f"model={settings.model}: gives logits {tuple(found[-1])} for 2 images of {classes} classes"
        raise NetworkError(f"{problem}; they must be (2, {classes})")
    return ""


def _check_training(network: nn.Module, settings: TrainSettings) -> None:
    """Checks that the network learns from its logits, in the number format of the training, and can be stored.

    Raises:
        NetworkError: it cannot be trained or stored.
    """
    machine = resolve_machine(settings)
    try:
        with machine.autocast():
            logits = network.train()(_images(settings.side)).float()
        if not logits.requires_grad:
            raise NetworkError(f"model={settings.model}: its logits have no gradient, so nothing can be trained")
        if not logits.isfinite().all():
            why = f"gives logits that are not finite numbers with precision={machine.precision}"
            raise NetworkError(f"model={settings.model}: {why}; look at its weights ({settings.weights})")
        logits.sum().backward()
        network.zero_grad()
        with torch.no_grad():
            network.eval()(_images(settings.side))  # what the network may keep of it has no graph, as after a training
        check_picklable(network)
    except NetworkError:
        raise
    except (Exception, SystemExit) as error:  # of any network
        why = f"cannot be trained with precision={machine.precision} and stored: {told(error)}"
        raise NetworkError(f"model={settings.model}: {why}") from error


def _layers(network: nn.Module, settings: TrainSettings) -> tuple[str, ...]:
    images, by_option = _images(settings.side), settings.cam_layers != AUTO
    given = settings.cam_layers if by_option else getattr(network, "cam_layers", None)
    try:
        if not given:
            return auto_layers(network, images)
        named = given.split(",") if isinstance(given, str) else given
        chosen = layer_names(network, list(dict.fromkeys(part.strip() for part in named)))
        capture(network, images[:1], chosen, predicted)
    except (ValueError, TypeError, AttributeError) as error:
        if given:
            start = (
                f"cam_layers={given}" if by_option else f"model={settings.model}: its attribute cam_layers={given!r}"
            )
            why = str(error).replace(
                "choose another layer, or give reshape", "cam_layers=list shows those that have one"
            )
            raise NetworkError(f"{start}: {why}") from error
        detail = "" if "no layer of the model" in str(error) else f" ({error})"
        why = f"has no layer with a map of images of {settings.side} pixels{detail}"
        cure = "take a network with convolutions or tokens, give a larger image_size, or name layers with cam_layers"
        raise NetworkError(f"model={settings.model}: {why}; {cure}") from error
    # However they were named: the last one is the deepest.
    order = [name for name, _ in network.named_modules()]
    return tuple(sorted(chosen, key=lambda name: order.index(name.partition("#")[0])))


def listed(settings: TrainSettings) -> str:
    """The layers that `cam_layers` can name, one a line, with the grids of their maps.

    Raises:
        CannotStart: as `tried`.
    """
    settings = settings.with_values(cam_layers=AUTO)
    default, _ = tried(settings, 2)
    grids = layer_grids(build(settings, 2, *_ANY)[0], _images(settings.side))
    head = f"layers of {settings.model} for images of {settings.side} pixels; those with * are explained by default"
    width = max(map(len, grids))
    rows = (
        f"{'*' if name in default else ' '} {name:<{width}}  {' x '.join(map(str, g))}" for name, g in grids.items()
    )
    return "\n".join([head, *rows])

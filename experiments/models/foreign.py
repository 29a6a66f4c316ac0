"""Networks by name: of this suite, of torchvision or timm, or built by a function of one's own; and their weights."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from ..errors import did_you_mean
from ..settings.base import NONE
from ..settings.notation import channel_numbers
from ..settings.parts import NETWORKS, load_part
from ..settings.train import TrainSettings
from ..system.files import user_path
from .layers import has_door, open_door
from .own import own, told
from .weights import ENDINGS, NetworkError, Weights, fill, read_weights, replaced

_LISTED = 8


@dataclass(frozen=True)
class Images:
    """The images that weights were made for: means and deviations of the channels in [0, 1], side in pixels."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    side: int
    interpolation: str


@dataclass(frozen=True)
class Network:
    """A network that was found, with its weights and sources, but not yet built.

    Attributes:
        make: builds it for a number of classes, and says what was replaced.
        weights: their name in full, such as IMAGENET1K_V2, the path of a file, or none.
        images: those that the weights were made for, if that is known.
        read: the weights of a file.
        libraries: the packages from which it comes.
        sources: the text of one's own files, by path.
    """

    name: str
    make: Callable[[int], tuple[nn.Module, str]] | None = None
    weights: str = NONE
    images: Images | None = None
    read: Weights | None = None
    libraries: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)
    files: Collection[str] = ()

    @property
    def identity(self) -> list[object]:
        """What decides the network before its training, beside the versions of its libraries."""
        name = self.name.rpartition(":")[2] if self.sources else self.name
        return [name, self.read.digest if self.read else self.weights, dict(self.sources)]


def network_of(settings: TrainSettings) -> Network:
    """The network of the settings, found.

    Raises:
        NetworkError: there is no such network, or its weights cannot be had.
    """
    return _found(settings.model, settings.weights, settings.small_stem, os.getcwd())


@lru_cache(maxsize=16)
def _found(model: str, weights: str, small_stem: bool, folder: str) -> Network:
    library, _, name = model.partition(":")
    read = read_weights(user_path(weights)) if weights.endswith(ENDINGS) else None
    if library in _LIBRARIES:
        return _LIBRARIES[library](name, weights, read, small_stem)
    if read is None and weights != NONE:
        raise NetworkError(f"weights={weights}: {model} has no weights of that name; give none, or {_FILE}")
    images = _images_in(read)
    if model in NETWORKS:
        return Network(model, None, weights, images, read)
    found = own("model", model)

    def make(classes: int) -> tuple[nn.Module, str]:
        made = found.function(classes)
        if not isinstance(made, nn.Module):
            what = f"gives {type(made).__name__}, not a torch.nn.Module"
            raise NetworkError(f"model={model}: {what}; it must take the number of classes and return the network")
        return made, ""

    return Network(model, make, weights, images, read, (), found.sources, found.files)


_FILE = "a FILE.safetensors or FILE.pt"


def _images_in(read: Weights | None) -> Images | None:
    """What a file of this suite says of the images of its network."""
    if read is None or "image_size" not in read.declared:
        return None
    said = read.declared
    return Images(tuple(said["mean"]), tuple(said["std"]), said["image_size"], said["interpolation"])


def build(settings: TrainSettings, classes: int, mean: Sequence[float], std: Sequence[float]) -> tuple[nn.Module, str]:
    """The network with its weights, and in words what was replaced; `mean` and `std` are those of the training images.

    It takes images `(n, 3, h, w)` in [0, 1] and gives logits `(n, classes)`.

    Raises:
        NetworkError: it cannot be built, or the weights do not fit.
    """
    found = network_of(settings)
    mean, std = normalisation(settings, mean, std)
    replaced_head = ""
    if found.make is None:
        network: nn.Module = load_part(NETWORKS, found.name)(classes, mean, std, settings.dropout)
    else:
        network, replaced_head = _made(found, classes)
        if has_door(network):
            raise NetworkError(f"model={found.name}: gives the same network again; it must build a new one each time")
        if any(isinstance(parameter, UninitializedParameter) for parameter in network.parameters()):
            raise NetworkError(f"model={found.name}: has lazy layers; let your function run it once on images")
        open_door(network, mean, std)
    if found.read is not None:
        replaced_head = fill(network, found.read.tensors, classes, found.weights)
    return network, replaced_head


def _made(found: Network, classes: int) -> tuple[nn.Module, str]:
    assert found.make is not None
    try:
        return found.make(classes)
    except NetworkError:
        raise
    except (Exception, SystemExit) as error:
        why = told(error, found.files)
        raise NetworkError(f"model={found.name}: cannot be built for {classes} classes: {why}") from error


def normalisation(
    settings: TrainSettings, mean: Sequence[float], std: Sequence[float]
) -> tuple[Sequence[float], Sequence[float]]:
    """The means and deviations by which images are normalised; `mean` and `std` are those of the training images."""
    if numbers := channel_numbers(settings.normalise):
        return numbers
    images = network_of(settings).images if settings.normalise == "auto" else None
    return (images.mean, images.std) if images else (mean, std)


# ---------------------------------------------------------------------------------------------------------- torchvision


def _torchvision(name: str, weights: str, read: Weights | None, small_stem: bool) -> Network:
    from torchvision import models

    _check_name("torchvision", name, models.list_models(module=models))
    chosen = None
    if weights != NONE and read is None:
        known = models.get_model_weights(name)
        chosen = known.__members__.get(weights.rpartition(".")[2])
        _check_weights(f"torchvision:{name}", weights, chosen, ["DEFAULT", *(each.name for each in known)])
    images = _images_in(read)
    if chosen is not None:
        made_for = chosen.transforms()
        (side,) = made_for.crop_size
        images = Images(tuple(made_for.mean), tuple(made_for.std), side, made_for.interpolation.value)
    make = partial(_make_of_torchvision, name, chosen, small_stem)
    return Network(f"torchvision:{name}", make, chosen.name if chosen else weights, images, read, ("torchvision",))


def _make_of_torchvision(name: str, weights: Any, small_stem: bool, classes: int) -> tuple[nn.Module, str]:
    from torchvision import models

    words = ""
    if weights is None:
        # Without this word these two warn that they would begin with their slow initialisation, and do so.
        options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
        network: nn.Module = models.get_model(name, weights=None, num_classes=classes, **options)
    else:
        with _downloading(weights.name, weights.url):
            network = models.get_model(name, weights=weights)
    if getattr(network, "aux_logits", False):  # heads of a second loss, which are not trained here
        setattr(network, "aux_logits", False)  # noqa: B010
        for head in {"AuxLogits", "aux1", "aux2"} & dict(network.named_children()).keys():
            setattr(network, head, None)
    if weights is not None:
        words = _with_head_for(network, len(weights.meta["categories"]), classes)
    if small_stem:
        _make_stem_small(network, name)
    return network, words


def _make_stem_small(network: nn.Module, name: str) -> None:
    """The start of ResNets for small images, as in kuangliu/pytorch-cifar: its size is that of the images."""
    from torchvision.models import ResNet

    if not isinstance(network, ResNet):
        raise NetworkError(f"small_stem=true: torchvision:{name} is no ResNet; leave it out, or take resnet18")
    network.conv1 = nn.Conv2d(3, network.conv1.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
    network.maxpool = nn.Identity()


def _with_head_for(network: nn.Module, before: int, classes: int) -> str:
    """Replaces the last layer, which gives `before` logits, unless it fits; says so."""
    if before == classes:
        return ""
    heads = [
        (name, layer)
        for name, layer in network.named_modules()
        if getattr(layer, "out_features", getattr(layer, "out_channels", 0)) == before
    ]
    name, last = heads[-1]
    if isinstance(last, nn.Linear):
        head: nn.Module = nn.Linear(last.in_features, classes, bias=last.bias is not None)
    else:
        head = nn.Conv2d(last.in_channels, classes, last.kernel_size)
    above, _, own_name = name.rpartition(".")
    setattr(network.get_submodule(above), own_name, head)
    return replaced(name, before, classes)


# ----------------------------------------------------------------------------------------------------------------- timm


def _timm(name: str, weights: str, read: Weights | None, small_stem: bool) -> Network:
    try:
        import timm
    except ImportError as error:
        cure = "pip install '.[timm]', or take a network of torchvision"
        raise NetworkError(f"model=timm:{name}: the package timm is not installed; {cure}") from error
    plain = name.partition(".")[0]
    _check_name("timm", plain, timm.list_models())
    tagged, made_for = name, None
    if weights != NONE and read is None:
        tagged = name if weights == "DEFAULT" else f"{plain}.{weights}"
        known = [each.partition(".")[2] for each in timm.list_pretrained(f"{plain}.*")]
        there = known and tagged.partition(".")[2] in ("", *known)
        made_for = timm.get_pretrained_cfg(tagged) if there else None
        _check_weights(f"timm:{name}", weights, made_for, ["DEFAULT", *known] if known else [])
    images = _images_in(read)
    if made_for:
        how = made_for.interpolation if made_for.interpolation in ("bilinear", "bicubic") else "bicubic"
        images = Images(tuple(made_for.mean), tuple(made_for.std), made_for.input_size[-1], how)
    make = partial(_make_of_timm, tagged, made_for)
    full = f"{plain}.{made_for.tag}" if made_for else weights
    return Network(f"timm:{name}", make, full, images, read, ("timm",))


def _make_of_timm(name: str, made_for: Any, classes: int) -> tuple[nn.Module, str]:
    import timm

    if not made_for:
        return timm.create_model(name, num_classes=classes), ""
    with _downloading(name, made_for.hf_hub_id or made_for.url):
        network: nn.Module = timm.create_model(name, pretrained=True, num_classes=classes)
    other = made_for.num_classes != classes
    return network, replaced(str(made_for.classifier), made_for.num_classes, classes) if other else ""


_LIBRARIES: Mapping[str, Callable[[str, str, Weights | None, bool], Network]] = {
    "torchvision": _torchvision,
    "timm": _timm,
}


def _check_name(library: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise NetworkError(f"model={library}:{name}: {library} has no classifier {name!r}{did_you_mean(name, known)}")


def _check_weights(model: str, weights: str, found: object, known: Sequence[str]) -> None:
    if not found:
        more = ", ..." if len(known) > _LISTED else ""
        names = ", ".join([NONE, *known[:_LISTED]]) + more
        hint = did_you_mean(weights, known)
        raise NetworkError(f"weights={weights}: {model} has no weights of that name; give {names}, or {_FILE}{hint}")


@contextmanager
def _downloading(name: str, source: str) -> Iterator[None]:
    """Inside, weights that cannot be had end the work with one line."""
    try:
        yield
    except Exception as error:  # of the network, of the hub's client, of a damaged file
        why, folder = told(error, ()), Path(torch.hub.get_dir(), "checkpoints")
        cure = f"copy the file to {folder}" if source.startswith("http") else "copy it to the cache of huggingface_hub"
        raise NetworkError(
            f"weights={name}: cannot be loaded from {source} ({why}); {cure}, or give {_FILE} or none"
        ) from error

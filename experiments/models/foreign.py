"""Networks by name: of this suite, of torchvision or timm, or built by a function of one's own; and their weights."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.parameter import UninitializedParameter

from cam_core.models import plain

from ..errors import did_you_mean
from ..settings.base import AUTO, NONE
from ..settings.notation import channel_numbers
from ..settings.parts import NETWORKS, load_part
from ..settings.train import TrainSettings
from ..system.files import user_path
from ..system.own_code import own_function, told
from .layers import Normalise, open_door
from .weights import ENDINGS, NetworkError, fill, read_weights, replaced

Make = Callable[[int], tuple[Any, str]]
"""Builds a network for a number of classes, and says what was replaced."""

_FILE = "a FILE.safetensors or FILE.pt"


class Images(NamedTuple):
    """The images that weights were made for: means and deviations of the channels in [0, 1], side in pixels.

    `centre_crop` is the share of an image's short side that the square in its middle takes.
    """

    mean: Sequence[float]
    std: Sequence[float]
    image_size: int
    interpolation: str
    centre_crop: float = 1.0


@dataclass(frozen=True)
class Network:
    """A network that was found, not yet built.

    `make` is None for one of ours. `weights` is their name in full, such as IMAGENET1K_V2, or a path, or none; `digest`
    is that of their file. `libraries` are the packages it comes from; `sources` the text of one's own files by path.
    """

    name: str
    make: Make | None = None
    weights: str = NONE
    images: Images | None = None
    digest: str = ""
    libraries: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_plain(self) -> bool:
        """Whether it is one of ours that begins at random."""
        return self.make is None and self.weights == NONE

    @property
    def identity(self) -> list[object]:
        """What decides the network before its training, beside the versions of its libraries."""
        name = self.name.rpartition(":")[2] if self.sources else self.name
        return [name, self.digest or self.weights, dict(self.sources)]


def network_of(settings: TrainSettings) -> Network:
    """The network of the settings, found.

    Raises:
        NetworkError: there is no such network, or its weights cannot be had.
    """
    return _found(settings.model, settings.weights, settings.small_stem, os.getcwd())


@lru_cache(maxsize=16)
def _found(model: str, weights: str, small_stem: bool, folder: str) -> Network:
    library, _, name = model.partition(":")
    _, declared, digest = read_weights(user_path(weights)) if weights.endswith(ENDINGS) else ({}, {}, "")
    published = NONE if digest else weights
    told_of = {name: declared[name] for name in Images._fields if name in declared}
    images = Images(**told_of) if told_of.keys() >= {*Images._fields[:4]} else None
    if library in ("torchvision", "timm"):
        look_up = _torchvision if library == "torchvision" else _timm
        make, full, made_for = look_up(name, published, small_stem)
        return Network(model, make, weights if digest else full, made_for or images, digest, (library,))
    if published != NONE:
        raise _no_weights(model, weights, [])
    if model in NETWORKS:
        return Network(model, weights=weights, images=images, digest=digest)
    code = own_function("model", model)
    by_function: Make = lambda classes: (code.found(classes), "")  # noqa: E731
    return Network(model, by_function, weights, images, digest, (), code.sources)


def build(settings: TrainSettings, classes: int, mean: Sequence[float], std: Sequence[float]) -> tuple[nn.Module, str]:
    """The network with its weights, and in words what was replaced; `mean` and `std` are those of the training images.

    It takes images `(n, 3, h, w)` in [0, 1] and gives logits `(n, classes)`.

    Raises:
        NetworkError: it cannot be built, or the weights do not fit.
    """
    found = network_of(settings)
    mean, std = normalisation(settings, mean, std)
    if found.make is None:
        network, words = load_part(NETWORKS, found.name)(classes, mean, std, settings.dropout), ""
    else:
        network, words = _foreign(found, found.make, classes)
        open_door(network, mean, std)
    if found.digest:
        tensors, _, digest = read_weights(user_path(found.weights))
        if digest != found.digest:
            raise NetworkError(f"weights={found.weights}: the file has changed since this command began; start again")
        words = fill(network, tensors, classes, found.weights)
        if found.make is None and settings.normalise != AUTO:
            network.normalise = Normalise(mean, std)  # not that of the file
    return network, words


def _foreign(found: Network, make: Make, classes: int) -> tuple[nn.Module, str]:
    try:
        network, words = make(classes)
    except NetworkError:
        raise
    except (Exception, SystemExit) as error:
        raise NetworkError(f"model={found.name}: cannot be built for {classes} classes: {told(error)}") from error
    wrong = ""
    if not isinstance(network, nn.Module):
        wrong = f"gives {type(network).__name__}, not a torch.nn.Module"
    elif isinstance(plain(network), torch.jit.ScriptModule):
        wrong = "gives a scripted network; give the one from before torch.jit.script or torch.jit.trace"
    elif hasattr(plain(network), "camparison_mean"):
        wrong = "gives the same network again; it must build a new one each time"
    elif any(isinstance(parameter, UninitializedParameter) for parameter in network.parameters()):
        wrong = "has lazy layers; let your function run it once on images"
    if wrong:
        raise NetworkError(f"model={found.name}: {wrong}")
    return plain(network), words


def normalisation(
    settings: TrainSettings, mean: Sequence[float], std: Sequence[float]
) -> tuple[Sequence[float], Sequence[float]]:
    """The means and deviations by which images are normalised; `mean` and `std` are those of the training images."""
    if numbers := channel_numbers(settings.normalise):
        return numbers
    images = network_of(settings).images if settings.normalise == AUTO else None
    return images[:2] if images else (mean, std)


_Looked = tuple[Make, str, Images | None]


def _torchvision(name: str, weights: str, small_stem: bool) -> _Looked:
    from torchvision import models

    _check_name("torchvision", name, models.list_models(module=models))
    every = models.get_model_weights(name)
    chosen = every.__members__.get(weights.rpartition(".")[2])
    if chosen is None and weights != NONE:
        raise _no_weights(f"torchvision:{name}", weights, ["DEFAULT", *(each.name for each in every)])

    def make(classes: int) -> tuple[nn.Module, str]:
        words = ""
        if chosen is None:
            # Without this word these two warn that they begin with their slow initialisation, and do so.
            options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
            network = models.get_model(name, weights=None, num_classes=classes, **options)
        else:
            with _downloading(chosen.name, chosen.url):
                network = models.get_model(name, weights=chosen)
            words = _with_head_for(network, len(chosen.meta["categories"]), classes)
        for head in ("AuxLogits", "aux1", "aux2"):  # of a second loss, which is not trained here
            if hasattr(network, head):
                network.aux_logits = False
                setattr(network, head, None)
        if small_stem and not isinstance(network, models.ResNet):
            raise NetworkError(f"small_stem=true: torchvision:{name} is no ResNet; leave it out, or take resnet18")
        if small_stem:  # as in kuangliu/pytorch-cifar
            network.conv1 = nn.Conv2d(3, network.conv1.out_channels, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(network.conv1.weight, mode="fan_out", nonlinearity="relu")
            network.maxpool = nn.Identity()
        return network, words

    if chosen is None:
        return make, NONE, None
    images = chosen.transforms()
    side, whole = images.crop_size[0], images.resize_size[0]
    return make, chosen.name, Images(images.mean, images.std, side, images.interpolation.value, side / whole)


def _with_head_for(network: nn.Module, before: int, classes: int) -> str:
    """Replaces the last layer, which gives `before` logits, unless it fits; says so."""
    if before == classes:
        return ""
    weights = {
        name: layer.weight for name, layer in network.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)
    }
    name = [name for name, weight in weights.items() if len(weight) == before][-1]
    width = weights[name].shape[1]
    above, _, last = name.rpartition(".")
    # Only SqueezeNet ends with a convolution.
    head = nn.Linear(width, classes) if weights[name].ndim == 2 else nn.Conv2d(width, classes, 1)
    setattr(network.get_submodule(above), last, head)
    return replaced(name, before, classes)


def _timm(name: str, weights: str, small_stem: bool) -> _Looked:
    try:
        import timm
    except ImportError as error:
        cure = "pip install '.[timm]', or take a network of torchvision"
        raise NetworkError(f"model=timm:{name}: the package timm is not installed; {cure}") from error
    plain = name.partition(".")[0]
    _check_name("timm", plain, timm.list_models())
    if weights == NONE:
        return lambda classes: (timm.create_model(name, num_classes=classes), ""), NONE, None
    tagged = name if weights == "DEFAULT" else f"{plain}.{weights}"
    known = [each.partition(".")[2] for each in timm.list_pretrained(f"{plain}.*")]
    if not known or tagged.partition(".")[2] not in ("", *known):
        raise _no_weights(f"timm:{name}", weights, ["DEFAULT", *known] if known else [])
    made_for: Any = timm.get_pretrained_cfg(tagged)

    def make(classes: int) -> tuple[nn.Module, str]:
        with _downloading(weights, made_for.hf_hub_id or made_for.url):
            network: nn.Module = timm.create_model(tagged, pretrained=True, num_classes=classes)
        same = classes == made_for.num_classes
        return network, "" if same else replaced(str(made_for.classifier), made_for.num_classes, classes)

    how = made_for.interpolation if made_for.interpolation == "bilinear" else "bicubic"
    return make, made_for.tag, Images(made_for.mean, made_for.std, made_for.input_size[-1], how, made_for.crop_pct)


def _check_name(library: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise NetworkError(f"model={library}:{name}: {library} has no classifier {name!r}{did_you_mean(name, known)}")


def _no_weights(model: str, weights: str, known: Sequence[str]) -> NetworkError:
    names, hint = ", ".join([NONE, *known]), did_you_mean(weights, known)
    return NetworkError(f"weights={weights}: {model} has no weights of that name; give {names}, or {_FILE}{hint}")


@contextmanager
def _downloading(name: str, source: str) -> Iterator[None]:
    """Inside, weights that cannot be had end the work with one line."""
    try:
        yield
    except Exception as error:  # of the network, of the hub's client, of a damaged file
        cache = f"to {torch.hub.get_dir()}/checkpoints" if source.startswith("http") else "into huggingface_hub's cache"
        cure = f"copy the file {cache}, or give {_FILE} or none"
        raise NetworkError(f"weights={name}: cannot be loaded from {source} ({told(error)}); {cure}") from error

"""Weights from files, without code in them: read, and filled into a network that they fit."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import CannotStart
from ..system.files import open_file

ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_INSIDE = ("state_dict", "model_state_dict", "model")  # under which training programs keep the weights
_AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")  # of torchvision's Inception and GoogLeNet, which are built without them
_LISTED = 3


class NetworkError(CannotStart):
    """A network or its weights cannot be used; the message names the option and the way out."""


class Weights(NamedTuple):
    """The tensors of a file by name, what the file declares of its network (empty if nothing), and its SHA-256."""

    tensors: Mapping[str, Tensor]
    declared: Mapping[str, Any]
    digest: str


def read_weights(path: Path) -> Weights:
    """The weights in a `.safetensors` file or one of `torch.save`; code in it is refused, never run.

    Raises:
        NetworkError: the file cannot be read, or is something else.
    """
    found: Any
    declared = "{}"
    try:
        with open_file(path) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            if path.suffix == ".safetensors":
                from safetensors import safe_open

                with safe_open(path, "pt") as opened:
                    found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
                    declared = (opened.metadata() or {}).get("network", declared)
            else:
                found = torch.load(file, map_location="cpu", weights_only=True)
        for name in _INSIDE if isinstance(found, Mapping) else ():
            found = found[name] if isinstance(found.get(name), Mapping) else found
        named = isinstance(found, Mapping) and all(isinstance(name, str) for name in found)
        if not named or not found or not all(isinstance(tensor, Tensor) for tensor in found.values()):
            raise TypeError("it has no tensors by name")
        return Weights(found, json.loads(declared), digest)
    except OSError as error:
        raise NetworkError(f"weights={path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # a damaged file raises many kinds
        coded = isinstance(error, UnpicklingError)
        why = "it holds code, or is damaged" if coded else str(error).partition("\n")[0] or type(error).__name__
        cure = "give a file of torch.save(model.state_dict(), FILE), or a .safetensors"
        raise NetworkError(f"weights={path}: is no file of weights only ({why[:120]}); {cure}") from error


def fill(network: nn.Module, tensors: Mapping[str, Tensor], classes: int, path: str) -> str:
    """Loads the weights. A classifier of another number of classes keeps its own; returns this in words.

    Where all names begin with the name of a module around the network, such as `module.`, this is left out.

    Raises:
        NetworkError: names are missing or too many, or shapes differ elsewhere.
    """
    own = network.state_dict()
    while not tensors.keys() & own.keys() and _in_one_module(tensors):
        tensors = {name.partition(".")[2]: tensor for name, tensor in tensors.items()}
    given = {name: tensor for name, tensor in tensors.items() if name in own or not name.startswith(_AUXILIARY)}
    other = {name: (tuple(given[name].shape), tuple(own[name].shape)) for name in own if name in given}
    other = {name: shapes for name, shapes in other.items() if shapes[0] != shapes[1]}
    heads = {name.rpartition(".")[0] for name, (a, b) in other.items() if a[1:] == b[1:] and b[:1] == (classes,)}
    head = heads.pop() if len(heads) == 1 else None
    shapes = [f"{name} {a} instead of {b}" for name, (a, b) in other.items() if name.rpartition(".")[0] != head]
    wrong = {
        "are missing in it": [name for name in own if name not in given and not name.endswith("num_batches_tracked")],
        "are not in the network": [name for name in given if name not in own],
        "have another shape": shapes,
    }
    if problems := [f"{len(names)} {what} ({', '.join(names[:_LISTED])})" for what, names in wrong.items() if names]:
        why, cure = "; ".join(problems), "give weights of the same network"
        raise NetworkError(f"weights={path}: does not fit this network: of its {len(own)} tensors {why}; {cure}")
    network.load_state_dict({name: tensor for name, tensor in given.items() if name not in other}, strict=False)
    return "" if head is None else replaced(head, next(iter(other.values()))[0][0], classes)


def _in_one_module(names: Iterable[str]) -> bool:
    return all("." in name for name in names) and len({name.partition(".")[0] for name in names}) == 1


def replaced(head: str, before: int, classes: int) -> str:
    """The words for a classifier that begins anew."""
    return f"its last layer {head} of {before} classes replaced by one of {classes}, which begins at random"

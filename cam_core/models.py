"""Models and their layers: wrappers taken off, layers found by name, module, index or pattern, and the device."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

Layer = str | nn.Module
"""A layer: a dotted name such as `layer4.1.conv2` or `layer4[-1]`, a pattern such as `features.*`, or the module."""


def plain(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile`, `DataParallel` and `DistributedDataParallel`, or the model itself."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def check_model(model: object) -> None:
    """Checks a model; raises TypeError if it is no module, ValueError if hooks do not work in it."""
    if not isinstance(model, nn.Module):
        hint = "; give the network that was exported" if "ExportedProgram" in type(model).__name__ else ""
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}{hint}")
    inner = plain(model)
    if isinstance(inner, torch.jit.ScriptModule):
        raise ValueError(
            "model is traced or scripted (torch.jit), and the outputs of its layers cannot be had; "
            "give the network from before torch.jit.trace or torch.jit.script"
        )
    if isinstance(inner, torch.fx.GraphModule) and not any(node.op == "call_module" for node in inner.graph.nodes):
        raise ValueError(
            "model is exported (torch.export), and has operations but no layers; "
            "give the network from before torch.export"
        )


def named_layers(model: nn.Module, *, aliases: bool = False) -> dict[str, nn.Module]:
    """All modules inside the model by dotted name, without the prefixes that wrappers add.

    A module that has several names is there once, or with `aliases` under each.
    """
    found = {}
    for name, module in plain(model).named_modules(remove_duplicate=not aliases):
        short = re.sub(r"(^|\.)_orig_mod(?=\.|$)", "", name).lstrip(".")
        if short and not isinstance(getattr(module, "_orig_mod", None), nn.Module):
            found[short] = module
    return found


def layer_names(model: nn.Module, layers: Sequence[Layer]) -> tuple[str, ...]:
    """The dotted names of layers that are given as names, modules, indices or patterns, in their order.

    Raises TypeError for something else, and ValueError if a layer is not in the model, or is given twice.
    """
    if isinstance(layers, str):
        raise ValueError(f"layers must be a list of names, got the text {layers!r}; write [{layers!r}]")
    if isinstance(layers, nn.Module):
        raise TypeError(f"layers must be a list of names or modules, got one {type(layers).__name__}; write [layer]")
    if not isinstance(layers, Sequence):
        raise TypeError(f"layers must be a list of names or modules, got {type(layers).__name__}")
    check_model(model)
    known = named_layers(model, aliases=True)
    names = [name for layer in layers for name in _named(model, layer, known)]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"layers must name at least one layer and none twice, got {names}")
    return tuple(names)


def find_layers(model: nn.Module, layers: Sequence[str]) -> dict[str, nn.Module]:
    """The modules with these dotted names; a number after `#` picks one of several calls of a layer."""
    known = named_layers(model, aliases=True)
    return {name: known[name.partition("#")[0]] for name in layers}


def call_of(name: str, calls: int) -> int:
    """Which of a layer's calls is meant."""
    if calls == 0:
        raise ValueError(f"layer {name!r} does not run in the forward pass; choose a layer that does")
    layer, mark, number = name.partition("#")
    if not mark:
        if calls == 1:
            return 0
        raise ValueError(
            f"layer {name!r} runs more than once in one forward pass; write {layer + '#0'!r} for the first of its "
            f"{calls} calls, or {layer + '#-1'!r} for the last"
        )
    if not number.lstrip("-").isdigit() or not -calls <= int(number) < calls:
        raise ValueError(f"layer {name!r}: {layer} runs {calls} times; write a number from 0 to {calls - 1} after #")
    return int(number)


def _named(model: nn.Module, layer: object, known: dict[str, nn.Module]) -> list[str]:
    if isinstance(layer, nn.Module):
        names = [name for name, module in known.items() if module is plain(layer) or module is layer]
        if not names:
            raise ValueError(f"layer {type(layer).__name__} is not a module of this model; give model.NAME or its name")
        return names[:1]
    if not isinstance(layer, str):
        hint = "; for one map of several layers give them in one list, and use fused" if type(layer) is list else ""
        raise TypeError(f"layers must be dotted names, such as 'layer4', or modules, got {type(layer).__name__}{hint}")
    name, mark, call = layer.partition("#")
    name = re.sub(r"^(module|_orig_mod)\.", "", name) if name not in known else name
    name = _indexed(name, known)
    found = [other for other in known if fnmatchcase(other, name) and other.count(".") == name.count(".")]
    if not found:
        top = ", ".join(child for child, _ in plain(model).named_children())
        hint = near_miss(name, known)
        raise ValueError(f"layer {layer!r} is not in the model{hint}; it has {top} and what is inside them (a.b)")
    return [other + mark + call for other in found]


def _indexed(name: str, known: Iterable[str]) -> str:
    """The name with `layer4[-1]` and `layer4.-1` written out."""
    done = ""
    for part in re.sub(r"\[(-?\d+)\]", r".\1", name).split("."):
        children = [
            other for other in known if other.startswith(f"{done}.") and other.count(".") == done.count(".") + 1
        ]
        if re.fullmatch(r"-\d+", part) and int(part) >= -len(children):
            part = children[int(part)].rpartition(".")[2]
        done = f"{done}.{part}" if done else part
    return done


def near_miss(name: str, known: Iterable[str]) -> str:
    """A question in brackets with the closest known name; empty if none is close."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.75)
    return f" (did you mean {near[0]!r}?)" if near else ""


def device_of(model: nn.Module, images: Tensor) -> torch.device:
    """The device of the model's first parameter; that of the images if the model has no parameters.

    Raises TypeError if the model is not a module, ValueError if only one of the two is float64.
    """
    check_model(model)
    first = next(model.parameters(), None)
    if first is not None and (first.dtype == torch.float64) != (images.dtype == torch.float64):
        raise ValueError(f"images are {images.dtype} and the model is {first.dtype}; use images.to({first.dtype})")
    return images.device if first is None else first.device

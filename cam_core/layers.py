"""The default layers of a model: the last layer of its trunk at each resolution."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cam_core.graph import Edge, Graph, rearranged_from
from cam_core.inputs import check_images, check_rank
from cam_core.layouts import Layout, Size, alike, follows, layout_of, merged, stretched
from cam_core.models import device_of, find_layers, named_layers, plain
from cam_core.outputs import Output, logits_in, map_in, tensors_in, with_tensor
from cam_core.state import undisturbed
from cam_core.tracing import Call, shapes_at, traced, two

# Modules that only pass a map on, or make it smaller, do not count as layers.
_PASSING_ON = (
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
)

# Modules that give what they get have no name of their own.
_UNCHANGED = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


@dataclass(frozen=True)
class _Found:
    """A layer that could stand for its stage."""

    call: Call
    layout: Layout
    features: Edge


def auto_layers(
    model: nn.Module, images: Float[Tensor, "n channels *size"], *, output: Output | None = None
) -> tuple[str, ...]:
    """The last layer of the trunk at each resolution, from shallow to deep: for a ResNet the stem and `layer1` to `4`.

    The trunk is what every path from the images to the logits goes through. So a layer of the trunk depends on the
    images and carries all gradients, and half a branch, a gate, an attention matrix or an embedding of positions is
    never one. It must keep the batch, hold a map whose grid covers the images and follows their size, and the part of
    it that is the map must reach the logits (behind the last attention of a ViT with a class token it does not). Of
    several at one resolution the last counts, under its shortest name. A step inside a module that goes on to the next
    resolution does not count, if it works position by position (the norm before a strided convolution), if it holds a
    single convolution (the one before a pooling), or if the module ends with the step. Neither do poolings,
    rearrangements, maps of one position, and the images with other colours. Of a module that runs more than once, such
    as one activation behind many layers, the last call may count, and is named `name#-1`.

    Takes one forward pass of two images, one of another size if the model allows it, and one for each layer with class
    tokens. Raises ValueError if no layer of the trunk is a map.
    """
    check_rank(model, check_images(images))
    graph, calls = traced(model, images, named_layers(model), output)
    found = _of_trunk(model, images, graph, calls)
    if not found:
        raise ValueError(
            "no layer of the model gives a map (n, c, h, w) that all paths to the logits share; name layers, and give "
            "reshape for tokens"
        )
    stages = merged(one.layout.grid for one in found)
    chosen = []
    for stage in stages:
        of_stage = [one for one in found if one.layout.grid in stage]
        reached = (one for one in reversed(of_stage) if _reaches(model, images, one, output))
        if (last := next(reached, None)) is not None:
            chosen.append(last)
    counts = Counter(call.name for call in calls)
    ordered = sorted((one.call for one in chosen), key=calls.index)
    return tuple(call.name if counts[call.name] == 1 else f"{call.name}#-1" for call in ordered)


def layer_grids(model: nn.Module, images: Float[Tensor, "n channels *size"]) -> dict[str, Size]:
    """The grid of the map of each layer that gives one and runs once, in the order in which they end.

    Takes one forward pass of two images.
    """
    check_rank(model, check_images(images))
    graph, calls = traced(model, images, named_layers(model))
    counts = Counter(call.name for call in calls)
    found = {}
    for call in calls:
        if counts[call.name] == 1 and call.shape[0] == 2 and call.edge and graph.depends_on_images(call.edge):
            layout = layout_of(graph, call, tuple(images.shape[2:]))
            if layout is not None and prod(layout.grid) > 1:
                found[call.name] = layout.grid
    return found


def _of_trunk(model: nn.Module, images: Tensor, graph: Graph, calls: list[Call]) -> list[_Found]:
    """The layers that may stand for a stage, in the order in which their outputs were computed."""
    modules = named_layers(model)
    counts = Counter(call.name for call in calls)
    last = {call.name: call for call in calls}
    once = {name: call for name, call in last.items() if counts[name] == 1}
    named = [call for call in calls if call is last[call.name] and not isinstance(modules[call.name], _UNCHANGED)]
    pooled = {call.edge for call in calls if isinstance(modules[call.name], _PASSING_ON)}
    on_trunk = [call for call in named if call.edge not in pooled and _is_of_trunk(graph, call)]
    found: dict[Edge, _Found] = {}
    for one in _maps(model, images, graph, on_trunk):
        if one.layout.skipped and one.call.name not in once:
            continue  # `_reaches` could not tell its calls apart
        known = found.get(one.features)
        if known is None or one.call.name.count(".") < known.call.name.count("."):
            found[one.features] = one
    stages = enumerate(merged(one.layout.grid for one in found.values()))
    stage_of = {size: number for number, stage in stages for size in stage}
    return [one for one in found.values() if not _prepares(graph, modules, one, once, found, stage_of)]


def _is_of_trunk(graph: Graph, call: Call) -> bool:
    return (
        call.edge is not None
        and call.shape[0] == 2
        and graph.is_shared(call.edge)
        and not graph.is_pointwise(call.edge, graph.images)
    )


def _maps(model: nn.Module, images: Tensor, graph: Graph, calls: list[Call]) -> Iterator[_Found]:
    """Those layers whose output is a map that covers the images and follows their size."""
    sides = tuple(images.shape[2:])
    shapes = shapes_at(model, stretched(images), [call.name for call in calls])
    for call in calls:
        layout = layout_of(graph, call, sides)
        if layout is None or call.edge is None or prod(layout.grid) == 1 or not alike(layout.grid, sides):
            continue
        if call.name not in shapes or follows(layout, shapes[call.name], call.shape):
            yield _Found(call, layout, rearranged_from(call.edge))


def _prepares(
    graph: Graph,
    modules: Mapping[str, nn.Module],
    one: _Found,
    calls: Mapping[str, Call],
    found: Mapping[Edge, _Found],
    stage_of: Mapping[Size, int],
) -> bool:
    """Whether the layer is only a step, inside a module around it, from one resolution to the next."""
    stage = stage_of[one.layout.grid]
    single = _weights(modules[one.call.name]) < 2
    parts = one.call.name.split(".")
    for around in (calls.get(".".join(parts[:depth])) for depth in range(1, len(parts))):
        if around is None or around.taken is None or around.edge is None or one.call.edge is None:
            continue
        before, after = (found.get(rearranged_from(edge)) for edge in (around.taken, around.edge))
        if before is None or before.features == one.features or stage_of[before.layout.grid] != stage:
            continue
        reached = None if after is None else stage_of[after.layout.grid]
        if reached != stage and graph.is_pointwise(one.call.edge, around.taken):
            return True
        if reached == stage + 1 and (single or _steps_down(graph, around, found, stage_of, stage + 1)):
            return True
    return False


def _steps_down(
    graph: Graph, around: Call, found: Mapping[Edge, _Found], stage_of: Mapping[Size, int], stage: int
) -> bool:
    """Whether the module does nothing at its new resolution that mixes positions: it is no stage, only the step."""
    inside = (one for one in found.values() if one.call.name.startswith(f"{around.name}."))
    first = next((one for one in inside if stage_of[one.layout.grid] == stage), None)
    return first is None or around.edge is None or graph.is_pointwise(around.edge, first.call.edge)


def _weights(module: nn.Module) -> int:
    """The number of convolutions and linear layers in a module."""
    return sum(parameter.ndim > 1 for parameter in module.parameters())


def _reaches(model: nn.Module, images: Tensor, one: _Found, output: Output | None) -> bool:
    """Whether the logits depend on the part of the layer's output that is the map, beside class tokens."""
    if not one.layout.skipped:
        return True

    def broken(module: nn.Module, args: object, given: object) -> object:
        tensor = map_in(given, 2)
        assert tensor is not None
        spoiled = tensor.clone()
        one.layout(spoiled).fill_(torch.nan)
        return with_tensor(given, tensor, spoiled)

    device = device_of(model, images)
    (module,) = find_layers(model, [one.call.name]).values()
    with undisturbed(model, device), torch.no_grad(), module.register_forward_hook(broken):
        try:
            logits = logits_in(plain(model)(two(images).to(device).clone()), output)
        except Exception:  # a model may refuse what is no number, and then depends on it
            return True
    return any(bool(tensor.isnan().any()) for tensor in tensors_in(logits))

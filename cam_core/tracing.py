"""Runs a model on two images to see what its modules take and give: shapes, and places in the autograd graph."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from cam_core.graph import Edge, Graph, edge_of
from cam_core.models import device_of, find_layers, plain
from cam_core.outputs import Output, logits_in, map_in, tensors_in
from cam_core.state import undisturbed

Size = tuple[int, ...]


@dataclass(frozen=True)
class Call:
    """One call of a module: the shape of the tensor that it gave, and the places of what it gave and took."""

    name: str
    shape: Size
    edge: Edge | None
    taken: Edge | None


def traced(
    model: nn.Module, images: Tensor, modules: Mapping[str, nn.Module], output: Output | None = None
) -> tuple[Graph, list[Call]]:
    """The graph of a forward pass, and the calls of these modules in the order in which they ended.

    Raises ValueError if the logits do not depend on the images.
    """
    device = device_of(model, images)
    calls: list[Call] = []
    with undisturbed(model, device), ExitStack() as hooks:
        leaf = two(images).to(device).clone().requires_grad_()
        for name, module in modules.items():
            hooks.enter_context(module.register_forward_hook(partial(_note, calls, name), with_kwargs=True))
        logits = logits_in(plain(model)(leaf.clone()), output)
        graph = Graph([tensor for tensor in tensors_in(logits) if tensor.is_floating_point()], leaf)
    return graph, calls


def _note(
    calls: list[Call], name: str, module: nn.Module, args: object, kwargs: dict[str, object], output: object
) -> None:
    given = map_in(output, 2)
    if given is not None:
        taken = next(tensors_in([args, kwargs]), None)
        calls.append(Call(name, tuple(given.shape), edge_of(given), None if taken is None else edge_of(taken)))


def two(images: Tensor) -> Tensor:
    """Two different images: the first, and it mirrored."""
    one = images.detach()[:1]
    return torch.cat([one, one.flip(-1)])


def shapes_at(model: nn.Module, images: Tensor, names: Iterable[str]) -> dict[str, Size]:
    """The shapes that these layers give for other images, as far as the model can take them."""
    device = device_of(model, images)
    found: dict[str, Size] = {}

    def note(name: str, module: nn.Module, args: object, output: object) -> None:
        given = map_in(output, 2)
        if given is not None:
            found[name] = tuple(given.shape)

    with undisturbed(model, device), torch.no_grad(), ExitStack() as hooks:
        for name, module in find_layers(model, list(names)).items():
            hooks.enter_context(module.register_forward_hook(partial(note, name)))
        try:
            plain(model)(two(images).to(device).clone())
        except Exception:  # a model of one size may raise anything; the layers before it have been seen
            return found
    return found

"""One forward and one backward pass: the outputs of several layers, and the gradients of the explained logits there."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from cam_core.graph import Edge, Graph, edge_of
from cam_core.inputs import Reshape, Reshapes, check_images, check_rank, reshape_of, reshaped
from cam_core.layouts import Layout, by_axes, known_layout, read_layouts, remember
from cam_core.models import Layer, call_of, device_of, find_layers, layer_names, plain
from cam_core.outputs import Output, logits_in, map_in, with_tensor
from cam_core.state import undisturbed
from cam_core.targets import PlainTarget, Target, as_target, scores


@dataclass(frozen=True)
class Evidence:
    """The input of all gradient methods: activations and gradients of each layer, and the logits.

    `activations[name]` and `gradients[name]` are that layer's output as a map `(n, c, h, w)`; `(n, c, l)` for signals
    and `(n, c, d, h, w)` for volumes. The gradient is that of the explained number of each image; `observe` gives no
    gradients. All tensors are float32, detached, on the model's device, in the order of the requested layers.
    `reshapes` says how each layer's output becomes its map, and `output` how the logits are taken from what the model
    returns.
    """

    activations: dict[str, Float32[Tensor, "n _ *grid"]]
    gradients: dict[str, Float32[Tensor, "n _ *grid"]]
    logits: Float32[Tensor, "n k"]
    reshapes: Mapping[str, Reshape] = field(default_factory=dict)
    output: Output | None = None


def capture(
    model: nn.Module,
    images: Float[Tensor, "n channels *size"],
    layers: Sequence[Layer],
    target: Target,
    *,
    reshape: Reshapes = None,
    output: Output | None = None,
) -> Evidence:
    """The evidence of `layers` (names, modules or patterns) for the `target` of each image (see `cam_core.targets`).

    Takes one forward pass and one `torch.autograd.grad` over all layers; the graph starts at the first of them. The
    forward pass is repeated, with copies, only if the network changes a layer's output in place afterwards. Where the
    operations behind a layer do not say how its output holds the channels, as for tokens, one more pass of two images
    finds it, once per model and size. The model runs in eval mode. Afterwards it is as before, also after an exception:
    parameters, their `.grad` and `requires_grad`, buffers, other attributes, modes of all modules, hooks and random
    state. Frozen parameters, `no_grad`, `inference_mode`, autocast and compiled models are allowed; under autocast the
    passes use its precision, and the evidence is float32. `images` and `target` may be on any device. `output` takes
    the logits out of what the model returns, if they are not the tensor, its `logits` or the first of a tuple.

    Raises ValueError for images that are not a float batch, a target with a wrong length or out of range, non-finite
    values, and layers that are unknown, never run, run twice, whose output is not a map, or on which the target does
    not depend.
    """
    names, goal = checked(model, images, layers, target)
    with undisturbed(model, device := device_of(model, images)):
        # Copies, because tensors made in inference_mode cannot take part in a backward pass.
        run = _run(model, images.detach().to(device).clone(), names, output, gradients=True)
        chosen = scores(goal, run.logits).sum()
        gradients = _gradients(chosen, run.outputs)
        reshapes = _reshapes(model, images, run, reshape, output, chosen)
    return _evidence(run, gradients, reshapes, images.ndim - 2, output)


def observe(
    model: nn.Module,
    images: Float[Tensor, "n channels *size"],
    layers: Sequence[Layer],
    target: Target,
    *,
    reshape: Reshapes = None,
    output: Output | None = None,
) -> Evidence:
    """The same as `capture` without gradients, from one forward pass, for methods that need no gradients.

    `target` is only checked. Raises as `capture` does, but the target need not depend on the layers.
    """
    names, goal = checked(model, images, layers, target)
    with undisturbed(model, device := device_of(model, images)), torch.no_grad():
        run = _run(model, images.detach().to(device).clone(), names, output, gradients=False)
        scores(goal, run.logits)
        reshapes = _reshapes(model, images, run, reshape, output, None)
    return _evidence(run, {}, reshapes, images.ndim - 2, output)


def checked(model: nn.Module, images: object, layers: Any, target: object) -> tuple[tuple[str, ...], PlainTarget]:
    """The names of the layers and the target in its plain form; raises if anything does not fit together."""
    given = check_images(images)
    check_rank(model, given)
    goal = as_target(target, len(given))
    device_of(model, given)
    return layer_names(model, layers), goal


@dataclass(frozen=True)
class _Run:
    """One forward pass: the logits, and of each layer its output, the version of it, and its place in the graph."""

    logits: Tensor
    outputs: dict[str, Tensor]
    versions: dict[str, int]
    edges: dict[str, Edge | None]
    modules: Mapping[str, nn.Module]


class _Start(torch.autograd.Function):
    """Makes a tensor, without a copy, one that gradients can be asked for: the graph starts here."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, output: Tensor) -> Tensor:
        return output.detach()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, None]:
        return None, None


def _run(model: nn.Module, images: Tensor, names: Sequence[str], output: Output | None, *, gradients: bool) -> _Run:
    """The pass, with outputs as they were when each layer returned."""
    modules = find_layers(model, names)
    run = _forward(model, images, modules, output, gradients=gradients, copied=False)
    if any(tensor._version != run.versions[name] for name, tensor in run.outputs.items()):
        run = _forward(model, images, modules, output, gradients=gradients, copied=True)
    return run


def _forward(
    model: nn.Module,
    images: Tensor,
    modules: Mapping[str, nn.Module],
    output: Output | None,
    *,
    gradients: bool,
    copied: bool,
) -> _Run:
    """One pass; `copied` protects the outputs from later changes."""
    kept: dict[str, list[Tensor]] = {name: [] for name in modules}
    edges: dict[str, list[Edge | None]] = {name: [] for name in modules}
    versions: dict[str, list[int]] = {name: [] for name in modules}
    anchor = torch.zeros((), device=images.device, requires_grad=gradients)

    def keep(name: str, module: nn.Module, args: object, given: object) -> object:
        found = _of_images(name, given, len(images))
        torch.set_grad_enabled(gradients)
        started = _Start.apply(anchor, found) if gradients and not found.requires_grad else found
        own = started.clone() if copied else started
        kept[name].append(own)
        edges[name].append(edge_of(own))
        versions[name].append(own._version)
        after = own.clone() if copied else own
        return None if after is found else with_tensor(given, found, after)

    with torch.set_grad_enabled(False), ExitStack() as hooks:
        for name, module in modules.items():
            hooks.enter_context(module.register_forward_hook(partial(keep, name)))
        # A copy, because some models change their input in place, and it may be needed again.
        logits = checked_logits(logits_in(plain(model)(images.clone()), output), len(images))
    calls = {name: call_of(name, len(found)) for name, found in kept.items()}
    return _Run(
        logits,
        {name: kept[name][call] for name, call in calls.items()},
        {name: versions[name][call] for name, call in calls.items()},
        {name: edges[name][call] for name, call in calls.items()},
        modules,
    )


def _of_images(name: str, given: object, count: int) -> Tensor:
    """The tensor of a layer's output that holds something for each image."""
    found = map_in(given, count)
    if found is None or found.ndim == 0:
        raise ValueError(f"layer {name!r} gives a {type(given).__name__}, not a map (n, c, h, w); choose another layer")
    if len(found) == count:
        return found
    if len(found) % count == 0:
        raise ValueError(
            f"layer {name!r} gives {len(found)} rows for {count} images, such as windows of an attention; "
            "choose the block around it"
        )
    raise ValueError(
        f"layer {name!r} gives a tensor {tuple(found.shape)} with {len(found)} rows for {count} images, not a map "
        "(n, c, h, w); choose another layer"
    )


def _reshapes(
    model: nn.Module, images: Tensor, run: _Run, given: Reshapes, output: Output | None, chosen: Tensor | None
) -> dict[str, Reshape]:
    """How each layer's output becomes a map: as given, as an earlier call has found, or found now."""
    found: dict[str, Reshape | Layout | None] = {name: reshape_of(given, name) for name in run.outputs}
    for name, tensor in run.outputs.items():
        if found[name] is None:
            found[name] = known_layout(run.modules[name], images, tuple(tensor.shape))
    missing = [name for name, reshape in found.items() if reshape is None]
    if missing and chosen is not None:
        graph = Graph([chosen], images)
        for name in missing:
            found[name] = _by_what_follows(graph, run, name, images)
    unknown = {name: run.modules[name] for name in missing if found[name] is None}
    if unknown:
        found |= read_layouts(model, images, unknown, output)
    return {name: reshape for name, reshape in found.items() if reshape is not None}


def _by_what_follows(graph: Graph, run: _Run, name: str, images: Tensor) -> Layout | None:
    """The layout of a map by the operations behind the layer; None for tokens, or if they do not say it."""
    edge, shape = run.edges[name], tuple(run.outputs[name].shape)
    if edge is None or len(shape) != images.ndim or len(shape) == 3:
        return None
    layout = by_axes(shape, tuple(images.shape[2:]), graph.channel_axes(edge, len(shape)))
    if layout is not None:
        remember(run.modules[name], images, shape, layout)
    return layout


def _gradients(chosen: Tensor, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The gradients of the scalar `chosen` at all layers, from one backward pass."""
    connected = [output for output in outputs.values() if output.requires_grad]
    found: Sequence[Tensor | None] = []
    if chosen.requires_grad and connected:
        found = torch.autograd.grad(chosen, connected, allow_unused=True)
    by_output = {id(output): gradient for output, gradient in zip(connected, found, strict=False)}
    gradients = {name: by_output.get(id(output)) for name, output in outputs.items()}
    for name, gradient in gradients.items():
        if gradient is None:
            raise ValueError(
                f"the target does not depend on layer {name!r} (detached, or in a branch that is not used)"
            )
    return {name: gradient for name, gradient in gradients.items() if gradient is not None}


def _evidence(
    run: _Run, gradients: Mapping[str, Tensor], reshapes: Mapping[str, Reshape], rank: int, output: Output | None
) -> Evidence:
    """The evidence as detached float32 maps; ValueError for an output that is not a map or not finite."""
    evidence = Evidence(
        {name: reshaped(name, reshapes[name], tensor.detach(), rank).float() for name, tensor in run.outputs.items()},
        {name: reshaped(name, reshapes[name], tensor, rank).float() for name, tensor in gradients.items()},
        run.logits.detach().float(),
        reshapes,
        output,
    )
    _check_finite(evidence)
    return evidence


def checked_logits(logits: object, count: int) -> Tensor:
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"the model must return logits ({count}, classes), got a {type(logits).__name__}; "
            "give output, a function that takes the logits out of what the model returns"
        )
    if logits.ndim == 1 and len(logits) == count:
        return logits[:, None]
    if logits.ndim != 2 or len(logits) != count:
        raise ValueError(
            f"the model must return logits ({count}, classes), got a tensor {tuple(logits.shape)}; for other heads "
            "give output, a function that makes such logits of it"
        )
    return logits


def _check_finite(evidence: Evidence) -> None:
    kinds = {"activations": evidence.activations, "gradients": evidence.gradients}
    # A sum is cheap and finite only if all its values are, and reading all sums at once waits for a GPU only once. If a
    # sum overflows, the check of each value decides.
    sums = [value.sum() for values in kinds.values() for value in values.values()]
    if torch.stack([one.to(sums[0].device) for one in sums]).isfinite().all():
        return
    for kind, values in kinds.items():
        for name, value in values.items():
            broken = int((~value.isfinite().flatten(1).all(1)).sum())
            if broken:
                raise ValueError(
                    f"the {kind} of layer {name!r} contain NaN or infinity for {broken} of {len(value)} images; "
                    "check the images, the weights and the precision"
                )

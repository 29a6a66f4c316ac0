"""One forward and one backward pass: the outputs of several layers, and the gradients of the explained logits there."""

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from cam_core.targets import Target, check_target, scores

Reshape = Callable[[Tensor], Tensor]
"""Turns a layer's output, such as tokens of a ViT, into a map `(n, c, h, w)`; only rearranges and selects values."""


@dataclass(frozen=True)
class Evidence:
    """The input of all gradient methods: activations and gradients of each layer, and the logits.

    `activations[name]` and `gradients[name]` have the shape `(n, c, h, w)` of that layer's output. The gradient is that
    of the explained number of each image; `observe` gives no gradients. All tensors are float32, detached, on the
    model's device, in the order of the requested layers.
    """

    activations: dict[str, Float32[Tensor, "n _ _ _"]]
    gradients: dict[str, Float32[Tensor, "n _ _ _"]]
    logits: Float32[Tensor, "n k"]


def capture(
    model: nn.Module,
    images: Float[Tensor, "n channels height width"],
    layers: Sequence[str],
    target: Target,
    *,
    reshape: Reshape | None = None,
) -> Evidence:
    """The evidence of `layers` (dotted module names) for the `target` of each image (see `cam_core.targets`).

    Takes one forward pass and one `torch.autograd.grad` over all layers. The forward pass is repeated, with copies,
    only if the network changes a layer's output in place afterwards. The model runs in eval mode. Afterwards it is as
    before, also after an exception: parameters, their `.grad` and `requires_grad`, buffers, modes of all modules, hooks
    and random state. Frozen parameters, `no_grad`, `inference_mode`, autocast and compiled models are allowed; under
    autocast the passes use its precision, and the evidence is float32. `images` and `target` may be on any device.
    Layers whose output is not a map need `reshape`.

    Raises ValueError for images that are not a float batch, a target with a wrong length or out of range, non-finite
    values, and layers that are unknown, never run, run twice, whose output is not an `(n, c, h, w)` map, or on which
    the target does not depend.
    """
    check_inputs(images, layers, target)
    modules = find_layers(model, layers)
    device = device_of(model, images)
    with undisturbed(model, device):
        # Copies, because tensors made in inference_mode cannot take part in a backward pass.
        logits, outputs = _run(model, images.detach().to(device).clone().requires_grad_(), modules)
        _check_logits(logits, len(images))
        gradients = _gradients(scores(target, logits).sum(), outputs)
    return _evidence(outputs, gradients, logits, reshape)


def observe(
    model: nn.Module,
    images: Float[Tensor, "n channels height width"],
    layers: Sequence[str],
    target: Target,
    *,
    reshape: Reshape | None = None,
) -> Evidence:
    """The same as `capture` without gradients, from one forward pass, for methods that need no gradients.

    `target` is only checked. Raises as `capture` does, but the target need not depend on the layers.
    """
    check_inputs(images, layers, target)
    modules = find_layers(model, layers)
    device = device_of(model, images)
    with undisturbed(model, device), torch.no_grad():
        logits, outputs = _run(model, images.detach().to(device).clone(), modules)
        _check_logits(logits, len(images))
        scores(target, logits)
    return _evidence(outputs, {}, logits, reshape)


def check_images(images: object) -> Tensor:
    """Checks and returns the images; raises TypeError if they are no tensor, ValueError if they are no float batch."""
    if not isinstance(images, Tensor):
        raise TypeError(
            f"images must be a torch tensor, got {type(images).__name__}; torch.stack makes one of a list of tensors"
        )
    if images.ndim != 4 or not images.is_floating_point():
        raise ValueError(
            f"images must be a float tensor (n, channels, height, width), got {images.dtype} {tuple(images.shape)}"
            + (
                "; for one image use image[None]"
                if images.ndim == 3
                else "; convert them to what the model was trained with"
            )
        )
    if len(images) == 0:
        raise ValueError("images is an empty batch; give at least one image")
    return images


def check_inputs(images: object, layers: object, target: object) -> None:
    """Checks the three; raises TypeError for a wrong type, ValueError if they do not fit together."""
    check_target(target, len(check_images(images)))
    if isinstance(layers, str):
        raise ValueError(f"layers must be a list of names, got the text {layers!r}; write [{layers!r}]")
    if not isinstance(layers, Sequence) or not all(isinstance(name, str) for name in layers):
        raise TypeError("layers must be a list of dotted module names, such as ['layer4'], not modules")
    if not layers or len(set(layers)) < len(layers):
        raise ValueError(f"layers must name at least one layer and none twice, got {list(layers)}")


def named_layers(model: nn.Module) -> dict[str, nn.Module]:
    """All modules inside the model by dotted name, without the prefixes that `torch.compile` adds."""
    return {name.replace("_orig_mod.", ""): module for name, module in _plain(model).named_modules() if name}


def find_layers(model: nn.Module, layers: Sequence[str]) -> dict[str, nn.Module]:
    """The modules with these dotted names; the ValueError for an unknown name suggests the closest known one."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    known = named_layers(model)
    for name in layers:
        if name not in known:
            top = ", ".join(child for child, _ in _plain(model).named_children())
            hint = near_miss(name, known)
            raise ValueError(f"layer {name!r} is not in the model{hint}; it has {top} and what is inside them (a.b)")
    return {name: known[name] for name in layers}


def near_miss(name: str, known: Iterable[str]) -> str:
    """A question in brackets with the closest known name; empty if none is close."""
    near = get_close_matches(name, list(known), n=1, cutoff=0.75)
    return f" (did you mean {near[0]!r}?)" if near else ""


def device_of(model: nn.Module, images: Tensor) -> torch.device:
    """The device of the model's parameters; that of the images if the model has no parameters.

    Raises TypeError if the model is not a module, ValueError if only one of the two is float64.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    first = next(model.parameters(), None)
    if first is not None and (first.dtype == torch.float64) != (images.dtype == torch.float64):
        raise ValueError(f"images are {images.dtype} and the model is {first.dtype}; use images.to({first.dtype})")
    return images.device if first is None else first.device


def _plain(model: nn.Module) -> nn.Module:
    """The module inside a `torch.compile` wrapper, or the model itself."""
    inner = getattr(model, "_orig_mod", model)
    assert isinstance(inner, nn.Module)
    return inner


@contextmanager
def undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Turns on gradients and eval mode, runs compiled code as plain Python, and restores modes and random state."""
    modes = [(module, module.training) for module in model.modules()]
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(cuda), torch.inference_mode(False), torch.enable_grad(), _without_compiled_code():
        try:
            # Not model.eval(), because in some models it does more than set the flag.
            for module, _ in modes:
                module.training = False
            yield
        finally:
            for module, mode in modes:
                module.training = mode


def _without_compiled_code() -> AbstractContextManager[object]:
    """A context in which compiled modules run as plain Python, because hooks do not run in compiled code."""
    # Importing dynamo takes seconds. If nobody has imported it, no module is compiled.
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def _run(model: nn.Module, images: Tensor, modules: Mapping[str, nn.Module]) -> tuple[Tensor, dict[str, Tensor]]:
    """The logits and the layers' outputs, in the order of `modules`, as they were when each layer returned."""
    logits, outputs, versions = _forward(model, images, modules, copied=False)
    if any(output._version != versions[name] for name, output in outputs.items()):
        logits, outputs, _ = _forward(model, images, modules, copied=True)
    for name in modules:
        if name not in outputs:
            raise ValueError(f"layer {name!r} does not run in the forward pass; choose a layer that does")
    return logits, {name: outputs[name] for name in modules}


def _forward(
    model: nn.Module, images: Tensor, modules: Mapping[str, nn.Module], *, copied: bool
) -> tuple[Tensor, dict[str, Tensor], dict[str, int]]:
    """The logits, and each layer's output with its version; `copied` protects the outputs from later changes."""
    outputs: dict[str, Tensor] = {}
    versions: dict[str, int] = {}

    def keep(name: str, module: nn.Module, args: object, output: object) -> Tensor | None:
        if name in outputs:
            raise ValueError(f"layer {name!r} runs more than once in one forward pass; choose a module that runs once")
        if not isinstance(output, Tensor) or output.ndim == 0 or len(output) != len(images):
            raise ValueError(f"layer {name!r} gives {_shape(output)}, not a map (n, c, h, w); choose another layer")
        outputs[name] = output.clone() if copied else output
        versions[name] = output._version
        return outputs[name].clone() if copied else None

    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.enter_context(module.register_forward_hook(partial(keep, name)))
        # A copy, because some models change their input in place; here it is a leaf and may be needed again.
        logits = model(images.clone())
    return logits, outputs, versions


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
    outputs: Mapping[str, Tensor], gradients: Mapping[str, Tensor], logits: Tensor, reshape: Reshape | None
) -> Evidence:
    """The evidence as detached float32 maps; ValueError for an output that is not a map or not finite."""
    evidence = Evidence(
        {name: _map(name, output.detach(), reshape) for name, output in outputs.items()},
        {name: _map(name, gradient, reshape) for name, gradient in gradients.items()},
        logits.detach().float(),
    )
    _check_finite(evidence)
    return evidence


def _map(name: str, output: Tensor, reshape: Reshape | None) -> Tensor:
    """A layer's output, or its gradient, as a float32 map."""
    found = output if reshape is None else reshape(output)
    if not isinstance(found, Tensor) or found.ndim != 4 or len(found) != len(output):
        way_out = "choose another layer, or give reshape" if reshape is None else "correct reshape"
        raise ValueError(f"layer {name!r} gives {_shape(found)}, not a map (n, c, h, w); {way_out}")
    return found.float()


def _check_logits(logits: object, count: int) -> None:
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != count:
        raise ValueError(f"the model must return logits ({count}, classes), got {_shape(logits)}")


def _check_finite(evidence: Evidence) -> None:
    kinds = {"activations": evidence.activations, "gradients": evidence.gradients}
    # A sum is cheap and finite only if all its values are, and reading all sums at once waits for a GPU only once. If a
    # sum overflows, the check of each value decides.
    sums = [value.sum() for values in kinds.values() for value in values.values()]
    if torch.stack(sums).isfinite().all():
        return
    for kind, values in kinds.items():
        for name, value in values.items():
            broken = int((~value.isfinite().flatten(1).all(1)).sum())
            if broken:
                raise ValueError(
                    f"the {kind} of layer {name!r} contain NaN or infinity for {broken} of {len(value)} images; "
                    "check the images, the weights and the precision"
                )


def _shape(output: object) -> str:
    return f"a tensor {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"

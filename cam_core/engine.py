"""Maps of a whole batch, for several layers and methods, from one forward and one backward pass per chunk."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from cam_core.capture import Evidence, capture, checked, observe
from cam_core.inputs import Reshapes
from cam_core.maps import finish
from cam_core.methods import EIGEN_SMOOTHED, METHODS, WITHOUT_GRADIENTS, eigen_smoothed, summed
from cam_core.models import Layer
from cam_core.names import Spec, specs_of
from cam_core.outputs import Output
from cam_core.perturbation import PERTURBATION_METHODS
from cam_core.targets import PlainTarget, Target, settled, take

VIEWS = ((False, 1.0), (False, 0.9), (False, 1.1), (True, 1.0), (True, 0.9), (True, 1.1))
"""The views that `aug_smooth` averages, as in grad-cam: mirrored or not, and a factor for the pixels."""


@dataclass(frozen=True)
class Cams:
    """The maps of one method, for every image and every layer, at input size.

    `maps` are in [0, 1]: ReLU, bilinear resize, division by the map's own maximum; a map without positive evidence is
    zero (dead). `strength` is the maximum before the division, in units of the target, and 0 for a dead map; do not
    compare it between layers. With `aug_smooth` both are means over the views. `grids` contains the resolution (rows,
    columns) of each layer, which `focus_index` needs. All tensors are on the device of the images.
    """

    maps: Float32[Tensor, "layers n *size"]
    strength: Float32[Tensor, "layers n"]
    logits: Float32[Tensor, "n k"]
    layers: tuple[str, ...]
    grids: tuple[tuple[int, ...], ...]
    method: str


def cams(
    model: nn.Module,
    images: Float[Tensor, "n channels *size"],
    layers: Sequence[Layer],
    target: Target,
    *,
    method: str = "gradcam",
    chunk: int = 64,
    reshape: Reshapes = None,
    output: Output | None = None,
) -> Cams:
    """The maps of one method that explain the `target` of each image, for example the logit of a class.

    See `cams_of_methods` for the arguments.
    """
    (found,) = cams_of_methods(
        model, images, layers, target, methods=[method], chunk=chunk, reshape=reshape, output=output
    ).values()
    return found


def cams_of_methods(
    model: nn.Module,
    images: Float[Tensor, "n channels *size"],
    layers: Sequence[Layer],
    target: Target,
    *,
    methods: Sequence[str],
    chunk: int = 64,
    reshape: Reshapes = None,
    output: Output | None = None,
) -> dict[str, Cams]:
    """The maps of several methods by name, all from the same forward and backward pass.

    `images` are the model's input, `layers` are dotted module names (`auto_layers` finds some), `target` is a class per
    image or another target of `cam_core.targets`, and `methods` are names as in the README. `scorecam` and
    `ablationcam` need one more forward pass per channel; `:aug_smooth` multiplies all passes by six. `chunk` images at
    a time go to the model's device, and their maps come back to the device of `images`. Use `iter_cams` if the maps of
    all images do not fit into memory. The memory of `scorecam` and `ablationcam` does not grow with `chunk`.

    Raises ValueError for an unknown method, for a chunk below 1, and in the cases of `capture`.
    """
    parts = list(iter_cams(model, images, layers, target, methods=methods, chunk=chunk, reshape=reshape, output=output))
    return {name: _joined([part[name] for part in parts]) for name in parts[0]}


def iter_cams(
    model: nn.Module,
    images: Float[Tensor, "n channels *size"],
    layers: Sequence[Layer],
    target: Target,
    *,
    methods: Sequence[str] = ("gradcam",),
    chunk: int = 64,
    reshape: Reshapes = None,
    output: Output | None = None,
) -> Iterator[dict[str, Cams]]:
    """The same, `chunk` images at a time, so memory does not grow with the number of images.

    The arguments are checked immediately, not with the first chunk; classes out of range raise in their chunk.
    """
    names, goal = checked(model, images, layers, target)
    specs = specs_of(methods)
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1 image, got {chunk}")
    return (
        _explained(model, images[indices], names, take(goal, indices), specs, reshape, output)
        for indices in torch.split(torch.arange(len(images), device=images.device), chunk)
    )


def _explained(
    model: nn.Module,
    images: Tensor,
    layers: Sequence[str],
    target: PlainTarget,
    specs: Sequence[Spec],
    reshape: Reshapes,
    output: Output | None,
) -> dict[str, Cams]:
    """The maps of a chunk: plain methods use the original images, smoothed ones are averaged over the views."""
    plain = _of_one_view(model, images, layers, target, specs, reshape, output)
    smoothed = [spec for spec in specs if "aug_smooth" in spec.smoothings]
    if not smoothed:
        return plain
    target = settled(target, plain[smoothed[0].name].logits)  # all views use the prediction for the original image
    views = [plain]
    for mirrored, factor in VIEWS[1:]:
        seen = (images.flip(-1) if mirrored else images) * factor
        found = _of_one_view(model, seen, layers, target, smoothed, reshape, output)
        views.append({name: _mirrored(maps) for name, maps in found.items()} if mirrored else found)
    return plain | {spec.name: _mean([view[spec.name] for view in views]) for spec in smoothed}


def _of_one_view(
    model: nn.Module,
    images: Tensor,
    layers: Sequence[str],
    target: PlainTarget,
    specs: Sequence[Spec],
    reshape: Reshapes,
    output: Output | None,
) -> dict[str, Cams]:
    """All methods for these images: one capture, and more forward passes for the methods that need them."""
    gradients_needed = any(spec.base in METHODS and spec.base not in WITHOUT_GRADIENTS for spec in specs)
    evidence = (capture if gradients_needed else observe)(model, images, layers, target, reshape=reshape, output=output)
    weights = {
        base: weigh(model, images, evidence, target)
        for base, weigh in PERTURBATION_METHODS.items()
        if any(spec.base == base for spec in specs)
    }
    size = tuple(images.shape[2:])
    # Autocast would lower the precision of matrix products.
    with torch.no_grad(), torch.autocast(evidence.logits.device.type, enabled=False):
        return {
            spec.name: _cams(_raw(evidence, spec, weights), evidence, spec.name, size, images.device) for spec in specs
        }


def _raw(evidence: Evidence, spec: Spec, weights: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The signed maps of one method at the resolution of each layer."""
    return {name: _raw_of_layer(evidence, name, spec, weights) for name in evidence.activations}


def _raw_of_layer(
    evidence: Evidence, name: str, spec: Spec, weights: Mapping[str, Mapping[str, Tensor]]
) -> Float32[Tensor, "n *grid"]:
    found = evidence.activations[name]
    # Methods work on positions in rows and columns; those of signals and volumes are put into one row.
    activations = found if found.ndim == 4 else found.flatten(2)[:, :, None]
    if spec.base in weights:
        reduce = eigen_smoothed if "eigen_smooth" in spec.smoothings else summed
        raw = reduce(weights[spec.base][name][:, :, None, None] * activations)
    else:
        method = (EIGEN_SMOOTHED if "eigen_smooth" in spec.smoothings else METHODS)[spec.base]
        # A method without gradients ignores this argument, so the activations take their place.
        gradients = evidence.gradients.get(name, found).reshape(activations.shape)
        raw = method(activations, gradients)
    return raw.reshape(len(found), *found.shape[2:])


def _cams(
    raw: Mapping[str, Tensor], evidence: Evidence, method: str, size: tuple[int, ...], device: torch.device
) -> Cams:
    finished = [finish(maps, size) for maps in raw.values()]
    return Cams(
        maps=torch.stack([maps.to(device) for maps, _ in finished]),
        strength=torch.stack([strength.to(device) for _, strength in finished]),
        logits=evidence.logits.to(device),
        layers=tuple(raw),
        grids=tuple(tuple(act.shape[2:]) for act in evidence.activations.values()),
        method=method,
    )


def _mirrored(found: Cams) -> Cams:
    return replace(found, maps=found.maps.flip(-1))


def _mean(views: Sequence[Cams]) -> Cams:
    """The mean of the views' maps, not scaled again; the logits are those of the original images."""
    maps = torch.stack([view.maps for view in views]).mean(0)
    return replace(views[0], maps=maps, strength=torch.stack([view.strength for view in views]).mean(0))


def _joined(parts: Sequence[Cams]) -> Cams:
    """The chunks as one batch."""
    return replace(
        parts[0],
        maps=torch.cat([part.maps for part in parts], dim=1),
        strength=torch.cat([part.strength for part in parts], dim=1),
        logits=torch.cat([part.logits for part in parts]),
    )

"""Maps of a whole batch, for several layers and several methods, from one forward and one backward pass per chunk."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor, nn

from cam_core.capture import Evidence, capture, check_inputs, near_miss
from cam_core.maps import finish
from cam_core.methods import METHODS


@dataclass(frozen=True)
class Cams:
    """The maps of one method: of every image at every layer, at input size.

    `maps` are in [0, 1]: ReLU, bilinear resize, divided by their own maximum; a map without positive evidence is zero.
    `strength` is the maximum before that division, in units of the logit (0 for such a dead map); not to be compared
    between layers. `grids` holds each layer's own resolution, (rows, columns), which `focus_index` wants to know. All
    tensors are on the device of the images.
    """

    maps: Float32[Tensor, "layers n h w"]
    strength: Float32[Tensor, "layers n"]
    logits: Float32[Tensor, "n k"]
    layers: tuple[str, ...]
    grids: tuple[tuple[int, int], ...]
    method: str


def cams(
    model: nn.Module,
    images: Float[Tensor, "n channels height width"],
    layers: Sequence[str],
    classes: Int[Tensor, " n"],
    *,
    method: str = "gradcam",
    chunk: int = 64,
) -> Cams:
    """The maps of one method (a key of `METHODS`) that explain the logit `classes[i]` of each image `i`.

    As `cams_of_methods`, which says more.
    """
    return cams_of_methods(model, images, layers, classes, methods=[method], chunk=chunk)[method]


def cams_of_methods(
    model: nn.Module,
    images: Float[Tensor, "n channels height width"],
    layers: Sequence[str],
    classes: Int[Tensor, " n"],
    *,
    methods: Sequence[str],
    chunk: int = 64,
) -> dict[str, Cams]:
    """The maps of several methods by name, all from the same forward and backward pass.

    `chunk` images at a time go to the model's device and their maps come back to the device of `images`, so memory
    beyond the result does not grow with n. `images` are what the model takes, `layers` dotted module names.

    Raises ValueError for an unknown method, a chunk below 1 and whatever `capture` raises for.
    """
    check_inputs(images, layers, classes)
    _check_methods(methods)
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1 image, got {chunk}")
    size = (images.shape[2], images.shape[3])
    parts: dict[str, list[Cams]] = {method: [] for method in methods}
    for some_images, some_classes in zip(torch.split(images, chunk), torch.split(classes, chunk), strict=True):
        evidence = capture(model, some_images, layers, some_classes)
        for method in methods:
            parts[method].append(_cams_of_evidence(evidence, method, size, images.device))
    return {method: _joined(some) for method, some in parts.items()}


def _check_methods(methods: Sequence[str]) -> None:
    for method in methods:
        if method not in METHODS:
            raise ValueError(f"method {method!r} is unknown{near_miss(method, METHODS)} There are {', '.join(METHODS)}")
    if not methods:
        raise ValueError(f"methods is empty; choose from {', '.join(METHODS)}")


def _cams_of_evidence(evidence: Evidence, method: str, size: tuple[int, int], device: torch.device) -> Cams:
    finished = [
        finish(METHODS[method](activations, evidence.gradients[name]), size)
        for name, activations in evidence.activations.items()
    ]
    return Cams(
        maps=torch.stack([maps for maps, _ in finished]).to(device),
        strength=torch.stack([strength for _, strength in finished]).to(device),
        logits=evidence.logits.to(device),
        layers=tuple(evidence.activations),
        grids=tuple((act.shape[2], act.shape[3]) for act in evidence.activations.values()),
        method=method,
    )


def _joined(parts: Sequence[Cams]) -> Cams:
    """The chunks as one batch."""
    return Cams(
        maps=torch.cat([part.maps for part in parts], dim=1),
        strength=torch.cat([part.strength for part in parts], dim=1),
        logits=torch.cat([part.logits for part in parts]),
        layers=parts[0].layers,
        grids=parts[0].grids,
        method=parts[0].method,
    )

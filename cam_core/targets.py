"""Targets of explanations: one number per image, computed from its logits.

A target is a class per image (an integer tensor `(n,)`), a `Contrast` of two classes per image, or any differentiable
function of the logits, `(n, k) -> (n,)`, that treats each image on its own, as `predicted` does. No target needs an
additional pass.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Contrast:
    """Explains why `classes[i]` rather than `others[i]`: the difference of the two logits; both are `(n,)`."""

    classes: Int[Tensor, " n"]
    others: Int[Tensor, " n"]


Target = Int[Tensor, " _"] | Contrast | Callable[[Float[Tensor, "_ _"]], Float[Tensor, " _"]]


def predicted(logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """The highest logit of each image: explains the class that the network predicts."""
    return logits.max(1).values


def scores(target: Target, logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """The explained number of each image; ValueError if a class is out of range or a callable does not give `(n,)`."""
    if isinstance(target, Contrast):
        return _of_classes(target.classes, logits) - _of_classes(target.others, logits)
    if isinstance(target, Tensor):
        return _of_classes(target, logits)
    found: object = target(logits)
    if not isinstance(found, Tensor) or found.shape != logits.shape[:1]:
        got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"target must turn logits {tuple(logits.shape)} into ({len(logits)},), one each, got {got}")
    return found


def settled(target: Target, logits: Float[Tensor, "n k"]) -> Target:
    """The target; `predicted` becomes the classes that these logits predict, so it does not change for other images."""
    return logits.argmax(1) if target is predicted else target


def take(target: Target, indices: Int[Tensor, " m"]) -> Target:
    """The target of these images, in this order; an image may occur more than once."""
    if isinstance(target, Contrast):
        return Contrast(_taken(target.classes, indices), _taken(target.others, indices))
    return _taken(target, indices) if isinstance(target, Tensor) else target


def check_target(target: object, count: int) -> None:
    """Checks a target; raises TypeError if it is none, ValueError if it is not one whole number per image."""
    if isinstance(target, Contrast):
        _check_classes("target.classes", target.classes, count)
        _check_classes("target.others", target.others, count)
    elif isinstance(target, Tensor):
        _check_classes("target", target, count)
    elif not callable(target):
        raise TypeError(
            f"target must be a tensor of classes, a Contrast or a function of the logits, got {type(target).__name__}; "
            "torch.as_tensor(target) makes a tensor of a list"
        )


def _check_classes(name: str, classes: object, count: int) -> None:
    if not isinstance(classes, Tensor):
        raise TypeError(f"{name} must be a tensor of classes, got {type(classes).__name__}; use torch.as_tensor")
    if classes.shape != (count,) or classes.is_floating_point() or classes.dtype == torch.bool:
        raise ValueError(
            f"{name} must be {count} whole numbers, one class per image, got {classes.dtype} {tuple(classes.shape)}"
        )


def _of_classes(classes: Tensor, logits: Tensor) -> Tensor:
    count = logits.shape[1]
    outside = classes[(classes < 0) | (classes >= count)]
    if len(outside):
        raise ValueError(
            f"target contains class {int(outside[0])}, but the model has {count} classes: 0 to {count - 1}"
        )
    # A copy, because tensors made in inference_mode cannot take part in a backward pass.
    return logits.gather(1, classes.to(logits.device, torch.int64, copy=True)[:, None])[:, 0]


def _taken(classes: Tensor, indices: Tensor) -> Tensor:
    return classes[indices.to(classes.device)]

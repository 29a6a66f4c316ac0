"""Targets of explanations: one number per image, computed from its logits.

A target is a class for all images (a whole number), a class per image (a list, an array or an integer tensor `(n,)`),
None for what the network predicts, a `Contrast` of two classes per image, a differentiable function of the logits,
`(n, k) -> (n,)`, that treats each image on its own, or a list with one function `(k,) -> ()` per image. No target needs
an additional pass.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Contrast:
    """Explains why `classes[i]` rather than `others[i]`: the difference of the two logits; both are `(n,)`."""

    classes: Int[Tensor, " n"]
    others: Int[Tensor, " n"]


@dataclass(frozen=True)
class PerImage:
    """One function per image, from its logits `(k,)` to the number that is explained."""

    functions: tuple[Callable[[Float[Tensor, " _"]], Float[Tensor, ""]], ...]

    def __call__(self, logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
        found = [function(row) for function, row in zip(self.functions, logits, strict=True)]
        return torch.stack([_number(value) for value in found])


Classes = Int[Tensor, " _"]
PlainTarget = Classes | Contrast | Callable[[Float[Tensor, "_ _"]], Float[Tensor, " _"]]
"""What every other form of a target becomes first."""

Target = PlainTarget | int | Sequence[int] | Sequence[Callable[..., Any]] | np.ndarray | None


def predicted(logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """The highest logit of each image: explains the class that the network predicts."""
    return logits.max(1).values


def scores(target: PlainTarget, logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
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


def settled(target: PlainTarget, logits: Float[Tensor, "n k"]) -> PlainTarget:
    """The target; `predicted` becomes the classes that these logits predict, so it does not change for other images."""
    return logits.argmax(1) if target is predicted else target


def take(target: PlainTarget, indices: Int[Tensor, " m"]) -> PlainTarget:
    """The target of these images, in this order; an image may occur more than once."""
    if isinstance(target, Contrast):
        return Contrast(_taken(target.classes, indices), _taken(target.others, indices))
    if isinstance(target, PerImage):
        return PerImage(tuple(target.functions[index] for index in indices.tolist()))
    return _taken(target, indices) if isinstance(target, Tensor) else target


def as_target(target: object, count: int) -> PlainTarget:
    """The plain form of a target for so many images.

    Raises TypeError if it is none, ValueError if it is not one whole number or one function per image.
    """
    if target is None:
        return predicted
    if _is_whole(target):
        return torch.full((count,), int(target))  # type: ignore[call-overload]
    if isinstance(target, Contrast):
        return Contrast(*(_classes(f"target.{name}", getattr(target, name), count) for name in ("classes", "others")))
    if callable(target):
        return target
    if isinstance(target, Sequence) and not isinstance(target, str) and any(callable(one) for one in target):
        if len(target) != count or not all(callable(one) for one in target):
            raise ValueError(f"target must be one function for each of {count} images, got {len(target)} values")
        return PerImage(tuple(target))
    return _classes("target", target, count)


def _classes(name: str, classes: object, count: int) -> Classes:
    if _is_whole(classes):
        return torch.full((count,), int(classes))  # type: ignore[call-overload]
    if isinstance(classes, np.ndarray | list | tuple):
        classes = _tensor(name, classes)
    if not isinstance(classes, Tensor):
        raise TypeError(
            f"{name} must be a class, a list or tensor of classes, a Contrast, a function of the logits, or None for "
            f"what the network predicts, got {type(classes).__name__}"
        )
    if classes.shape != (count,) or classes.is_floating_point() or classes.dtype == torch.bool:
        raise ValueError(
            f"{name} must be {count} whole numbers, one class per image, got {classes.dtype} {tuple(classes.shape)}"
        )
    return classes


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _tensor(name: str, classes: Any) -> Tensor:
    try:
        return torch.as_tensor(np.asarray(classes))
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be whole numbers, one class per image, got {classes!r}") from None


def _number(value: object) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(f"each function in target must turn logits (k,) into one number, got {got}")
    return value.reshape(())


def _of_classes(classes: Tensor, logits: Tensor) -> Tensor:
    count = logits.shape[1]
    outside = classes[(classes < 0) | (classes >= count)]
    if len(outside):
        raise ValueError(
            f"target contains class {int(outside[0])}, but the model has {count} classes: 0 to {count - 1}"
            + ("; for the other side of a head with one logit give lambda logits: -logits[:, 0]" if count == 1 else "")
        )
    # A copy, because tensors made in inference_mode cannot take part in a backward pass.
    return logits.gather(1, classes.to(logits.device, torch.int64, copy=True)[:, None])[:, 0]


def _taken(classes: Tensor, indices: Tensor) -> Tensor:
    return classes[indices.to(classes.device)]

"""Targets of explanations: one number per image, computed from its logits.

A target is a class for all images (a whole number), a class per image (a list, an array or an integer tensor `(n,)`),
None for what the network predicts, a `Contrast` of a class with others, a differentiable function of the logits,
`(n, k) -> (n,)`, that treats each image on its own, or a list with one function `(k,) -> ()` per image. No target needs
an additional pass.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from cam_core.models import near_miss

Classes = Int[Tensor, "_ *_"]


@dataclass(frozen=True)
class Contrast:
    """Explains why `classes[i]` rather than `others[i]`: its logit minus `strength` times the mean logit of the others.

    `classes` are `(n,)`, and `others` are `(n,)` or several for each image, `(n, m)`. Without `classes`, they are what
    the network predicts. Without `others`, they are the `near` classes whose logits are closest to that of the class.
    This is Finer-CAM (Zhang et al., CVPR 2025, arXiv:2501.11309), with any method; torchcam's has a strength of 0.6.
    """

    classes: Classes | None = None
    others: Classes | None = None
    near: int = 3
    strength: float = 1.0


@dataclass(frozen=True)
class PerImage:
    """One function per image, from its logits `(k,)` to the number that is explained."""

    functions: tuple[Callable[[Float[Tensor, " _"]], Float[Tensor, ""]], ...]

    def __call__(self, logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
        found = [function(row) for function, row in zip(self.functions, logits, strict=True)]
        return torch.stack([_number(value) for value in found])


PlainTarget = Classes | Contrast | Callable[[Float[Tensor, "_ _"]], Float[Tensor, " _"]]
"""What every other form of a target becomes first."""

Target = PlainTarget | int | Sequence[int] | Sequence[Callable[..., Any]] | np.ndarray | None


def predicted(logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """The highest logit of each image: explains the class that the network predicts."""
    return logits.max(1).values


def class_numbers(names: str | Sequence[str], classes: Sequence[str]) -> int | list[int]:
    """The numbers of classes by their names, as a target: of one name, or of one name per image.

    `classes` are the names of all classes in the order of the logits, such as `weights.meta["categories"]` of
    torchvision. Raises ValueError for a name that none or several of them have, with the closest one.
    """
    if not isinstance(names, str):
        return [_class_number(name, classes) for name in names]
    return _class_number(names, classes)


def _class_number(name: str, classes: Sequence[str]) -> int:
    found = [number for number, other in enumerate(classes) if other == name]
    if not found:
        raise ValueError(f"class {name!r} is unknown{near_miss(name, classes)}; the model has {len(classes)} classes")
    if len(found) > 1:
        raise ValueError(f"class {name!r} is the name of several classes; give one of the numbers {found}")
    return found[0]


def scores(target: PlainTarget, logits: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """The explained number of each image; ValueError if a class is out of range or a callable does not give `(n,)`."""
    if isinstance(target, Contrast):
        classes, others = _sides(target, logits)
        return _of_classes(classes, logits) - target.strength * _of_classes(others, logits).view(len(logits), -1).mean(
            1
        )
    if isinstance(target, Tensor):
        return _of_classes(target, logits)
    found: object = target(logits)
    if not isinstance(found, Tensor) or found.shape != logits.shape[:1]:
        got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"target must turn logits {tuple(logits.shape)} into ({len(logits)},), one each, got {got}")
    return found


def settled(target: PlainTarget, logits: Float[Tensor, "n k"]) -> PlainTarget:
    """The target with the classes that these logits predict, and that are near, so it is the same for other images."""
    if isinstance(target, Contrast):
        classes, others = _sides(target, logits)
        return replace(target, classes=classes, others=others)
    return logits.argmax(1) if target is predicted else target


def _sides(target: Contrast, logits: Tensor) -> tuple[Tensor, Tensor]:
    """The class of each image, `(n,)`, and those that it is held against, `(n, m)` or `(n,)`."""
    classes = logits.argmax(1) if target.classes is None else target.classes.to(logits.device)
    if target.others is not None:
        return classes, target.others
    if logits.shape[1] < 2:
        raise ValueError("Contrast needs a model of two classes or more; for one logit give a class, or a function")
    distance = (logits - _of_classes(classes, logits)[:, None]).abs().scatter(1, classes.long()[:, None], math.inf)
    return classes, distance.topk(min(target.near, logits.shape[1] - 1), largest=False).indices


def take(target: PlainTarget, indices: Int[Tensor, " m"]) -> PlainTarget:
    """The target of these images, in this order; an image may occur more than once."""
    if isinstance(target, Contrast):
        classes, others = (
            None if some is None else some[indices.to(some.device)] for some in (target.classes, target.others)
        )
        return replace(target, classes=classes, others=others)
    if isinstance(target, PerImage):
        return PerImage(tuple(target.functions[index] for index in indices.tolist()))
    return target[indices.to(target.device)] if isinstance(target, Tensor) else target


def as_target(target: object, count: int) -> PlainTarget:
    """The plain form of a target for so many images.

    Raises TypeError if it is none, ValueError if it is not one whole number or one function per image.
    """
    if target is None:
        return predicted
    if _is_whole(target):
        return torch.full((count,), int(target))  # type: ignore[call-overload]
    if isinstance(target, Contrast):
        return _checked_contrast(target, count)
    if callable(target):
        return target
    if isinstance(target, Sequence) and not isinstance(target, str) and any(callable(one) for one in target):
        if len(target) != count or not all(callable(one) for one in target):
            raise ValueError(f"target must be one function for each of {count} images, got {len(target)} values")
        return PerImage(tuple(target))
    return _classes("target", target, count)


def _checked_contrast(target: Contrast, count: int) -> Contrast:
    if not _is_whole(target.near) or target.near < 1:
        raise ValueError(f"target.near must be 1 class or more, got {target.near!r}")
    classes = None if target.classes is None else _classes("target.classes", target.classes, count)
    others = None if target.others is None else _classes("target.others", target.others, count, several=True)
    return replace(target, classes=classes, others=others)


def _classes(name: str, classes: object, count: int, *, several: bool = False) -> Classes:
    if _is_whole(classes):
        return torch.full((count,), int(classes))  # type: ignore[call-overload]
    if isinstance(classes, np.ndarray | list | tuple):
        classes = _tensor(name, classes)
    if not isinstance(classes, Tensor):
        raise TypeError(
            f"{name} must be a class, a list or tensor of classes, a Contrast, a function of the logits, or None for "
            f"what the network predicts, got {type(classes).__name__}; class_numbers makes numbers of names"
        )
    shape = (count, *classes.shape[1:]) if several and classes.ndim == 2 and classes.shape[1] else (count,)
    if classes.shape != shape or classes.is_floating_point() or classes.dtype == torch.bool:
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
    outside = classes[(classes < 0) | (classes >= count)].flatten()
    if len(outside):
        raise ValueError(
            f"target contains class {int(outside[0])}, but the model has {count} classes: 0 to {count - 1}"
            + ("; for the other side of a head with one logit give lambda logits: -logits[:, 0]" if count == 1 else "")
        )
    # A copy, because tensors made in inference_mode cannot take part in a backward pass.
    return logits.gather(1, classes.to(logits.device, torch.int64, copy=True).view(len(logits), -1)).view(classes.shape)

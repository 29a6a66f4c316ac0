"""The tensors inside what modules return: a tensor, or a tuple, list, dictionary or dataclass that holds some."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

Output = Callable[[Any], Tensor]
"""Takes the logits out of what a model returns."""

_LOGITS = ("logits", "out", "scores", "output", "pred", "predictions")


def tensors_in(output: object) -> Iterator[Tensor]:
    """All tensors of an output, in its order."""
    if isinstance(output, Tensor):
        yield output
    for value in _parts(output):
        yield from tensors_in(value)


def map_in(output: object, count: int) -> Tensor | None:
    """The first tensor with one row per image and positions; else the first tensor; None if there is none."""
    every = [tensor for tensor in tensors_in(output) if tensor.is_floating_point()]
    of_images = [tensor for tensor in every if tensor.ndim > 2 and len(tensor) == count]
    return next(iter(of_images or every), None)


def with_tensor(output: Any, old: Tensor, new: Tensor) -> Any:
    """The output with one of its tensors replaced."""
    if output is old:
        return new
    if isinstance(output, Mapping):
        changed = {key: with_tensor(value, old, new) for key, value in output.items()}
        return changed if type(output) is dict else type(output)(**changed)
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        fields = {
            field.name: with_tensor(getattr(output, field.name), old, new) for field in dataclasses.fields(output)
        }
        return dataclasses.replace(output, **fields)
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(*(with_tensor(value, old, new) for value in output))
    if isinstance(output, tuple | list):
        return type(output)(with_tensor(value, old, new) for value in output)
    return output


def logits_in(output: Any, chosen: Output | None) -> object:
    """The logits of a model's output: by `chosen`, or the tensor, or what is named logits, or the first of a tuple."""
    if chosen is not None:
        return chosen(output)
    for name in _LOGITS:
        found = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
        if isinstance(found, Tensor) and not isinstance(output, Tensor):
            return found
    if isinstance(output, tuple | list) and output:
        return output[0]
    return output


def _parts(output: object) -> list[object]:
    if isinstance(output, Mapping):
        return list(output.values())
    if isinstance(output, tuple | list):
        return list(output)
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        return [getattr(output, field.name) for field in dataclasses.fields(output)]
    return []

"""The default layers of a model: the last layer at each resolution."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cam_core.capture import check_images, device_of, named_layers, undisturbed

# Modules that only pass a map on, or make it smaller, do not count as layers.
_PASSING_ON = (
    nn.MaxPool2d,
    nn.AvgPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.Dropout,
    nn.Dropout2d,
    nn.Identity,
)


def auto_layers(model: nn.Module, images: Float[Tensor, "n channels height width"]) -> tuple[str, ...]:
    """One layer per resolution stage, from shallow to deep, found with one forward pass of one image.

    In each stage it is the last of the least nested modules whose output is a map of that size: for a ResNet, the stem
    and `layer1` to `layer4`. Poolings, modules that run more than once and maps of one pixel do not count, and neither
    do outputs without the proportions of the images, such as tokens.

    Raises ValueError if the output of no layer is a map.
    """
    check_images(images)
    grids = {name: grid for name, grid in _grids(model, images[:1]) if _alike(grid, (images.shape[2], images.shape[3]))}
    stages: dict[tuple[int, int], str] = {}
    for name, grid in grids.items():
        if grid not in stages or name.count(".") <= stages[grid].count("."):
            stages[grid] = name
    if not stages:
        raise ValueError("no layer of the model gives a map (n, c, h, w); name layers, and give reshape for tokens")
    sizes = sorted(stages, reverse=True)
    # A convolution without padding makes a map a little smaller, which is no new stage.
    kept = [size for size, finer in zip(sizes, [*sizes[1:], (0, 0)], strict=True) if max(finer) < 0.7 * max(size)]
    return tuple(stages[size] for size in kept)


def _grids(model: nn.Module, image: Tensor) -> list[tuple[str, tuple[int, int]]]:
    """The name and the (rows, columns) of every module that runs once and gives a map, in the order they finish."""
    found: list[tuple[str, tuple[int, int]]] = []
    runs: dict[str, int] = {}

    def note(name: str, module: nn.Module, args: object, output: object) -> None:
        runs[name] = runs.get(name, 0) + 1
        if isinstance(output, Tensor) and output.ndim == 4 and not isinstance(module, _PASSING_ON):
            found.append((name, (output.shape[2], output.shape[3])))

    device = device_of(model, image)
    with undisturbed(model, device), torch.no_grad(), ExitStack() as hooks:
        for name, module in named_layers(model).items():
            hook: Callable[..., None] = partial(note, name)
            hooks.enter_context(module.register_forward_hook(hook))
        model(image.detach().to(device).clone())
    return [(name, grid) for name, grid in found if runs[name] == 1 and max(grid) > 1]


def _alike(grid: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether the grid covers an image of that size, so that its two strides are the same up to rounding."""
    rows, columns = size[0] / grid[0], size[1] / grid[1]
    return rows >= 1 and columns >= 1 and abs(rows - columns) <= max(rows / grid[0], columns / grid[1])

"""Which layers to look at where nobody has said: the last one at each resolution."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cam_core.capture import check_images, device_of, named_layers, undisturbed

# What passes a map on, smaller at most, is no layer of its own.
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
    """One layer per resolution stage, shallow to deep, found by one forward pass of one image.

    Of each stage it is the last module that puts out a map of that size, among those nested least: of a ResNet the stem
    and `layer1` to `layer4`. Poolings, modules that run more than once and maps of one pixel do not count; nor do
    outputs of another shape than the images', such as tokens.

    Raises ValueError where no layer puts out a map.
    """
    check_images(images)
    grids = {name: grid for name, grid in _grids(model, images[:1]) if _alike(grid, (images.shape[2], images.shape[3]))}
    stages: dict[tuple[int, int], str] = {}
    for name, grid in grids.items():
        if grid not in stages or name.count(".") <= stages[grid].count("."):
            stages[grid] = name
    if not stages:
        raise ValueError("no layer of the model puts out a map (n, c, h, w); name layers, and give reshape for tokens")
    sizes = sorted(stages, reverse=True)
    # A convolution without padding shrinks a map a little: that is no new stage.
    kept = [size for size, finer in zip(sizes, [*sizes[1:], (0, 0)], strict=True) if max(finer) < 0.7 * max(size)]
    return tuple(stages[size] for size in kept)


def _grids(model: nn.Module, image: Tensor) -> list[tuple[str, tuple[int, int]]]:
    """The name and the (rows, columns) of every module that runs once and puts out a map, in the order they finish."""
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
    """Whether the grid covers an image of that size: its two strides differ by rounding only."""
    rows, columns = size[0] / grid[0], size[1] / grid[1]
    return rows >= 1 and columns >= 1 and abs(rows - columns) <= max(rows / grid[0], columns / grid[1])

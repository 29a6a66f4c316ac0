"""How a layer's output holds channels and positions: read from its shape and from the operations around it, or refused.

Nothing is guessed from the shape alone. The operations next to the output say which axis holds the channels: a
convolution or a BatchNorm reads axis 1, a LayerNorm or a linear layer the last one. Without such operations the network
is run at another size, where the axes of positions change.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, prod
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from cam_core.graph import Graph
from cam_core.inputs import axes_of
from cam_core.models import call_of
from cam_core.outputs import Output
from cam_core.tracing import Call, shapes_at, traced

SKIPPED = 16
"""The largest number of class and register tokens before the tokens of the positions."""

Size = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Where a layer's output holds its channels and its positions.

    `channels` is the axis of the channels, `grid` the number of positions along each axis of the image, and `skipped`
    the number of tokens before the first position: class, distillation and register tokens.
    """

    channels: int
    grid: Size
    skipped: int = 0

    def __call__(self, output: Tensor) -> Tensor:
        """The output as `(n, c, *grid)`; a view of it, or itself."""
        found = output if self.channels == 1 else output.movedim(self.channels, 1)
        if found.ndim == 2 + len(self.grid) and not self.skipped:
            return found
        return found[..., self.skipped :].unflatten(2, self.grid)  # type: ignore[no-untyped-call]


_READ: "WeakKeyDictionary[nn.Module, dict[tuple[Size, Size], Layout]]" = WeakKeyDictionary()
"""What was found, by module and by the shapes of the images and of its output, without their number."""


def known_layout(module: nn.Module, images: Tensor, shape: Size) -> Layout | None:
    """The layout of a module's output that an earlier call has found."""
    return _READ.get(module, {}).get((tuple(images.shape[1:]), tuple(shape[1:])))


def remember(module: nn.Module, images: Tensor, shape: Size, layout: Layout) -> None:
    """Keeps a layout for later calls."""
    _READ.setdefault(module, {})[tuple(images.shape[1:]), tuple(shape[1:])] = layout


def read_layouts(
    model: nn.Module, images: Tensor, modules: Mapping[str, nn.Module], output: Output | None
) -> dict[str, Layout]:
    """The layouts of the outputs of these modules, from a forward pass of two images.

    Raises ValueError for an output whose layout nothing shows.
    """
    graph, calls = traced(model, images, modules, output)
    sides = tuple(images.shape[2:])
    found = {}
    for name in modules:
        own = [call for call in calls if call.name == name]
        call = own[call_of(name, len(own))]
        if not (call.edge and graph.depends_on_images(call.edge)):
            raise ValueError(f"layer {name!r} does not depend on the images; choose another layer")
        layout = layout_of(graph, call, sides)
        if layout is None:
            layout = _by_another_size(model, images, call)
        if layout is None:
            raise ValueError(unreadable(call.name, (len(images), *call.shape[1:]), len(sides)))
        found[call.name] = layout
        remember(modules[call.name], images, call.shape, layout)
    return found


def unreadable(name: str, shape: Size, rank: int) -> str:
    """The message for an output that is no map, or whose axes nothing explains."""
    if len(shape) == 3 or len(shape) == rank + 2:
        return (
            f"layer {name!r} gives a tensor {tuple(shape)}, and nothing shows which axis holds its channels and how "
            f"its positions lie; choose another layer, or give reshape, a function that makes it "
            f"(n, c, {axes_of(rank)})"
        )
    return (
        f"layer {name!r} gives a tensor {tuple(shape)}, not a map (n, c, {axes_of(rank)}); "
        "choose another layer, or give reshape"
    )


def layout_of(graph: Graph, call: Call, sides: Size) -> Layout | None:
    """The layout of an output by the operations around it; None if they do not say it."""
    if call.edge is None:
        return None
    axes = graph.channel_axes(call.edge, len(call.shape))
    if len(call.shape) != 3:
        return by_axes(call.shape, sides, axes)
    layout = by_axes(call.shape, sides, axes, graph.grids(call.edge, len(sides)))
    return layout if layout is not None and _in_order(graph, call, layout) else None


def by_axes(shape: Size, sides: Size, axes: Iterable[int], grids: Iterable[Size] = ()) -> Layout | None:
    """The layout of an output whose channels are on one of these axes; the grids are those of earlier convolutions."""
    earlier = list(grids)
    found = {axis: _reading(shape, sides, axis, earlier) for axis in sorted(set(axes))}
    readings = [layout for layout in found.values() if layout is not None]
    if len(readings) > 1:
        readings = [layout for layout in readings if alike(layout.grid, sides)]
    return readings[0] if len(readings) == 1 else None


def alike(grid: Size, sides: Size) -> bool:
    """Whether the grid covers an image with these sides, so that its strides are the same up to rounding.

    Up to three positions may be missing along a side, as behind convolutions without padding.
    """
    finest = max(side / (count + 3) for side, count in zip(sides, grid, strict=True))
    coarsest = min(side / max(count - 1, 1e-9) for side, count in zip(sides, grid, strict=True))
    return finest < coarsest and all(count <= side for side, count in zip(sides, grid, strict=True))


def _in_order(graph: Graph, call: Call, layout: Layout) -> bool:
    """Whether the tokens are the positions of an earlier map row by row, and not window by window."""
    assert call.edge is not None
    positions = graph.positions(call.edge, layout.grid)
    if positions is None or positions.shape != call.shape:
        return False
    expected = torch.arange(prod(layout.grid)).view(layout.grid)
    return bool((layout(positions)[0, 0] == expected).all())


def _reading(shape: Size, sides: Size, axis: int, grids: list[Size]) -> Layout | None:
    """The layout if the channels are on this axis."""
    if len(shape) == 3:
        found = _grid_of(shape[3 - axis], grids)
        return None if found is None else Layout(axis, found[1], found[0])
    if len(shape) != len(sides) + 2 or axis not in (1, len(shape) - 1):
        return None
    grid = shape[2:] if axis == 1 else shape[1:-1]
    # Channels last also in windows, whose axes are no rows and columns.
    return Layout(axis, grid) if axis == 1 or alike(grid, sides) else None


def _grid_of(count: int, grids: list[Size]) -> tuple[int, Size] | None:
    """The number of leading tokens and the grid of so many tokens, which is that of an earlier convolution."""
    fitting = [(count - prod(grid), grid) for grid in grids if 0 <= count - prod(grid) <= SKIPPED]
    return min(fitting, key=lambda pair: pair[0], default=None)


def _by_another_size(model: nn.Module, images: Tensor, call: Call) -> Layout | None:
    """The layout by the axes that change when the images are one and a half times as high."""
    other = stretched(images)
    shape = shapes_at(model, other, [call.name]).get(call.name)
    if shape is None or len(shape) != len(call.shape):
        return None
    fixed = {axis for axis in (1, len(shape) - 1) if shape[axis] == call.shape[axis]}
    layout = by_axes(call.shape, tuple(images.shape[2:]), fixed)
    return layout if layout is not None and follows(layout, shape, call.shape) else None


def follows(layout: Layout, shape: Size, before: Size) -> bool:
    """Whether an output has more positions along the one axis along which the other images are longer."""
    if len(shape) != len(before) or shape[layout.channels] != before[layout.channels]:
        return False
    if len(before) == 3:
        return shape[3 - layout.channels] > before[3 - layout.channels]
    grid = tuple(side for axis, side in enumerate(shape) if axis not in (0, layout.channels))
    return grid[0] > layout.grid[0] and grid[1:] == layout.grid[1:]


def stretched(images: Tensor) -> Tensor:
    """Images of another size and another ratio of sides: the first side is half as long again, or more."""
    side = images.shape[2]
    step = next((step for step in (32, 16, 8, 4, 2, 1) if side % step == 0), 1)
    longer = ceil(1.5 * side / step) * step
    shape = (*images.shape[:2], longer, *images.shape[3:])
    return torch.nn.functional.interpolate(images.float(), shape[2:], mode="nearest").to(images.dtype)


def merged(sizes: Iterable[Size]) -> list[list[Size]]:
    """Sizes of maps from fine to coarse, in stages: a convolution without padding makes no new stage."""
    ordered = sorted(set(sizes), key=max, reverse=True)
    stages = [ordered[:1]] if ordered else []
    for finer, coarser in pairwise(ordered):
        if max(coarser) < 0.7 * max(finer):
            stages.append([])
        stages[-1].append(coarser)
    return stages

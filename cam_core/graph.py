"""What the autograd graph of one forward pass says: which outputs all paths share, and where channels are."""

import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

Edge = tuple[Node, int]
"""One output of an operation: a tensor of the forward pass."""

Axes = tuple[int | None, ...]
"""For each axis of a tensor, the axis of the layer's output that it is; None where they do not correspond."""

_REARRANGING = {"View", "UnsafeView", "ReshapeAlias", "Permute", "Transpose", "T", "Clone", "Alias", "ToCopy", "Detach"}
_POINTWISE = {
    *("Add", "Sub", "Rsub", "Mul", "Div", "Neg", "Pow", "Sqrt", "Exp", "Clamp", "Where", "Addcmul", "NativeDropout"),
    *("Relu", "LeakyRelu", "Gelu", "Silu", "Hardswish", "Hardtanh", "Hardsigmoid", "Elu", "Sigmoid", "Tanh"),
    *("Softplus", "Mish", "Prelu", "PreluKernel", "Threshold", "LogSigmoid", "Erf"),
}
_OF_AXIS_1 = {"NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm", "BatchNorm", "NativeGroupNorm", "Convolution"} | {
    *("MkldnnConvolution", "CudnnConvolution", "SlowConv2D", "AdaptiveAvgPool2D", "AdaptiveAvgPool3D", "AvgPool2D"),
    *("AvgPool3D", "MaxPool2DWithIndices", "MaxPool3DWithIndices", "AdaptiveMaxPool2D", "AdaptiveMaxPool3D"),
    *("MkldnnAdaptiveAvgPool2D", "UpsampleBilinear2D", "UpsampleNearest2D", "UpsampleBicubic2D", "MaxPool1D"),
}
_OF_LAST_AXIS = {"NativeLayerNorm", "FusedRmsNorm", "LayerNorm"}
_PRODUCTS = {"Addmm", "Mm", "MkldnnLinear", "Linear"}
_NORMS = {"NativeBatchNorm", "CudnnBatchNorm", "MiopenBatchNorm", "BatchNorm", "NativeGroupNorm"} | _OF_LAST_AXIS
_OF_PARTS = {"Split", "SplitWithSizes", "Cat"}
_FAR = 200
"""The operations that a search for the channels looks at, at most."""


class Graph:
    """The operations between the images and the logits of one forward pass that was run with gradients."""

    def __init__(self, logits: Iterable[Tensor], images: Tensor) -> None:
        self._images = images
        self._ends = [edge for tensor in logits if (edge := edge_of(tensor)) is not None]
        self._order = list(_sorted_back({node for node, _ in self._ends}))
        self._known = set(self._order)
        self.images = next(((node, 0) for node in self._order if getattr(node, "variable", None) is images), None)

    @cached_property
    def _up(self) -> dict[Node, int]:
        """The number of paths from each operation to the images."""
        found: dict[Node, int] = {}
        for node in reversed(self._order):
            leaf = getattr(node, "variable", None) is self._images
            found[node] = int(leaf) + sum(found[other] for other, _ in _inputs(node))
        return found

    @cached_property
    def _down(self) -> dict[Edge, int]:
        """The number of paths from the logits to each tensor."""
        found: dict[Edge, int] = dict.fromkeys(self._ends, 1)
        for node in self._order:
            total = sum(found.get((node, index), 0) for index in range(max(1, len(_outputs(node)))))
            for edge in _inputs(node):
                found[edge] = found.get(edge, 0) + total
        return found

    @cached_property
    def _consumers(self) -> dict[Edge, list[Node]]:
        """The operations that read each tensor."""
        found: dict[Edge, list[Node]] = {}
        for node in self._order:
            for edge in _inputs(node):
                found.setdefault(edge, []).append(node)
        return found

    def depends_on_images(self, edge: Edge) -> bool:
        """Whether the tensor was computed from the images."""
        return self._up.get(edge[0], 0) > 0

    def is_shared(self, edge: Edge) -> bool:
        """Whether every path from the images to the logits goes through this tensor."""
        every = sum(self._up[node] for node, _ in self._ends)
        return every > 0 and self._down.get(edge, 0) * self._up.get(edge[0], 0) == every

    def is_pointwise(self, edge: Edge, source: Edge | None) -> bool:
        """Whether the tensor is computed from `source` position by position: 1 x 1 convolutions, norms, activations."""
        waiting, seen = [edge], {edge}
        while waiting:
            node, _ = current = waiting.pop()
            if current == source or self._up.get(node, 0) == 0:
                continue
            if node not in self._known or not _works_pointwise(node):
                return False
            for before in _inputs(node):
                if before not in seen:
                    seen.add(before)
                    waiting.append(before)
        return True

    def channel_axes(self, edge: Edge, ndim: int) -> set[int]:
        """The axes of a tensor that the nearest operations before and after it treat as channels; none if unknown."""
        axes: Axes = tuple(range(ndim))
        found = set(_walk(edge, axes, _producers)) | set(_walk(edge, axes, partial(_readers, self._consumers)))
        return found - {0}

    def grids(self, edge: Edge, rank: int) -> Iterator[tuple[int, ...]]:
        """The grids of the convolutions that the tensor was computed from, the nearest first."""
        waiting, seen = deque([edge[0]]), {edge[0]}
        while waiting:
            node = waiting.popleft()
            if name_of(node) in _OF_AXIS_1 and len(shape := _outputs(node)[0]) == rank + 2:
                yield shape[2:]
            for before, _ in _inputs(node):
                if before not in seen and self._up.get(before, 0) > 0:
                    seen.add(before)
                    waiting.append(before)

    def positions(self, edge: Edge, grid: tuple[int, ...]) -> Tensor | None:
        """For each value of a tensor, which position it belongs to of an earlier map with this grid; -1 for none.

        Only operations that work position by position are followed, such as those along residual connections. None if
        they do not lead to such a map.
        """
        waiting: deque[tuple[Edge, tuple[tuple[Node, int], ...]]] = deque([(edge, ())])
        seen = {edge}
        while waiting:
            current, steps = waiting.popleft()
            shape = _shape_of(current)
            if name_of(current[0]) in _OF_AXIS_1 and shape is not None and shape[2:] == grid:
                return _moved(torch.arange(prod(grid)).view(1, 1, *grid).expand(shape), steps)
            for following, step in (*_steps_back(current), *self._steps_on(current, shape)):
                if following not in seen and self._up.get(following[0], 0) > 0:
                    seen.add(following)
                    waiting.append((following, (*step, *steps)))
        return None

    def _steps_on(
        self, edge: Edge, shape: tuple[int, ...] | None
    ) -> Iterator[tuple[Edge, tuple[tuple[Node, int], ...]]]:
        """The tensors of the same shape that pointwise operations make of this one."""
        for node in self._consumers.get(edge, []):
            if name_of(node) in _POINTWISE | _NORMS and _outputs(node)[0] == shape:
                yield (node, 0), ()


def edge_of(tensor: Tensor) -> Edge | None:
    """The place of a tensor in the graph; None if it needs no gradient."""
    return None if tensor.grad_fn is None else (tensor.grad_fn, tensor.output_nr)


def rearranged_from(edge: Edge) -> Edge:
    """The tensor that this one only rearranges, such as the input of a permutation."""
    while name_of(edge[0]) in _REARRANGING and _inputs(edge[0]):
        (edge, *_) = _inputs(edge[0])
    return edge


def name_of(node: Node) -> str:
    """The name of an operation, such as `Convolution`."""
    return re.sub(r"Backward\d*$", "", node.name())


def _inputs(node: Node) -> list[Edge]:
    return [(before, index) for before, index in node.next_functions if before is not None]


def _outputs(node: Node) -> list[tuple[int, ...]]:
    """The shapes of an operation's outputs."""
    return [tuple(int(side) for side in data.shape) for data in node._input_metadata]


def _sorted_back(ends: set[Node]) -> Iterator[Node]:
    """The operations, each before those that it reads from."""
    waits: dict[Node, int] = {}
    stack, seen = list(ends), set(ends)
    while stack:
        for before, _ in _inputs(stack.pop()):
            waits[before] = waits.get(before, 0) + 1
            if before not in seen:
                seen.add(before)
                stack.append(before)
    ready = [node for node in ends if not waits.get(node)]
    while ready:
        node = ready.pop()
        yield node
        for before, _ in _inputs(node):
            waits[before] -= 1
            if not waits[before]:
                ready.append(before)


def _steps_back(edge: Edge) -> Iterator[tuple[Edge, tuple[tuple[Node, int], ...]]]:
    """The tensors that a position-wise operation read, each with the operation if it moved positions."""
    node, _ = edge
    name = name_of(node)
    for place, before in enumerate(node.next_functions):
        given = None if before[0] is None else _shape_of((before[0], before[1]))
        if before[0] is None or given is None:
            continue
        if name in _REARRANGING | {"Cat", "Slice"}:
            yield (before[0], before[1]), ((node, place),)
        elif name in _POINTWISE | _NORMS and given == _outputs(node)[0]:
            yield (before[0], before[1]), ()


def _moved(values: Tensor, steps: Iterable[tuple[Node, int]]) -> Tensor | None:
    """The values after these operations, the first one first; each is given with the place of its input."""
    for node, place in steps:
        name, made = name_of(node), _outputs(node)[0]
        if name in ("Permute", "Transpose", "T"):
            values = values.permute(_order_of(node, name, values.ndim))
        elif name == "Cat":
            values = _joined(values, node, place, made)
        elif name == "Slice":
            (axis,) = _signed([node._saved_dim], values.ndim)  # type: ignore[attr-defined]
            values = values.narrow(axis, int(node._saved_start), made[axis])  # type: ignore[attr-defined]
        elif values.numel() == prod(made):
            values = values.reshape(made)
        else:
            return None
    return values


def _joined(values: Tensor, node: Node, place: int, made: tuple[int, ...]) -> Tensor:
    """The values at their place in what a concatenation made, and -1 elsewhere."""
    (axis,) = _signed([node._saved_dim], values.ndim)  # type: ignore[attr-defined]
    found = torch.full(made, -1)
    if found.shape[axis] == values.shape[axis]:
        return values
    # Class and register tokens come in front, or behind if the first input is that of the positions.
    start = 0 if place == 0 else made[axis] - values.shape[axis]
    found.narrow(axis, start, values.shape[axis]).copy_(values)
    return found


def _works_pointwise(node: Node) -> bool:
    name = name_of(node)
    if name == "Convolution":
        return all(side == 1 for side in node._saved_weight.shape[2:]) and _same_grid(node)  # type: ignore[attr-defined]
    return name in _REARRANGING | _POINTWISE | _NORMS | _PRODUCTS | _OF_PARTS


def _same_grid(node: Node) -> bool:
    return all(step == 1 for step in node._saved_stride)  # type: ignore[attr-defined]


def _flattens(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether one of the shapes is `(n, everything else)`."""
    return one[0] == other[0] and len(one) != len(other) and 2 in (len(one), len(other))


Step = Callable[[Edge, Axes], Iterator[tuple[int | None, Edge | None, Axes]]]
"""What is next to a tensor: the axis that an operation treats as channels, or the tensor to go on with."""


def _walk(edge: Edge, axes: Axes, step: Step) -> Iterator[int]:
    """The axes that the nearest deciding operations treat as channels, in one direction."""
    waiting, seen = deque([(edge, axes)]), {edge}
    while waiting and len(seen) < _FAR:
        for channel, following, turned in step(*waiting.popleft()):
            if channel is not None:
                yield channel
            elif following is not None and following not in seen and any(turned[1:]):
                seen.add(following)
                waiting.append((following, turned))


def _channel_axis(node: Node, name: str, ndim: int) -> int | None:
    """The axis that the operation treats as channels; None if it treats none so."""
    if name in _OF_AXIS_1 and ndim > 2:
        return 1
    if name in _PRODUCTS or (name in _OF_LAST_AXIS and len(node._saved_normalized_shape) == 1):  # type: ignore[attr-defined]
        return -1
    return None


def _producers(edge: Edge, axes: Axes) -> Iterator[tuple[int | None, Edge | None, Axes]]:
    """What the operation that made the tensor says about its axes, or which tensors it made it of."""
    node, index = edge
    name, shapes = name_of(node), _outputs(node)
    shape = shapes[index] if index < len(shapes) else ()
    if (channel := _channel_axis(node, name, len(axes))) is not None:
        yield axes[channel], None, axes
    else:
        for before in _inputs(node):
            given = _shape_of(before)
            if given is not None and (turned := _turned(node, name, axes, shape, given, back=True)) is not None:
                yield None, before, turned


def _readers(
    consumers: dict[Edge, list[Node]], edge: Edge, axes: Axes
) -> Iterator[tuple[int | None, Edge | None, Axes]]:
    """What the operations that read the tensor say about its axes, or which tensors they make of it."""
    given = _shape_of(edge)
    for node in consumers.get(edge, []):
        name = name_of(node)
        if (channel := _channel_axis(node, name, len(axes))) is not None:
            yield axes[channel], None, axes
        elif name == "Mean" and (len(axes) > 3 or not node._saved_keepdim):  # type: ignore[attr-defined]
            left = [axes[axis] for axis in range(1, len(axes)) if axis not in _signed(node._saved_dim, len(axes))]  # type: ignore[attr-defined]
            yield (left[0] if len(left) == 1 else None), None, axes
        elif given is not None and (turned := _turned(node, name, axes, given, _outputs(node)[0])) is not None:
            yield None, (node, 0), turned


def _shape_of(edge: Edge) -> tuple[int, ...] | None:
    """The shape of a tensor; None for parameters, which are no part of the way."""
    node, index = edge
    if hasattr(node, "variable"):
        return None
    shapes = _outputs(node)
    return shapes[index] if index < len(shapes) else None


def _signed(axes: Any, ndim: int) -> set[int]:
    """Axes as autograd keeps them, negative ones as huge numbers."""
    return {axis if axis < 2**63 else axis - 2**64 + ndim for axis in axes}


def _order_of(node: Node, name: str, ndim: int) -> list[int]:
    """For each axis of a permutation's result, the axis that it was."""
    if name == "Permute":
        return [axis % ndim for axis in node._saved_dims]  # type: ignore[attr-defined]
    order = list(range(ndim))
    if name == "Transpose":
        a, b = (_signed([axis], ndim).pop() for axis in (node._saved_dim0, node._saved_dim1))  # type: ignore[attr-defined]
        order[a], order[b] = order[b], order[a]
    elif name == "T":
        order.reverse()
    return order


def _turned(
    node: Node, name: str, axes: Axes, one: tuple[int, ...], other: tuple[int, ...], *, back: bool = False
) -> Axes | None:
    """The axes of an operation's result from those of its input, or `back`; None where they are lost."""
    if name in ("Permute", "Transpose", "T"):
        order = _order_of(node, name, len(axes))
        return tuple(axes[order.index(axis) if back else order[axis]] for axis in range(len(axes)))
    if name == "Select" and not back:
        (axis,) = _signed([node._saved_dim], len(axes))  # type: ignore[attr-defined]
        return axes[:axis] + axes[axis + 1 :]
    if name in ("Slice", "Cat", "ConstantPadNd"):
        return axes if len(other) == len(axes) else None
    return _kept(name, axes, one, other)


def _kept(name: str, axes: Axes, one: tuple[int, ...], other: tuple[int, ...]) -> Axes | None:
    """The axes on the other side of an operation that changes no order of values."""
    if one == other:
        return axes if name in _POINTWISE | _REARRANGING else None
    if name not in _REARRANGING:
        return None
    # A view that merges or splits axes keeps the last one, or the first two, if their sides stay.
    kept: list[int | None] = [None] * len(other)
    if len(one) > 1 and len(other) > 1:
        if one[:2] == other[:2]:
            kept[:2] = axes[:2]
        if one[-1] == other[-1] and not _flattens(one, other):
            kept[-1] = axes[-1]
    return tuple(kept)

"""Batch normalisation and dropout of processes that train together: each treats its share as the whole batch.

Only training in several processes imports this module, because `torch.compiler.disable` imports torch's compiler.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from .distributed import rank, size, total

_DROPOUTS = ("dropout", "dropout1d", "dropout2d", "dropout3d")


@contextmanager
def seeing_whole_batches() -> Iterator[None]:
    """Inside, batch normalisation and dropout treat a share of a training batch as they would treat the whole batch.

    The functions under all layers are replaced, so it holds for every network. torch's own SyncBatchNorm does not
    accept tensors on the CPU.
    """
    own = {name: getattr(F, name) for name in ("batch_norm", *_DROPOUTS)}
    try:
        for name, function in own.items():
            setattr(F, name, _whole(_dropout if name in _DROPOUTS else _batch_norm, function))
        yield
    finally:
        for name, function in own.items():
            setattr(F, name, function)


def _whole(function: Callable[..., Tensor], alone: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(alone)  # torch.compile asks for its name
    def whole(*args: Any, **named: Any) -> Tensor:
        return function(alone, *args, **named)

    return whole


def _batch_norm(
    alone: Callable[..., Tensor],
    x: Float[Tensor, "n c *size"],
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Float[Tensor, "n c *size"]:
    """Combines the means and variances of the processes over their own images (Chan et al. 1979)."""
    if not training:  # a frozen layer
        return alone(x, running_mean, running_var, weight, bias, training, momentum, eps)
    values, channels, each = x.float(), x.shape[1], (-1, *[1] * (x.ndim - 2))
    own_variances, own_means = torch.var_mean(values, (0, *range(2, x.ndim)), correction=0)
    images = torch.full((1,), len(x), dtype=values.dtype, device=x.device)
    means, variances, counts = _gathered(torch.cat([own_means, own_variances, images])).split(
        [channels, channels, 1], 1
    )
    shares = counts / counts.sum()
    mean = (shares * means).sum(0)
    variance = (shares * (variances + (means - mean).square())).sum(0)
    if running_mean is not None and running_var is not None:
        n = counts.detach().sum() * (x[0, 0].numel())
        running_mean.lerp_(mean.detach(), momentum)
        running_var.lerp_(variance.detach() * n / (n - 1), momentum)
    scale = (variance + eps).rsqrt() if weight is None else weight * (variance + eps).rsqrt()
    normalised = (values - mean.view(each)) * scale.view(each)
    return (normalised if bias is None else normalised + bias.view(each)).to(x.dtype)


def _dropout(
    alone: Callable[..., Tensor],
    x: Float[Tensor, "n *size"],
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
) -> Float[Tensor, "n *size"]:
    """Every process draws for the whole batch and takes its share, so the random numbers stay the same in all."""
    if not training or p == 0:
        return alone(x, p, training, inplace)
    counts = _rows(x)
    start = sum(counts[: rank()])
    return x * alone(x.new_ones(sum(counts), *x.shape[1:]), p)[start : start + len(x)]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _rows(x: Tensor) -> list[int]:
    """The rows of each process."""
    counts = torch.zeros(size())
    counts[rank()] = len(x)
    return [int(n) for n in total(counts)]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: FunctionCtx, row: Tensor) -> Tensor:
        rows = row.new_zeros(size(), len(row))
        rows[rank()] = row
        return total(rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        return total(gradient)[rank()]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _gathered(row: Float[Tensor, "k"]) -> Float[Tensor, "processes k"]:
    """The rows of all processes; the gradient with respect to a row goes back to its process."""
    rows: Any = _Gather.apply(row)
    return rows

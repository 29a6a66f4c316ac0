"""Batch normalisation and dropout of processes that train together: each treats its share as the whole batch.

Only training in several processes imports this module, because `torch.compiler.disable` imports torch's compiler.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from .distributed import rank, share, size, total


@contextmanager
def seeing_whole_batches(model: nn.Module) -> Iterator[None]:
    """Inside, batch normalisation and dropout treat a share of a training batch as they would treat the whole batch.

    Afterwards `model` has the same classes as before. torch's own SyncBatchNorm does not accept tensors on the CPU.
    """
    own = {module: type(module) for module in model.modules() if type(module) in _OF_WHOLE_BATCHES}
    try:
        for module, kind in own.items():
            module.__class__ = _OF_WHOLE_BATCHES[kind]
        yield
    finally:
        for module, kind in own.items():
            module.__class__ = kind


class _WholeBatchNorm(nn.BatchNorm2d):
    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Combines the means and variances of the processes over their own images (Chan et al. 1979)."""
        if not self.training:  # a frozen layer
            return super().forward(x)
        values = x.float()
        own_variances, own_means = torch.var_mean(values, (0, 2, 3), correction=0)
        images = torch.full((1,), len(x), dtype=values.dtype, device=x.device)
        rows = _gathered(torch.cat([own_means, own_variances, images]))
        means, variances, counts = rows.split([self.num_features, self.num_features, 1], dim=1)
        shares = counts / counts.sum()
        mean = (shares * means).sum(0)
        variance = (shares * (variances + (means - mean).square())).sum(0)
        self._remember(mean, variance, counts.sum() * x.shape[2] * x.shape[3])
        scale = self.weight * (variance + self.eps).rsqrt()
        normalised = (values - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]
        return normalised.to(x.dtype)

    @torch.no_grad()
    def _remember(self, mean: Float[Tensor, "c"], variance: Float[Tensor, "c"], n: Float[Tensor, ""]) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * n / (n - 1), self.momentum)
        self.num_batches_tracked.add_(1)


class _WholeDropout(nn.Dropout):
    def forward(self, x: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """Every process draws for the whole batch and takes its share, so the random numbers stay the same in all."""
        n = _images_of_all(x)
        return x * F.dropout(x.new_ones(n, *x.shape[1:]), self.p)[share(n)]


_OF_WHOLE_BATCHES: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm2d: _WholeBatchNorm,
    nn.Dropout: _WholeDropout,
}


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _images_of_all(x: Tensor) -> int:
    return int(total(torch.tensor(len(x))))


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

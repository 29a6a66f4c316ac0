"""One training in several processes, one for each GPU or for a share of the cores, started by `torchrun`.

Every process has the whole network and draws the same random numbers, but computes only its share of each batch. Values
of a whole batch are summed over all processes: the statistics of batch normalisation, the gradients, the loss. So all
processes take the same steps, which are those of one process up to rounding. Only rank 0 prints and logs.

Without `torchrun` there is one process, and these functions change nothing.
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch import distributed as dist
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.distributed.rendezvous import rendezvous
from torch.nn import functional as F

from ..errors import Failed
from ..system.processes import cores

T = TypeVar("T")
_ENDED = "the first process has ended its work"
_WORK, _CLOSING = (
    timedelta(days=365),
    timedelta(seconds=60),
)  # how long the others wait for that, after success and failure


class ProcessLost(Failed):
    """Another process of this training has failed."""


@contextmanager
def started() -> Iterator[None]:
    """Connects the processes that `torchrun` started, with gloo for tensors on the CPU and NCCL for tensors on GPUs.

    The others end after rank 0, so that rank 0 has time to close its run: `torchrun` stops all processes if one fails.
    """
    if not launched():
        yield
        return
    store, rank_, size_ = next(rendezvous("env://"))
    dist.init_process_group(store=store, rank=rank_, world_size=size_)
    patience = _WORK
    try:
        yield
    except BaseException:
        patience = _CLOSING
        raise
    finally:
        dist.destroy_process_group()  # processes that wait for this one then get an error
        if rank_ == 0:
            store.set(_ENDED, "")
        else:
            store.wait([_ENDED], patience)


def launched() -> bool:
    """Whether `torchrun` started this process."""
    return dist.is_torchelastic_launched()


def rank() -> int:
    """The number of this process; rank 0 prints and logs."""
    return dist.get_rank() if dist.is_initialized() else 0


def size() -> int:
    """The number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def local_rank() -> int:
    """The number of this process on its machine, and of its GPU."""
    return int(os.environ["LOCAL_RANK"]) if dist.is_initialized() else 0


def local_size() -> int:
    """The number of these processes on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if dist.is_initialized() else 1


def threads() -> int:
    """The default number of threads of this process: the cores of the machine, divided by its processes."""
    if size() == 1:
        return torch.get_num_threads()
    # By default torchrun gives every process one thread, so torch's own number is of no use.
    return max(1, cores() // local_size())


def share(n: int) -> slice:
    """The part of `n` images that this process computes; the parts are consecutive and differ by one image at most."""
    return slice(rank() * n // size(), (rank() + 1) * n // size())


def as_first(value: T) -> T:
    """The value of the first process, in every process; it must be possible to pickle it."""
    if size() == 1:
        return value
    box = [value]
    with _all_there():
        dist.broadcast_object_list(box, src=0)
    return box[0]


def start_alike(model: nn.Module) -> None:
    """Gives every process the weights of the first one, because other processors may round them differently."""
    if size() > 1:
        with _all_there():
            for tensor in model.state_dict().values():
                dist.broadcast(tensor, src=0)


def total(tensor: Tensor) -> Tensor:
    """The sum over the processes, in every process."""
    if size() == 1:
        return tensor
    tensor = tensor.clone()
    with _all_there():
        dist.all_reduce(tensor)
    return tensor


def add_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces each gradient by its sum over the processes."""
    if size() == 1:
        return
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    summed = total(torch.cat([gradient.flatten() for gradient in gradients]))
    parts = torch.split(summed, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


@contextmanager
def _all_there() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        why = str(error).strip().splitlines()[0]
        raise ProcessLost(
            f"process {rank()} has lost another process; see the message of that process ({why})"
        ) from error


@contextmanager
def seeing_whole_batches(model: nn.Module) -> Iterator[None]:
    """Inside, batch normalisation and dropout treat a share of a training batch as they would treat the whole batch.

    Afterwards `model` has the same classes as before. torch's own SyncBatchNorm does not accept tensors on the CPU.
    """
    if size() == 1:
        yield
        return
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

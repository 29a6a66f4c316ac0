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
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.rendezvous import rendezvous

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

"""The training loop: gives one record per epoch, independent of logging."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from ..augmentation.mixing import Batch, mixed_batches
from ..augmentation.whole_batches import Augmentation
from ..data.dataset import Dataset, Split
from ..data.tensors import to_tensor
from ..errors import Failed
from ..models.foreign import build
from ..settings.base import SettingsError
from ..settings.train import TrainSettings
from . import distributed
from .machine import Machine
from .predictions import predict
from .schedule import momentum_shift, relative_rate
from .steps import Steps, parts_of

CHECK_EVERY = 50  # steps between two checks of the loss
SEEN_PIXELS = 5000 * 32 * 32  # of the training images that a network may use before its training


class TrainingDiverged(Failed):
    """The loss or a weight is no longer a finite number."""


@dataclass(frozen=True)
class EpochResult:
    """The result of one pass over the training images.

    Attributes:
        epoch: counted from 1.
        metrics: by the names under which they are logged; accuracies in [0, 1].
        state: returns the state that `fit` needs to continue from the moment of the call.
    """

    epoch: int
    metrics: dict[str, float]
    state: Callable[[], dict[str, Any]]


def build_model(
    settings: TrainSettings, classes: int, mean: Float32[np.ndarray, "3"], std: Float32[np.ndarray, "3"]
) -> nn.Module:
    """A network before its training; the same for the same seed. `mean` and `std` are those of the training images.

    Raises:
        NetworkError: it cannot be built, or its weights do not fit.
    """
    torch.manual_seed(settings.seed)
    return build(settings, classes, mean.tolist(), std.tolist())[0]


def fit(
    model: nn.Module,
    dataset: Dataset,
    augmentation: Augmentation,
    settings: TrainSettings,
    machine: Machine,
    on_step: Callable[[], None] = lambda: None,
    resumed: Mapping[str, Any] | None = None,
) -> Iterator[EpochResult]:
    """Trains `model` in place and yields after every epoch; `on_step` is called after every batch.

    With the state of an earlier `EpochResult` as `resumed` it continues from there, on a CPU with the same weights bit
    for bit. With `ema`, `model` is the average of the weights. The curves of validation and test images use the number
    format of the training. The last epoch, whose numbers are reported, uses float32. A last batch with less than a
    quarter of `batch_size` is left out, because its step would count as much as the others, and batch normalisation
    would store its statistics. Each epoch leaves out other images.

    Processes that `distributed.started` has connected train one network together, with `batch_size` images in total.
    They continue from `resumed` of the first process.

    Raises:
        SettingsError: a batch has fewer images than there are processes.
        TrainingDiverged: the loss or a weight is not finite; the message names the step and the learning rate.
    """
    torch.set_num_threads(machine.threads)
    torch.manual_seed(settings.seed)
    _lay_out(model, dataset, machine)
    train = dataset.splits["train"]
    fitting = Steps(model, torch.from_numpy(train.labels), len(dataset.classes), settings, machine)
    check_shares(len(train), settings, distributed.size())
    if resumed := distributed.as_first(resumed):
        start = _restore(resumed, fitting)
    else:
        start = 0
        _prepare(fitting.trained, train, machine)
    distributed.start_alike(fitting.trained)
    steps = steps_of(len(train), settings.step_images)
    tracked = [name for name in ("val", "test") if name in dataset.splits and (name == "val" or settings.track_test)]
    for epoch in range(start, settings.epochs):
        started = time.perf_counter()
        plain = islice(augmentation.batches(train.images, train.labels, epoch), steps)
        batches = mixed_batches(settings, plain, len(dataset.classes), epoch)
        _tell(fitting.trained, "start_epoch", epoch / settings.epochs)
        with _seeing_whole_batches():
            metrics = _train_epoch(fitting, batches, epoch, steps, settings, on_step)
        metrics["train/epoch_s"] = time.perf_counter() - started
        precision = "fp32" if epoch == settings.epochs - 1 else machine.precision
        for name in tracked:
            metrics |= evaluate(model, dataset.splits[name], name, machine.device, precision)
        yield EpochResult(epoch + 1, metrics, partial(_state, epoch + 1, fitting))


def _lay_out(model: nn.Module, dataset: Dataset, machine: Machine) -> None:
    """Moves the network to the device, in the memory format in which it computes fastest."""
    model.to(machine.device).to(memory_format=machine.memory_format)
    side = dataset.splits["train"].images.shape[1]
    _tell(model, "lay_out", machine.device, side)


def _seeing_whole_batches() -> AbstractContextManager[None]:
    """Where several processes train together, a context in which each layer sees the batch of all of them."""
    if distributed.size() == 1:
        return nullcontext()
    from .whole_batch_layers import seeing_whole_batches

    return seeing_whole_batches()


def _tell(model: nn.Module, method: str, *arguments: object) -> None:
    """Calls an optional method of a network; `models/__init__.py` lists them."""
    if own := getattr(model, method, None):
        own(*arguments)


def _state(epochs: int, fitting: Steps) -> dict[str, Any]:
    random = {"cpu": torch.get_rng_state()}
    device = next(fitting.model.parameters()).device.type
    if device != "cpu":
        random[device] = torch.get_device_module(device).get_rng_state()
    return {"epochs": epochs, "random": random, **fitting.state()}


def _restore(state: Mapping[str, Any], fitting: Steps) -> int:
    """Restores the state and returns the number of finished epochs."""
    fitting.restore(state)
    torch.set_rng_state(state["random"]["cpu"])
    device = next(fitting.model.parameters()).device.type
    if device in state["random"] and device != "cpu":
        torch.get_device_module(device).set_rng_state(state["random"][device])
    return int(state["epochs"])


def evaluate(model: nn.Module, split: Split, name: str, device: str, precision: str = "fp32") -> dict[str, float]:
    """Loss and accuracy of one split, by the names under which they are logged."""
    predictions = predict(model, split.images, split.labels, device, precision)
    return {f"{name}/loss": predictions.loss, f"{name}/accuracy": predictions.accuracy}


def _train_epoch(
    fitting: Steps,
    batches: Iterator[Batch],
    epoch: int,
    steps: int,
    settings: TrainSettings,
    on_step: Callable[[], None],
) -> dict[str, float]:
    fitting.start_epoch()
    losses, right, seen = [], [], 0
    for step, batch in enumerate(batches):
        before, done = epoch * steps + step, epoch + step / steps
        rate, share = relative_rate(settings, done), side_share(settings, before, settings.epochs * steps)
        loss, ours = fitting.take(batch, before + 1, share, rate, momentum_shift(settings, done))
        losses.append(loss)
        right.append(ours)
        seen += len(batch[1])
        if step % CHECK_EVERY == CHECK_EVERY - 1 or step == steps - 1:
            recent = distributed.total(torch.stack(losses[-CHECK_EVERY:]))
            _check_finite(recent, fitting.trained, before, settings.lr * rate)
        on_step()
    loss = distributed.total(torch.stack(losses)).mean()
    accuracy = float(distributed.total(torch.stack(right).sum())) / seen
    return {"train/loss": float(loss), "train/accuracy": accuracy, "train/lr": settings.lr * rate}


def _prepare(model: nn.Module, train: Split, machine: Machine) -> None:
    """Lets a network use some training images before its training."""
    if hasattr(model, "start_training"):
        pixels = train.images.shape[1] * train.images.shape[2]
        # At equal distances, because images may be ordered by class.
        chosen = train.images[:: math.ceil(len(train) * pixels / SEEN_PIXELS)]
        _tell(model, "start_training", to_tensor(chosen).to(machine.device))


def steps_of(images: int, batch_size: int) -> int:
    """The number of batches in an epoch: full ones, and a last one if it is at least a quarter full or the only one."""
    last = images % batch_size
    return max(1, images // batch_size + (last >= batch_size / 4 and last > 1))


def check_shares(images: int, settings: TrainSettings, processes: int) -> None:
    """Checks that every process has at least one image of every batch.

    Raises:
        SettingsError: a batch has fewer images than there are processes.
    """
    step, last = settings.step_images, images % settings.step_images
    batches = [*([step] if images >= step else []), *([last] if steps_of(images, step) > images // step else [])]
    smallest = min(n // parts_of(n, settings.batch_size) for n in batches)
    if smallest < processes:
        raise SettingsError(
            [
                f"batch_size={settings.batch_size}: the smallest batch of {images:,} images has {smallest}, "
                f"fewer than the {processes} processes; give a larger batch_size, or fewer processes"
            ]
        )


def side_share(settings: TrainSettings, done: int, steps: int) -> float:
    """The value of `side_shares` after `done` of all `steps`; each value applies to an equal part of the steps."""
    shares = settings.side_shares
    return shares[done * len(shares) // steps]


def _check_finite(losses: Float[Tensor, "steps"], model: nn.Module, last_step: int, rate: float) -> None:
    bad = (~losses.isfinite()).nonzero()
    if len(bad):
        step = last_step - len(losses) + 1 + int(bad[0])
        raise TrainingDiverged(
            f"loss became {float(losses[bad[0]])} at step {step} (learning rate {rate:.4g}); "
            "give a smaller lr, a longer lr_warmup, or precision=fp32"
        )
    # The loss of the last step is finite, but its update may have overflowed.
    if not torch.stack([parameter.isfinite().all() for parameter in model.parameters()]).all():
        raise TrainingDiverged(
            f"a weight is no longer finite at step {last_step} (learning rate {rate:.4g}); "
            "give a smaller lr or precision=fp32"
        )

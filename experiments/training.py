"""The training loop: one record per epoch, and nothing of how it is logged."""

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

from experiments import parallel, schedule
from experiments.augment import Augmentation, to_tensor
from experiments.config import SettingsError, TrainSettings
from experiments.data import Dataset, Split
from experiments.evaluation import predict
from experiments.models import MODELS, FastNet, Network, ResNet18
from experiments.optimisers import Optimizers, optimizers

CHECK_EVERY = 50  # steps between two looks at the loss
WHITENED_PIXELS = 5000 * 32 * 32  # of the training images that the stem of a FastNet is made from
STEM_TRAINED = 3 / 8  # of the epochs; afterwards the stem of a FastNet is frozen, which makes a step a tenth faster
SMALLEST_SIDE = 8  # of an image that the networks take
SMALL_IMAGE = 32  # up to this side the last maps of a ResNet-18 have at most 4x4 cells


class TrainingDiverged(RuntimeError):
    """The loss stopped being a number."""


@dataclass(frozen=True)
class Machine:
    """What `auto` became on this machine."""

    device: str
    precision: str
    channels_last: bool
    threads: int

    @property
    def memory_format(self) -> torch.memory_format:
        """How images and weights are laid out."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def autocast(self) -> AbstractContextManager[object]:
        """bfloat16 where that was chosen, otherwise nothing."""
        return torch.autocast(self.device, torch.bfloat16) if self.precision == "bf16" else nullcontext()


@dataclass(frozen=True)
class EpochResult:
    """What one pass over the training images did.

    Attributes:
        epoch: counted from 1.
        metrics: named as they are logged, accuracies in [0, 1].
        state: gives what `fit` needs to go on from here, at the moment it is called.
    """

    epoch: int
    metrics: dict[str, float]
    state: Callable[[], dict[str, Any]]


def resolve_machine(settings: TrainSettings) -> Machine:
    """The device, number format and threads to use; of several processes on one machine each takes a GPU of its own.

    bf16 is chosen where the hardware computes with it: CPUs with AVX512-BF16 or AMX, GPUs with native support.

    Raises:
        SettingsError: where a device is asked for that this machine does not have.
    """
    # There is one mps, and nothing that adds up over processes there.
    mps = torch.backends.mps.is_available() and parallel.size() == 1
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": mps}
    device = settings.device
    if device == "auto":
        device = "cuda" if available["cuda"] else "mps" if available["mps"] else "cpu"
    if not available[device]:
        found = ", ".join(name for name, there in available.items() if there)
        raise SettingsError([f"device={device}: not found on this machine; there is: {found}"])
    if device == "cuda":
        _take_gpu()
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if _has_bf16(device) else "fp32"
    channels_last = device != "mps" if settings.channels_last == "auto" else settings.channels_last == "true"
    threads = parallel.threads() if settings.threads == "auto" else settings.threads
    return Machine(device, precision, channels_last, threads)


def _take_gpu() -> None:
    """Makes `cuda` the GPU of this process."""
    if parallel.local_size() > torch.cuda.device_count():
        raise SettingsError(
            [
                f"device=cuda: {parallel.local_size()} processes for {torch.cuda.device_count()} GPUs on this machine; "
                "give torchrun --nproc-per-node at most as many as GPUs, or device=cpu"
            ]
        )
    if parallel.size() > 1:
        torch.cuda.set_device(parallel.local_rank())


def _has_bf16(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if device == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def build_model(
    settings: TrainSettings, classes: int, mean: Float32[np.ndarray, "3"], std: Float32[np.ndarray, "3"]
) -> Network:
    """A freshly initialised network; the same for the same seed."""
    torch.manual_seed(settings.seed)
    return MODELS[settings.model](classes, mean.tolist(), std.tolist(), settings.dropout)


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

    With the state of an earlier `EpochResult` as `resumed` it goes on from there, on a CPU to the same weights bit for
    bit.
    The curves of validation and test images are computed in the number format of the training, the last epoch, whose
    numbers are reported, in float32. A last batch of less than a quarter of `batch_size` is left out: its step would
    count as much as the others, and batch normalisation would remember it. Other images are left out in each epoch.

    Processes that `parallel.started` has brought together train one network, with `batch_size` images in all of them
    together. They go on from `resumed` of the first one.

    Raises:
        SettingsError: when a batch has fewer images than there are processes.
        TrainingDiverged: when the loss is no longer finite, naming the step and the learning rate.
    """
    torch.set_num_threads(machine.threads)
    torch.manual_seed(settings.seed)
    _lay_out(model, dataset, machine)
    network = torch.compile(model) if settings.compile else model
    optimizer = optimizers(model, settings)
    train = dataset.splits["train"]
    check_shares(len(train), settings.batch_size, parallel.size())
    if resumed := parallel.as_first(resumed):
        start = _restore(resumed, model, optimizer)
    else:
        start = 0
        _prepare(model, train, machine)
    parallel.start_alike(model)
    steps = steps_of(len(train), settings.batch_size)
    tracked = [name for name in ("val", "test") if name in dataset.splits and (name == "val" or settings.track_test)]
    for epoch in range(start, settings.epochs):
        started = time.perf_counter()
        batches = islice(augmentation.batches(train.images, train.labels, epoch), steps)
        if isinstance(model, FastNet):
            model.stem.get_parameter("0.bias").requires_grad_(epoch < STEM_TRAINED * settings.epochs)
        with parallel.seeing_whole_batches(model):
            metrics = _train_epoch(network, model, optimizer, batches, epoch, steps, settings, machine, on_step)
        metrics["train/epoch_s"] = time.perf_counter() - started
        precision = "fp32" if epoch == settings.epochs - 1 else machine.precision
        for name in tracked:
            metrics |= evaluate(model, dataset.splits[name], name, machine.device, precision)
        yield EpochResult(epoch + 1, metrics, partial(_state, epoch + 1, model, optimizer))


def _lay_out(model: nn.Module, dataset: Dataset, machine: Machine) -> None:
    """Brings the network to the device, in the memory format in which it computes fastest."""
    model.to(machine.device).to(memory_format=machine.memory_format)
    side = dataset.splits["train"].images.shape[1]
    if isinstance(model, ResNet18) and machine.device == "cpu" and side <= SMALL_IMAGE:
        model.lay_out_for_small_maps()


def _state(epochs: int, model: nn.Module, optimizer: Optimizers) -> dict[str, Any]:
    random = {"cpu": torch.get_rng_state()}
    device = next(model.parameters()).device.type
    if device != "cpu":
        random[device] = torch.get_device_module(device).get_rng_state()
    return {"epochs": epochs, "model": model.state_dict(), "optimizer": optimizer.state_dict(), "random": random}


def _restore(state: Mapping[str, Any], model: nn.Module, optimizer: Optimizers) -> int:
    """Puts everything where it was; the epochs that were done."""
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    torch.set_rng_state(state["random"]["cpu"])
    device = next(model.parameters()).device.type
    if device in state["random"] and device != "cpu":
        torch.get_device_module(device).set_rng_state(state["random"][device])
    return int(state["epochs"])


def evaluate(model: nn.Module, split: Split, name: str, device: str, precision: str = "fp32") -> dict[str, float]:
    """Loss and accuracy of one split, named as they are logged."""
    predictions = predict(model, split.images, split.labels, device, precision)
    return {f"{name}/loss": predictions.loss, f"{name}/accuracy": predictions.accuracy}


def _train_epoch(
    network: Callable[[Tensor], Tensor],
    model: nn.Module,
    optimizer: Optimizers,
    batches: Iterator[tuple[Tensor, Tensor]],
    epoch: int,
    steps: int,
    settings: TrainSettings,
    machine: Machine,
    on_step: Callable[[], None],
) -> dict[str, float]:
    model.train()
    loss_function = nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)
    # Sums stay on the device: reading them at every step would make a GPU wait.
    losses, right, seen = [], torch.zeros((), dtype=torch.int64, device=machine.device), 0
    for step, batch in enumerate(batches):
        whole, own = len(batch[1]), parallel.share(len(batch[1]))
        images = batch[0][own].to(machine.device, memory_format=machine.memory_format, non_blocking=True)
        images = shrink(images, side_share(settings, epoch * steps + step, settings.epochs * steps))
        labels = batch[1][own].to(machine.device, non_blocking=True)
        rate = relative_rate(settings, epoch + step / steps)
        with machine.autocast():
            logits = network(images).float()
        # Losses and gradients of the processes add up to those of the whole batch.
        loss = loss_function(logits, labels) * (len(labels) / whole)
        loss.backward()
        parallel.add_gradients(model.parameters())
        add_penalties(model, settings)
        optimizer.step(rate, momentum_shift(settings, epoch + step / steps))
        losses.append(loss.detach())
        right += (logits.argmax(1) == labels).sum()
        seen += whole
        if step % CHECK_EVERY == CHECK_EVERY - 1 or step == steps - 1:
            _check_finite(
                parallel.total(torch.stack(losses[-CHECK_EVERY:])), model, epoch * steps + step, settings.lr * rate
            )
        on_step()
    loss, right = parallel.total(torch.stack(losses)).mean(), parallel.total(right)
    metrics = {"train/loss": float(loss), "train/accuracy": float(right) / seen}
    return metrics | {"train/lr": settings.lr * rate}


def _prepare(model: nn.Module, train: Split, machine: Machine) -> None:
    """What a network takes from its training images before it is trained on them."""
    if isinstance(model, FastNet):
        pixels = train.images.shape[1] * train.images.shape[2]
        # Every so many of them: images may be ordered by class.
        chosen = train.images[:: math.ceil(len(train) * pixels / WHITENED_PIXELS)]
        model.whiten(to_tensor(chosen).to(machine.device))


def steps_of(images: int, batch_size: int) -> int:
    """Batches in an epoch: the whole ones, and the last one where it is at least a quarter of one or the only one."""
    last = images % batch_size
    return max(1, images // batch_size + (last >= batch_size / 4 and last > 1))


def check_shares(images: int, batch_size: int, processes: int) -> None:
    """Returns where every process has an image of every batch.

    Raises:
        SettingsError: some batch has fewer images than there are processes.
    """
    last = images % batch_size
    smallest = last if steps_of(images, batch_size) > images // batch_size else batch_size
    if smallest < processes:
        raise SettingsError(
            [
                f"batch_size={batch_size}: the smallest batch of {images:,} images has {smallest}, "
                f"fewer than the {processes} processes; give a larger one, or fewer processes"
            ]
        )


def side_share(settings: TrainSettings, done: int, steps: int) -> float:
    """The share of `side_shares` that holds after `done` of all `steps`, of which each has an equal part."""
    shares = settings.side_shares
    return shares[done * len(shares) // steps]


def shrink(images: Float[Tensor, "n c h h"], share: float) -> Float[Tensor, "n c s s"]:
    """The images at `share` of their side, each pixel the mean of what it covers, in the same memory format."""
    side = max(SMALLEST_SIDE, round(share * images.shape[-1]))
    if side >= images.shape[-1]:
        return images
    smaller = nn.functional.interpolate(images, (side, side), mode="area")
    channels_last = images.is_contiguous(memory_format=torch.channels_last)
    return smaller.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


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


def relative_rate(settings: TrainSettings, epochs_done: float) -> float:
    """The rate of the step that begins after `epochs_done` epochs, a fraction between two whole ones; the peak is 1."""
    progress = epochs_done / settings.epochs
    if settings.schedule == "onecycle":
        return schedule.onecycle(progress, settings.lr_warmup)
    if settings.schedule == "cosine":
        return schedule.cosine(progress)
    if settings.schedule == "linear":
        return schedule.linear(progress)
    if settings.schedule == "step":
        return schedule.step(math.floor(epochs_done), settings.lr_step_epochs, settings.lr_gamma)
    return schedule.constant(progress)


def momentum_shift(settings: TrainSettings, epochs_done: float) -> float:
    """What is added to the momentum of the step that begins after `epochs_done` epochs."""
    if settings.schedule != "onecycle":
        return 0.0
    return settings.momentum_swing * (1 - 2 * schedule.cycle(epochs_done / settings.epochs, settings.lr_warmup))


@torch.no_grad()
def add_penalties(model: nn.Module, settings: TrainSettings) -> None:
    """Adds to the gradients what `l1` times the sum of |w| and `l2_norm` times the 2-norm of all w in the loss would,
    over all parameters w that are trained. In a loss they would cost a copy of every parameter.
    """
    trained = [(parameter, parameter.grad) for parameter in model.parameters() if parameter.grad is not None]
    if settings.l1:
        for weight, gradient in trained:
            gradient.add_(weight.sign(), alpha=settings.l1)
    if settings.l2_norm:
        norm = nn.utils.get_total_norm([weight for weight, _ in trained])
        # At 0 the norm has no gradient, and torch's own gives 0.
        share = settings.l2_norm / norm.clamp_min(torch.finfo(norm.dtype).tiny)
        for weight, gradient in trained:
            gradient.addcmul_(weight, share)

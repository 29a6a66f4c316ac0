"""The training loop: one record per epoch, and nothing of how it is logged."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from experiments import schedule
from experiments.augment import Augmentation
from experiments.config import SettingsError, TrainSettings
from experiments.data import Dataset, Split
from experiments.evaluation import predict
from experiments.models import MODELS, Network

CHECK_EVERY = 50  # steps between two looks at the loss


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
    """What one pass over the training images did; `metrics` are named as they are logged, accuracies in [0, 1]."""

    epoch: int
    metrics: dict[str, float]


def resolve_machine(settings: TrainSettings) -> Machine:
    """The device, number format and threads to use.

    bf16 is chosen where the hardware computes with it: CPUs with AVX512-BF16 or AMX, GPUs with native support.

    Raises:
        SettingsError: where a device is asked for that this machine does not have.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    device = settings.device
    if device == "auto":
        device = "cuda" if available["cuda"] else "mps" if available["mps"] else "cpu"
    if not available[device]:
        found = ", ".join(name for name, there in available.items() if there)
        raise SettingsError([f"device={device}: not found on this machine; there is: {found}"])
    precision = settings.precision
    if precision == "auto":
        precision = "bf16" if _has_bf16(device) else "fp32"
    channels_last = device != "mps" if settings.channels_last == "auto" else settings.channels_last == "true"
    threads = torch.get_num_threads() if settings.threads == "auto" else settings.threads
    return Machine(device, precision, channels_last, threads)


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
) -> Iterator[EpochResult]:
    """Trains `model` in place and yields after every epoch; `on_step` is called after every batch.

    Raises:
        TrainingDiverged: when the loss is no longer finite, naming the step and the learning rate.
    """
    torch.set_num_threads(machine.threads)
    torch.manual_seed(settings.seed)
    model.to(machine.device).to(memory_format=machine.memory_format)
    network = torch.compile(model) if settings.compile else model
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=settings.lr,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
        fused=machine.device != "mps",
    )
    for epoch in range(settings.epochs):
        started = time.perf_counter()
        batches = augmentation.batches(dataset.splits["train"].images, dataset.splits["train"].labels, epoch)
        steps = augmentation.steps(len(dataset.splits["train"]))
        metrics = _train_epoch(network, model, optimizer, batches, epoch, steps, settings, machine, on_step)
        metrics["train/epoch_s"] = time.perf_counter() - started
        for name in ("val", "test") if settings.track_test else ("val",):
            metrics |= evaluate(model, dataset.splits[name], name, machine.device)
        yield EpochResult(epoch + 1, metrics)


def evaluate(model: nn.Module, split: Split, name: str, device: str) -> dict[str, float]:
    """Loss and accuracy of one split, named as they are logged."""
    predictions = predict(model, split.images, split.labels, device)
    return {f"{name}/loss": predictions.loss, f"{name}/accuracy": predictions.accuracy}


def _train_epoch(
    network: Callable[[Tensor], Tensor],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
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
        images = batch[0].to(machine.device, memory_format=machine.memory_format, non_blocking=True)
        labels = batch[1].to(machine.device, non_blocking=True)
        optimizer.param_groups[0]["lr"] = rate = learning_rate(settings, epoch + step / steps)
        with machine.autocast():
            logits = network(images).float()
        loss = loss_function(logits, labels)
        (loss + penalty(model, settings)).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        right += (logits.argmax(1) == labels).sum()
        seen += len(labels)
        if step % CHECK_EVERY == CHECK_EVERY - 1 or step == steps - 1:
            _check_finite(torch.stack(losses[-CHECK_EVERY:]), model, epoch * steps + step, rate)
        on_step()
    return {"train/loss": float(torch.stack(losses).mean()), "train/accuracy": float(right) / seen, "train/lr": rate}


def _check_finite(losses: Float[Tensor, "steps"], model: nn.Module, last_step: int, rate: float) -> None:
    bad = (~losses.isfinite()).nonzero()
    if len(bad):
        step = last_step - len(losses) + 1 + int(bad[0])
        raise TrainingDiverged(
            f"loss became {float(losses[bad[0]])} at step {step} (learning rate {rate:.4g}); "
            "give a smaller lr, a longer lr_warmup, or precision=fp32"
        )
    # The loss of the last step is finite, but its update may have overflowed.
    if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
        raise TrainingDiverged(
            f"a weight is no longer finite at step {last_step} (learning rate {rate:.4g}); "
            "give a smaller lr or precision=fp32"
        )


def learning_rate(settings: TrainSettings, epochs_done: float) -> float:
    """The rate of the step that begins after `epochs_done` epochs, a fraction between two whole ones."""
    progress = epochs_done / settings.epochs
    if settings.schedule == "onecycle":
        return settings.lr * schedule.onecycle(progress, settings.lr_warmup)
    if settings.schedule == "cosine":
        return settings.lr * schedule.cosine(progress)
    if settings.schedule == "step":
        return settings.lr * schedule.step(math.floor(epochs_done), settings.lr_step_epochs, settings.lr_gamma)
    return settings.lr * schedule.constant(progress)


def penalty(model: nn.Module, settings: TrainSettings) -> Tensor | float:
    """What `l1` and `l2_norm` add to the loss, over all parameters; 0.0 where both are off."""
    if not settings.l1 and not settings.l2_norm:
        return 0.0
    flat = torch.cat([parameter.flatten() for parameter in model.parameters()])
    return settings.l1 * flat.abs().sum() + settings.l2_norm * flat.norm()

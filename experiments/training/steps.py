"""The steps of a training: the gradients of a batch, the step of the optimizer, the average of the weights."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from ..augmentation.mixing import Batch, hard
from ..settings.train import TrainSettings
from . import distributed
from .frozen import freeze
from .machine import Machine
from .optimisers import optimizers

SMALLEST_SIDE = 8  # the smallest image side that the networks accept


class Steps:
    """A network in training, and all that changes with its steps.

    `trained` is the network that the steps change. It is `model`, or with `ema` a copy of it; then `model` is the
    average: the weights after each step, of which each counts `ema` times as much as the one after it. Running
    statistics are averaged, too; counters are those of the last step.
    """

    def __init__(
        self, model: nn.Module, labels: Int64[Tensor, "n"], classes: int, settings: TrainSettings, machine: Machine
    ) -> None:
        self.model = model
        self.trained = copy.deepcopy(model) if settings.ema else model
        freeze(self.trained, settings.freeze)
        self._network = torch.compile(self.trained) if settings.compile else self.trained
        self._optimizer = optimizers(self.trained, settings)
        self._scaler = torch.amp.GradScaler(machine.device, enabled=machine.precision == "fp16")
        self._of_classes = class_weights(labels, classes, settings.class_weights).to(machine.device)
        self._settings, self._machine = settings, machine

    def start_epoch(self) -> None:
        """Puts all layers into the mode of training, except those that are frozen."""
        self.trained.train()
        freeze(self.trained, self._settings.freeze)

    def take(
        self,
        batch: Batch,
        number: int,
        share: float,
        rate: float,
        momentum_shift: float,
    ) -> tuple[Float[Tensor, ""], Int64[Tensor, ""]]:
        """Takes step `number`, counted from 1, with images at `share` of their side.

        The labels are classes, or shares of classes as `mixup` makes them. Returns this process's part of the loss, and
        the number of its images that were classified correctly. Both stay on the device, because reading them in every
        step would make a GPU wait.
        """
        images, labels = batch[0], batch[1].to(self._machine.device, non_blocking=True)
        loss, right = torch.zeros((), device=labels.device), torch.zeros((), dtype=torch.int64, device=labels.device)
        mass = (self._of_classes[labels] if labels.ndim == 1 else labels @ self._of_classes).sum()
        parts = parts_of(len(labels), self._settings.batch_size)
        for some, truth in zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True):
            own = distributed.share(len(truth))
            ours = some[own].to(labels.device, memory_format=self._machine.memory_format, non_blocking=True)
            with self._machine.autocast():
                logits = self._network(shrink(ours, share)).float()
            smoothing = self._settings.label_smoothing
            summed = F.cross_entropy(logits, truth[own], self._of_classes, reduction="sum", label_smoothing=smoothing)
            # The sums of the parts' and processes' losses and gradients are those of the whole batch.
            torch.autograd.backward(self._scaler.scale(summed / mass))
            loss += summed.detach() / mass
            right += (logits.argmax(1) == hard(truth[own])).sum()
        self._update(rate, momentum_shift)
        if self._settings.ema:
            self._average(number)
        return loss, right

    def _update(self, rate: float, momentum_shift: float) -> None:
        """The step of the optimizer; with fp16 it is left out if a gradient has overflowed."""
        optimizer: Any = self._optimizer
        distributed.add_gradients(self.trained.parameters())
        self._scaler.unscale_(optimizer)
        add_penalties(self.trained, self._settings)
        if self._settings.grad_clip:
            nn.utils.clip_grad_norm_(self.trained.parameters(), self._settings.grad_clip)
        self._scaler.step(optimizer, rate, momentum_shift)
        self._scaler.update()
        self.trained.zero_grad()

    @torch.no_grad()
    def _average(self, number: int) -> None:
        share = (1 - self._settings.ema) / (1 - self._settings.ema**number)
        pairs = list(zip(self.model.state_dict().values(), self.trained.state_dict().values(), strict=True))
        for mean, now in pairs:
            if mean.is_floating_point():
                mean.lerp_(now, share)
            else:
                mean.copy_(now)

    def state(self) -> dict[str, Any]:
        """The state from which `restore` continues."""
        state = {"model": self.trained.state_dict(), "optimizer": self._optimizer.state_dict()}
        average = self.model.state_dict() if self._settings.ema else {}
        return state | {"average": average, "scaler": self._scaler.state_dict()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continues from the `state` of a training with the same settings."""
        self.trained.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        if self._settings.ema:
            self.model.load_state_dict(state["average"])
        self._scaler.load_state_dict(state["scaler"])


def parts_of(images: int, batch_size: int) -> int:
    """The number of equal parts, of at most `batch_size` images, in which the gradient of a step is computed."""
    return -(-images // batch_size)


def class_weights(labels: Int64[Tensor, "n"], classes: int, kind: str) -> Float[Tensor, "classes"]:
    """The weight of each class in the loss: 1, or with `balanced` such that all classes together weigh the same.

    Balanced weights are the mean number of images of a class, divided by that of this class, as scikit-learn's. A class
    without images weighs nothing.
    """
    if kind == "none":
        return torch.ones(classes)
    counts = labels.bincount(minlength=classes).float()
    there = counts > 0
    return torch.where(there, len(labels) / there.sum() / counts.clamp_min(1), 0.0)


def smaller_side(share: float, side: int) -> int:
    """The side in pixels of images that are shrunk to this share."""
    return max(SMALLEST_SIDE, round(share * side))


def shrink(images: Float[Tensor, "n c h h"], share: float) -> Float[Tensor, "n c s s"]:
    """The images at `share` of their side, in the same memory format; each pixel is the mean of its area."""
    side = smaller_side(share, images.shape[-1])
    if side >= images.shape[-1]:
        return images
    smaller = nn.functional.interpolate(images, (side, side), mode="area")
    channels_last = images.is_contiguous(memory_format=torch.channels_last)
    return smaller.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


@torch.no_grad()
def add_penalties(model: nn.Module, settings: TrainSettings) -> None:
    """Adds the gradients of `l1` times the sum of |w| and of `l2_norm` times the 2-norm of all trained parameters w.

    As terms of the loss they would cost a copy of every parameter.
    """
    trained = [(parameter, parameter.grad) for parameter in model.parameters() if parameter.grad is not None]
    if settings.l1:
        for weight, gradient in trained:
            gradient.add_(weight.sign(), alpha=settings.l1)
    if settings.l2_norm:
        norm = nn.utils.get_total_norm([weight for weight, _ in trained])
        # At 0 the norm has no gradient; torch uses 0 there.
        share = settings.l2_norm / norm.clamp_min(torch.finfo(norm.dtype).tiny)
        for weight, gradient in trained:
            gradient.addcmul_(weight, share)

"""The optimisers: those of torch.optim, or Muon for convolution kernels together with SGD for all other parameters."""

import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import SGD, Muon, Optimizer

from ..errors import did_you_mean
from ..settings.base import NONE, SettingsError
from ..settings.parts import OPTIMISERS, load_part
from ..settings.train import TrainSettings
from .frozen import classifier

_REST_MOMENTUM, _NEWTON_SCHULZ_STEPS = 0.85, 3
_OPTIONS = {"weight_decay", "momentum", "nesterov"}  # arguments that are options of their own
_NO_CHOICE = {"params", "lr", "foreach", "fused", "capturable", "differentiable", "maximize", *_OPTIONS}


class Optimizers:
    """Several optimizers that take their steps together.

    `kernels` are trained through `matrices`: parameters of one of the optimizers that share memory with the kernels.
    """

    def __init__(
        self, parts: Sequence[Optimizer], kernels: Sequence[nn.Parameter] = (), matrices: Sequence[nn.Parameter] = ()
    ) -> None:
        self._parts, self._kernels, self._matrices = parts, kernels, matrices
        shared = set(map(id, matrices))
        rest = [p for group in self._groups() for p in group["params"] if id(p) not in shared]
        self.param_groups = [{"params": [*kernels, *rest]}]  # all trained parameters of the network, for GradScaler
        for group in self._groups():
            group["peak"] = group["lr"]
            if "momentum" in group:  # Adam and its variants have none
                group["middle"] = group["momentum"]

    def step(self, rate: float, momentum_shift: float = 0.0) -> None:
        """One step of each optimizer, with `rate` times its peak learning rate; deletes the gradients afterwards.

        `momentum_shift` is added to the momentum of each optimizer that has one.

        Kernels are first scaled so that their rows have norm 1 on average, as in airbench94_muon.py. Batch
        normalisation removes any scale, so only the learning rate decides how far a step turns them.
        """
        for group in self._groups():
            group["lr"] = group["peak"] * rate
            if "momentum" in group:
                group["momentum"] = group["middle"] + momentum_shift
        for kernel, matrix in zip(self._kernels, self._matrices, strict=True):
            # A part of a foreign network may not have run in this step.
            matrix.grad = None if kernel.grad is None else as_matrix(kernel.grad, kernel)
            kernel.grad = None
            with torch.no_grad():
                matrix.mul_(math.sqrt(len(matrix)) / matrix.norm())
        for part in self._parts:
            part.step()
            part.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        """The state from which `load_state_dict` can continue."""
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state`, which does not include the parameters; those belong to the model."""
        for part, of_part in zip(self._parts, state["parts"], strict=True):
            part.load_state_dict(of_part)

    def _groups(self) -> list[dict[str, Any]]:
        return [group for part in self._parts for group in part.param_groups]


def optimizers(model: nn.Module, settings: TrainSettings) -> Optimizers:
    """The optimizers for the parameters of `model` that are not frozen, from the settings.

    Call it when the model is on its device and in its memory format, because Muon keeps views of the kernels' memory.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    made: Optimizers = load_part(OPTIMISERS, settings.optimizer)(model, trained, settings)
    return made


def of_torch(model: nn.Module, trained: Sequence[nn.Parameter], settings: TrainSettings) -> Optimizers:
    """The optimizer of torch.optim for all parameters; the classifier may have its own rate."""
    kind = _kind(settings.optimizer)
    own = {name: getattr(settings, name) for name in _OPTIONS & inspect.signature(kind).parameters.keys()}
    if settings.optimizer in ("sgd", "adam", "adamw"):
        own["fused"] = trained[0].device.type != "mps"
    head = {id(parameter) for parameter in classifier(model).parameters()}
    groups = [
        {"params": [p for p in trained if (id(p) in head) == of_head], "lr": lr}
        for lr, of_head in ((settings.lr, False), (settings.head_rate, True))
    ]
    return Optimizers([kind([group for group in groups if group["params"]], **own | settings.optimizer_arguments)])


def _kind(name: str) -> Any:
    return next(kind for known, kind in vars(torch.optim).items() if known.lower() == name)


def check_arguments(settings: TrainSettings) -> None:
    """Checks `optimizer_args` against the optimizer's own signature and limits.

    Raises:
        SettingsError: the optimizer has no such argument, or does not take the value; says what is allowed.
    """
    kind, given = _kind(settings.optimizer), settings.optimizer_arguments
    allowed = [name for name in inspect.signature(kind).parameters if name not in _NO_CHOICE]
    start = f"optimizer_args={settings.optimizer_args}: "
    if unknown := [name for name in given if name not in allowed]:
        name = unknown[0]
        where = f"; give it as the option {name}" if name in {"lr", *_OPTIONS} else did_you_mean(name, allowed)
        raise SettingsError([f"{start}{settings.optimizer} takes {', '.join(allowed) or NONE}, not {name!r}{where}"])
    try:
        parameter = nn.Parameter(torch.ones(2, 2))
        parameter.grad = torch.ones(2, 2)
        kind([parameter], **given).step()
    except (ValueError, TypeError, RuntimeError) as error:
        why, usual = " ".join(str(error).split()), inspect.signature(kind).parameters
        defaults = [(name, usual[name].default) for name in given]
        own = " ".join(f"{name}={'/'.join(map(str, one)) if isinstance(one, tuple) else one}" for name, one in defaults)
        raise SettingsError(
            [f"{start}{settings.optimizer} does not take these values ({why}); its own: {own}"]
        ) from error


def muon(model: nn.Module, trained: Sequence[nn.Parameter], settings: TrainSettings) -> Optimizers:
    """Muon (K. Jordan et al. 2024, kellerjordan.github.io/posts/muon) for the kernels, SGD for the others.

    `weight_decay` is the share by which a step at the peak rate shrinks the others; kernels are rescaled in any case.
    """
    kernels = [parameter for parameter in trained if parameter.ndim == 4]
    matrices = [nn.Parameter(as_matrix(kernel.detach(), kernel)) for kernel in kernels]
    assert all(kernel.data_ptr() == matrix.data_ptr() for kernel, matrix in zip(kernels, matrices, strict=True))
    rest = (
        [parameter for parameter in trained if parameter.ndim == 2],
        [parameter for parameter in trained if parameter.ndim not in (2, 4)],
    )
    groups = [
        {"params": parameters, "lr": lr, "weight_decay": settings.weight_decay / lr}
        for parameters, lr in zip(rest, _rates_of_the_rest(model, settings), strict=True)
        if parameters
    ]
    fused = trained[0].device.type != "mps"
    parts: list[Optimizer] = []  # foreign networks may have kernels alone, or none
    if groups:
        parts.append(SGD(groups, momentum=_REST_MOMENTUM, nesterov=settings.nesterov, fused=fused))
    if matrices:
        options: dict[str, Any] = {"momentum": settings.momentum, "nesterov": settings.nesterov}
        options |= {"ns_steps": _NEWTON_SCHULZ_STEPS} | settings.optimizer_arguments
        parts.append(Muon(matrices, lr=settings.lr, weight_decay=0.0, **options))
    return Optimizers(parts, kernels, matrices)


def _rates_of_the_rest(model: nn.Module, settings: TrainSettings) -> tuple[float, float]:
    """The peak rates of the classifier and of biases and scales: from the network if it has them, else Muon's."""
    own: tuple[float, float] | None = getattr(model, "rates_beside_muon", None)
    if own is None:
        return settings.head_rate, settings.lr
    unit = settings.lr * math.sqrt(settings.step_images)
    return own[0] * unit if settings.lr_head == NONE else settings.head_rate, own[1] * unit


def as_matrix(tensor: Float[Tensor, "d c h w"], kernel: Float[Tensor, "d c h w"]) -> Float[Tensor, "d chw"]:
    """One row for each filter, in the memory order of `kernel`; a view without a copy if `tensor` is the kernel."""
    if kernel.is_contiguous(memory_format=torch.channels_last):
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.flatten(1)

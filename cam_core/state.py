"""Leaves a model and the process as they were: modes, buffers, counters, caches, hooks, random state, gradient mode."""

import random
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

# Flags of timm and of transformers; layers in a checkpoint run twice.
_CHECKPOINTING = frozenset({"grad_checkpointing", "gradient_checkpointing"})
_CONTAINERS = (dict, list, set)
_OF_EVERY_MODULE = frozenset(vars(nn.Module())) - {"_buffers", "_parameters"}


@contextmanager
def undisturbed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Turns on gradients and eval mode, runs compiled code as plain Python, and restores everything at the end.

    Restored are, also after an exception or an interruption: modes, buffers, and all other attributes of every module,
    such as counters and caches, and the random state of torch, numpy and Python.
    """
    # The fast path of nn.MultiheadAttention without gradients rounds differently from the one with gradients.
    fast = torch.backends.mha.get_fastpath_enabled()
    cuda = [device] if device.type == "cuda" else []
    modules = list(model.modules())
    before = [_Attributes(module) for module in modules]
    with (
        _random_state(),
        torch.random.fork_rng(cuda),
        torch.inference_mode(False),
        torch.enable_grad(),
        _without_compiled_code(),
    ):
        try:
            torch.backends.mha.set_fastpath_enabled(False)
            # Not model.eval(), because in some models it does more than set the flag.
            for module in modules:
                module.training = False
                _without_inference_tensors(module)
                for name in _CHECKPOINTING & vars(module).keys():
                    setattr(module, name, False)
            yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)
            for attributes in before:
                attributes.restore()


def _without_inference_tensors(module: nn.Module) -> None:
    """Replaces weights that were made in inference mode, which cannot take part in a backward pass, by copies."""
    for name, parameter in module._parameters.items():
        if parameter is not None and parameter.is_inference():
            module._parameters[name] = nn.Parameter(parameter.clone(), requires_grad=False)
    for name, buffer in module._buffers.items():
        if buffer is not None and buffer.is_inference():
            module._buffers[name] = buffer.clone()


class _Attributes:
    """The attributes of a module as they are now."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._values = dict(vars(module))
        own = {name: value for name, value in self._values.items() if name not in _OF_EVERY_MODULE}
        self._contents = [(value, value.copy()) for value in own.values() if type(value) in _CONTAINERS]
        tensors = [value for value in (*module._buffers.values(), *own.values()) if type(value) is Tensor]
        self._tensors = [(tensor, tensor._version, tensor.detach().clone()) for tensor in tensors if not _stays(tensor)]

    def restore(self) -> None:
        """Sets everything that has changed back."""
        now = vars(self._module)
        for name in [name for name in now if name not in self._values]:
            del now[name]
        for name, value in self._values.items():
            if now.get(name, self) is not value:
                now[name] = value
        for container, content in self._contents:
            _refill(container, content)
        with torch.no_grad():
            for tensor, version, value in self._tensors:
                if tensor._version != version:
                    tensor.copy_(value)


def _stays(tensor: Tensor) -> bool:
    """Whether a copy could not be taken or set back."""
    return tensor.is_inference() or tensor.device.type == "meta"


def _refill(container: Any, content: Any) -> None:
    """Gives a container its former content, in place, because others may hold it too."""
    same = len(container) == len(content) and (
        all(a is b for a, b in zip(container, content, strict=True))
        and (
            type(content) is not dict or all(a is b for a, b in zip(container.values(), content.values(), strict=True))
        )
    )
    if not same:
        container.clear()
        (container.extend if type(content) is list else container.update)(content)


@contextmanager
def _random_state() -> Iterator[None]:
    """Restores the random state of Python and numpy."""
    python, of_numpy = random.getstate(), np.random.get_state()
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(of_numpy)


def _without_compiled_code() -> AbstractContextManager[object]:
    """A context in which compiled modules run as plain Python, because hooks do not run in compiled code."""
    # Importing dynamo takes seconds. If nobody has imported it, no module is compiled.
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()

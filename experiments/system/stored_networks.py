"""What of a network can be stored with pickle."""

import copy
import io
from typing import Any

import cloudpickle
import torch
from torch import nn
from torch.nn.utils import parametrize


def picklable(network: nn.Module) -> nn.Module:
    """A copy on the CPU, in evaluation mode. Weights that are computed from others, as by `spectral_norm`, are plain.

    torch pickles no parametrisations.
    """
    copied = copy.deepcopy(network).cpu().eval()
    for module in list(filter(parametrize.is_parametrized, copied.modules())):
        computed: Any = module.parametrizations
        weights = {name: getattr(module, name).detach() for name in computed}
        # Not `remove_parametrizations`, which changes a class that the copy shares with the network.
        del module.parametrizations
        module.__class__ = type(module).__bases__[0]
        for name, weight in weights.items():
            module.register_parameter(name, nn.Parameter(weight))
    return copied


def check_picklable(network: nn.Module) -> None:
    """Raises whatever pickle raises if the network cannot be stored."""
    torch.save(picklable(network), io.BytesIO(), pickle_module=cloudpickle)

"""Layers that a training leaves as they are."""

from torch import nn

from ..errors import did_you_mean
from ..settings.base import NONE, SettingsError

BACKBONE, UNTIL = "backbone", "until:"


def classifier(model: nn.Module) -> nn.Module:
    """The last module of the network that has parameters of its own: the layer that gives the logits."""
    return [module for module in model.modules() if list(module.parameters(recurse=False))][-1]


def freeze(model: nn.Module, what: str) -> None:
    """Freezes layers: they get no gradients, and their batch normalisation uses and keeps its running statistics.

    `backbone` means all layers but the classifier; `until:LAYER` means this layer and all that are declared before it.

    Raises:
        SettingsError: there is no such layer, or nothing would be left to train; names the nearest layer.
    """
    if what == NONE:
        return
    named = list(model.named_modules())
    layer = what.removeprefix(UNTIL)
    inside = [i for i, (name, _) in enumerate(named) if f"{name}.".startswith(f"{layer}.")]
    last = next(i for i, (_, module) in enumerate(named) if module is classifier(model))
    if what != BACKBONE and not inside:
        stages, near = ", ".join(dict(model.named_children())), did_you_mean(layer, [name for name, _ in named])
        raise SettingsError([f"freeze={what}: the network has no layer {layer!r}; its parts are {stages}{near}"])
    if what != BACKBONE and inside[-1] >= last:
        raise SettingsError([f"freeze={what}: leaves nothing to train; name an earlier layer, or freeze=backbone"])
    for name, module in named[: last if what == BACKBONE else inside[-1] + 1]:
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
        if name and list(module.buffers(recurse=False)):
            module.training = False

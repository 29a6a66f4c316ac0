"""Does a map depend on what the model learnt? Makes the weights random from the top down and compares the maps."""

import copy
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import takewhile

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from cam_core.agreement import rank_correlation
from cam_core.engine import cams
from cam_core.inputs import Reshapes
from cam_core.models import device_of, named_layers
from cam_core.state import undisturbed
from cam_core.targets import Target


@dataclass(frozen=True)
class Cascade:
    """How similar the maps of more and more random models are to those of the trained model.

    `similarity` is the rank correlation, in [-1, 1], after `stages[0]` was re-initialised, then `stages[1]` too, and so
    on to a completely random model. It is NaN if either map is dead or constant, and on the device of the images.
    """

    stages: tuple[str, ...]
    layers: tuple[str, ...]
    similarity: Float32[Tensor, "stages layers n"]


def cascade(
    model: nn.Module,
    images: Float[Tensor, "n channels h w"],
    layers: Sequence[str],
    target: Target,
    *,
    method: str = "gradcam",
    generator: torch.Generator,
    reshape: Reshapes = None,
) -> Cascade:
    """The cascading randomisation check of one method at these layers (Adebayo et al., NeurIPS 2018).

    A map that shows what the model learnt becomes less similar when the weights are replaced. A map that stays similar,
    like the output of an edge detector, comes from the image and the architecture. The reverse is not true, and even a
    similar map may be an effect of the task: the speed of the change depends on the data as much as on the method (Yona
    and Greenfeld, 2021, arXiv:2110.14297). So this is a check to pass, not a score: it ranks neither methods nor
    models.

    The stages are the model's top-level modules in reverse order of running, from the classifier down; for a wrapped
    model, the modules of the inner model. A module gets new values from its own `reset_parameters()`, which also resets
    the statistics of a BatchNorm. A module without this method gets values from a normal distribution with the mean and
    standard deviation of each parameter. All this is done to a copy and is the same on every device; torch's random
    state is not changed.

    `target` should be classes of the trained model, because `predicted` would use the predictions of the random models.
    Takes one `cams` per stage and one before. Raises ValueError as `cams` does, and for a model without parameters.
    """
    trained = cams(model, images, layers, target, method=method, reshape=reshape)
    device = device_of(model, images)
    similarity = []
    # Weights made in inference_mode cannot take part in a backward pass.
    with torch.inference_mode(False):
        forgetting = copy.deepcopy(model).cpu()
        stages = _stages(forgetting, images[:1].cpu())
        for modules in stages.values():
            _reinitialise(modules, generator)
            random = cams(forgetting.to(device), images, layers, target, method=method, reshape=reshape)
            similarity.append(rank_correlation(trained.maps.flatten(0, 1), random.maps.flatten(0, 1)))
            forgetting.cpu()
    shape = (len(stages), *trained.strength.shape)
    return Cascade(tuple(stages), trained.layers, torch.stack(similarity).view(shape))


def _stages(model: nn.Module, images: Tensor) -> dict[str, list[nn.Module]]:
    """The modules that each stage re-initialises, from the classifier down; the last stage includes the rest."""
    order = _running_order(model, images)
    parts = [name.split(".") for name in order if not any(other.startswith(f"{name}.") for other in order)]
    if not parts:
        raise ValueError("the model runs no module with parameters; there is nothing to re-initialise")
    # If one module wraps all of them, use the modules inside it.
    depth = 1 + len(list(takewhile(lambda column: len(set(column)) == 1, zip(*parts, strict=False))))
    stages: dict[str, list[nn.Module]] = {".".join(name[:depth]): [] for name in reversed(parts)}
    *_, last = stages
    for name, module in [("", model), *named_layers(model).items()]:
        stages.get(".".join(name.split(".")[:depth]), stages[last]).append(module)
    return stages


def _running_order(model: nn.Module, images: Tensor) -> list[str]:
    """The names of the modules with parameters of their own, in the order in which they run."""
    order: list[str] = []

    def note(name: str, *call: object) -> None:
        order.append(name)

    with undisturbed(model, images.device), torch.no_grad(), ExitStack() as hooks:
        for name, module in named_layers(model).items():
            if next(module.parameters(recurse=False), None) is not None:
                hooks.enter_context(module.register_forward_hook(partial(note, name)))
        model(images.clone())
    return order


def _reinitialise(modules: Iterable[nn.Module], generator: torch.Generator) -> None:
    """Random values for the modules' own parameters, in place, on the CPU."""
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    with torch.random.fork_rng([]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        for module in modules:
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            else:
                for parameter in module.parameters(recurse=False):
                    parameter.normal_(float(parameter.mean()), float(parameter.std(correction=0)))

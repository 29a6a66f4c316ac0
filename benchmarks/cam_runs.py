"""The runs that `benchmarks.cam` measures: the same maps from this project and other packages, and the lower limit.

All runs give maps with the size of the images on the scale [0, 1]. torchcam and captum leave resize and scaling to the
caller, so they use ours here. Needs the dev extra.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytorch_grad_cam
import torch
import torchcam.methods
from captum.attr import LayerGradCam  # type: ignore[import-untyped]
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection
from torch import Tensor, nn
from torch.nn import functional as F

import cam_core
from experiments.settings.parts import NETWORKS, load_part

CLASSES = 10
SIX = ("gradcam", "gradcam++", "hirescam", "xgradcam", "layercam", "elementwise")
EIGHT = (*SIX, "eigencam", "eigengradcam")
TORCHCAM_FOUR = {"gradcam": "GradCAM", "gradcam++": "GradCAMpp", "xgradcam": "XGradCAM", "layercam": "LayerCAM"}
GRAD_CAM_SIX = ("GradCAM", "GradCAMPlusPlus", "HiResCAM", "XGradCAM", "LayerCAM", "GradCAMElementWise")


@dataclass(frozen=True)
class Case:
    """A network in eval mode, and images with a class each, all on one device; the maps are for all its CAM layers."""

    model: nn.Module
    images: Tensor
    classes: Tensor

    @property
    def layers(self) -> tuple[str, ...]:
        layers: tuple[str, ...] = self.model.cam_layers  # type: ignore[assignment]
        return layers

    @property
    def size(self) -> tuple[int, int]:
        return (self.images.shape[2], self.images.shape[3])

    def of(self, count: int) -> "Case":
        """The same network with `count` other images."""
        images, classes = pictures(count)
        return replace(self, images=images.to(self.images.device), classes=classes.to(self.classes.device))


Run = Callable[[], object]


def pictures(count: int, side: int = 32) -> tuple[Tensor, Tensor]:
    """Noise with a bright square, `(count, 3, side, side)` in [0, 1]; its place is the class, `(count,)`."""
    images = torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) / 2
    classes = torch.arange(count) % CLASSES
    cell = side // 4
    for image, place in zip(images, classes.tolist(), strict=True):
        row, column = cell * (place // 4), cell * (place % 4)
        image[:, row : row + cell, column : column + cell] += 0.5
    return images, classes


def case(model_name: str, count: int, device: torch.device, *, steps: int = 4) -> Case:
    """A network after a few training steps, so that its running statistics and maps are not degenerate."""
    torch.manual_seed(0)
    model = load_part(NETWORKS, model_name)(CLASSES, (0.3,) * 3, (0.2,) * 3)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None  # with so few steps, use their plain mean
    images, classes = pictures(32)
    for _ in range(steps):
        optimiser.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(images), classes))
        optimiser.step()
    optimiser.zero_grad()
    images, classes = pictures(count)
    return Case(model.eval().to(device), images.to(device), classes.to(device))


def bare_limit(case: Case) -> Tensor:
    """Only the gradient at the first layer, which every method needs."""
    kept: list[Tensor] = []
    hook = case.model.get_submodule(case.layers[0]).register_forward_hook(lambda *call: kept.append(call[-1]))
    try:
        logits = case.model(case.images)
    finally:
        hook.remove()
    return torch.autograd.grad(logits.gather(1, case.classes[:, None]).sum(), kept)[0]


def ours(case: Case, methods: Sequence[str]) -> dict[str, cam_core.Cams]:
    """One forward and one backward pass per 64 images for all methods and layers."""
    return cam_core.cams_of_methods(case.model, case.images, case.layers, case.classes, methods=methods)


def torchcam_maps(case: Case, extractors: Sequence[str]) -> dict[str, Tensor]:
    """torchcam: one extractor per method, for all layers at once; `(layers, n, h, w)` by extractor."""
    found = {}
    for name in extractors:
        with getattr(torchcam.methods, name)(case.model, list(case.layers)) as extractor:
            logits = case.model(case.images)
            maps = extractor(case.classes.tolist(), logits, normalized=False)
        found[name] = torch.stack([_at_size(one, case) for one in maps])
    return found


def captum_maps(case: Case) -> Tensor:
    """captum: one `LayerGradCam` per layer; `(layers, n, h, w)`."""
    found = []
    for name in case.layers:
        explainer = LayerGradCam(case.model, case.model.get_submodule(name))
        maps = explainer.attribute(case.images, target=case.classes, relu_attributions=True)
        found.append(_at_size(maps.detach()[:, 0], case))
    return torch.stack(found)


def _at_size(maps: Tensor, case: Case) -> Tensor:
    return cam_core.normalise(cam_core.resize(maps, case.size))


def grad_cam_maps(case: Case, methods: Sequence[str]) -> list[np.ndarray]:
    """grad-cam as its README shows it: one object per method and layer; `(n, h, w)` each."""
    targets = [ClassifierOutputTarget(label) for label in case.classes.tolist()]
    found = []
    for method in methods:
        for name in case.layers:
            with getattr(pytorch_grad_cam, method)(case.model, [case.model.get_submodule(name)]) as explainer:
                found.append(explainer(case.images, targets))
    return found


def one_pass(case: Case) -> dict[str, Run]:
    """The lower limit first, then packages with at most one pass per method."""
    return {
        "bare limit: forward, gradient at the stem": partial(bare_limit, case),
        "ours, GradCAM": partial(ours, case, ["gradcam"]),
        "ours, torchcam's 4 methods": partial(ours, case, list(TORCHCAM_FOUR)),
        "ours, 6 gradient methods": partial(ours, case, SIX),
        "ours, 8 methods (EigenCAM, EigenGradCAM too)": partial(ours, case, EIGHT),
        "torchcam, GradCAM": partial(torchcam_maps, case, ["GradCAM"]),
        "torchcam, 4 methods": partial(torchcam_maps, case, list(TORCHCAM_FOUR.values())),
        "captum, GradCAM": partial(captum_maps, case),
    }


def one_object_each(case: Case) -> dict[str, Run]:
    """grad-cam, which needs one pass per method and layer."""
    return {
        "bare limit: forward, gradient at the stem": partial(bare_limit, case),
        "ours, GradCAM": partial(ours, case, ["gradcam"]),
        "ours, 6 gradient methods": partial(ours, case, SIX),
        "grad-cam, GradCAM": partial(grad_cam_maps, case, ["GradCAM"]),
        "grad-cam, 6 gradient methods": partial(grad_cam_maps, case, GRAD_CAM_SIX),
    }


def eigen(case: Case) -> dict[str, Run]:
    """EigenCAM: only the method from the same activations, at all layers and at the second one; then from images."""
    evidence = cam_core.capture(case.model, case.images, case.layers, case.classes)
    every = list(evidence.activations.values())
    second = [evidence.activations[case.layers[1]]]
    return {
        "ours, from activations": partial(_eigen_ours, every),
        "grad-cam, from activations": partial(_eigen_grad_cam, [values.cpu().numpy() for values in every]),
        "ours, from activations of layer1": partial(_eigen_ours, second),
        "grad-cam, from activations of layer1": partial(_eigen_grad_cam, [values.cpu().numpy() for values in second]),
        "ours, from images": partial(ours, case, ["eigencam"]),
        "grad-cam, from images": partial(grad_cam_maps, case, ["EigenCAM"]),
    }


def _eigen_ours(activations: Sequence[Tensor]) -> list[Tensor]:
    return [cam_core.METHODS["eigencam"](values, values) for values in activations]


def _eigen_grad_cam(activations: Sequence[np.ndarray]) -> list[np.ndarray]:
    return [get_2d_projection(values) for values in activations]


def growing(case: Case, counts: Sequence[int]) -> dict[str, Run]:
    """GradCAM for increasing numbers of images."""
    return {f"one of {count:,} images": partial(ours, case.of(count), ["gradcam"]) for count in counts}

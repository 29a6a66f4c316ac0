"""Parity to 1e-5 with three other libraries under one convention; where theirs is another one, the test converts.

What differs, as their code has it:

- grad-cam 1.5.7 subtracts each map's minimum and adds 1e-7 to the maximum before it divides by it, both before the
  resize and again after it. We only divide by the maximum, once, after the resize, without an epsilon. Its XGradCAM
  adds 1e-7 to the sum of the activations, its Grad-CAM++ 1e-6 to the denominator of equation 19. The tests make all
  gradients large by scaling the last linear layer, so that no epsilon counts, and subtract the minimum from our maps.
- The sign of grad-cam's first components (EigenCAM, EigenGradCAM, `eigen_smooth`) is whatever the singular value
  decomposition gives; ours is fixed. The map after the ReLU is compared with that of both signs.
- grad-cam's `aug_smooth` averages maps whose minimum was subtracted in each view; ours does not subtract it.
- torchcam 0.5.0 gives maps at the layer's resolution and, unless told otherwise, normalises them there, as grad-cam
  with 1e-8. Compared are its maps before that, resized as ours. Its XGradCAM adds 1e-8 to the sum of the activations.
- torchcam's Grad-CAM++ never divides by its denominator: the channel weight is the sum of relu(g)^3. That is another
  map; shown here, not matched.
- captum 0.9.0 applies no ReLU unless told to, leaves the maps at the layer's resolution, enlarges them by the nearest
  value unless told otherwise, and never normalises.
"""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from cam_core import METHODS, Contrast, cams, cams_of_methods, capture, normalise, resize
from cam_core.methods import EIGEN_SMOOTHED
from experiments.models.resnet18 import ResNet18

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

TOLERANCE = 1e-5
LOUD = 1e9

SUMMED = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "hirescam": "HiResCAM",
    "xgradcam": "XGradCAM",
    "layercam": "LayerCAM",
    "elementwise": "GradCAMElementWise",
}


class Small(nn.Module):
    """Three stages, the last before pooling and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.middle = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1, stride=2), nn.ReLU())
        self.late = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1, stride=2), nn.ReLU())
        self.linear = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.late(self.middle(self.stem(x))).mean((2, 3)))


@dataclass(frozen=True)
class Case:
    """A network, images with their classes, and the layers to compare."""

    model: Small | ResNet18
    images: Tensor
    classes: Tensor
    layers: tuple[str, ...]

    @property
    def size(self) -> tuple[int, int]:
        return (self.images.shape[2], self.images.shape[3])


@pytest.fixture(scope="module", params=["small", "resnet18"])
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(3)
    if request.param == "small":
        found = Case(Small(), torch.rand(4, 3, 20, 28), torch.tensor([0, 9, 1, 4]), ("stem", "middle", "late"))
    else:
        resnet, layers = ResNet18(10, [0.5] * 3, [0.25] * 3), ("stem", "layer2", "layer3", "layer4")
        found = Case(resnet, torch.rand(2, 3, 32, 32), torch.tensor([0, 9]), layers)
    with torch.no_grad():
        found.model.linear.weight *= LOUD
    found.model.eval()
    return found


def by_grad_cam(case: Case, name: str, layer: str, **smoothing: bool) -> Tensor:
    """Their maps, in [0, 1] at input size."""
    library = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    targets = [ClassifierOutputTarget(int(index)) for index in case.classes]
    with getattr(library, name)(case.model, [case.model.get_submodule(layer)]) as engine:
        return torch.from_numpy(engine(case.images, targets, **smoothing)).float()


def by_torchcam(case: Case, name: str) -> dict[str, Tensor]:
    """Their maps after the ReLU at the layers' resolutions, not normalised, with an epsilon in XGradCAM alone."""
    methods = pytest.importorskip("torchcam.methods")
    with getattr(methods, name)(case.model, list(case.layers)) as engine:
        found = engine(case.classes.tolist(), case.model(case.images), normalized=False)
    return dict(zip(case.layers, found, strict=True))


def without_minimum(maps: Tensor) -> Tensor:
    """Maps as grad-cam scales them: the minimum is 0, the maximum 1."""
    return normalise(maps - maps.amin((1, 2), keepdim=True))


def assert_same(ours: Tensor, theirs: Tensor) -> None:
    shows_something = theirs.flatten(1).std(1) > 0.02
    assert shows_something.float().mean() >= 0.5, "maps of one value show no parity"
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize(("method", "name"), SUMMED.items())
def test_grad_cam_gives_these_maps(case: Case, method: str, name: str) -> None:
    ours = cams(case.model, case.images, case.layers, case.classes, method=method)
    for layer, maps in zip(case.layers, ours.maps, strict=True):
        assert_same(without_minimum(maps), by_grad_cam(case, name, layer))


@pytest.mark.parametrize(
    ("method", "name", "smoothing"),
    [
        ("eigencam", "EigenCAM", {}),
        ("eigengradcam", "EigenGradCAM", {}),
        ("gradcam:eigen_smooth", "GradCAM", {"eigen_smooth": True}),
        ("layercam:eigen_smooth", "LayerCAM", {"eigen_smooth": True}),
        ("hirescam:eigen_smooth", "HiResCAM", {"eigen_smooth": True}),
    ],
)
def test_grad_cam_gives_these_first_components_up_to_their_sign(
    case: Case, method: str, name: str, smoothing: dict[str, bool]
) -> None:
    layers = case.layers[1:3]  # more positions than channels, and fewer; of a whole first layer it takes seconds
    ours = cams(case.model, case.images, layers, case.classes, method=method)
    for layer, maps in zip(layers, ours.maps, strict=True):
        theirs = by_grad_cam(case, name, layer, **smoothing)
        as_ours, opposite = (without_minimum(resize(raw.relu(), case.size)) for raw in signed(case, method, layer))
        torch.testing.assert_close(without_minimum(maps), as_ours, atol=TOLERANCE, rtol=0)
        agrees = ((as_ours - theirs).abs().amax((1, 2)) < TOLERANCE)[:, None, None]
        assert_same(torch.where(agrees, as_ours, opposite), theirs)
        assert (as_ours - opposite).abs().amax((1, 2)).min() > 0.5  # so that a match says something


def signed(case: Case, method: str, layer: str) -> tuple[Tensor, Tensor]:
    """The first component at the layer's resolution, with our sign and with the other one."""
    evidence = capture(case.model, case.images, [layer], case.classes)
    base, _, smoothing = method.partition(":")
    raw = (EIGEN_SMOOTHED if smoothing else METHODS)[base](evidence.activations[layer], evidence.gradients[layer])
    return raw, -raw


def six_views(case: Case, method: str, each: Callable[[Tensor], Tensor]) -> Tensor:
    """`aug_smooth` by six calls: the mean over mirrored or not and three factors of what `each` makes of the maps."""
    views = []
    for factor in (0.9, 1.0, 1.1):
        as_is = cams(case.model, case.images * factor, case.layers, case.classes, method=method).maps
        mirrored = cams(case.model, case.images.flip(3) * factor, case.layers, case.classes, method=method).maps
        views += [each(as_is.flatten(0, 1)), each(mirrored.flatten(0, 1)).flip(2)]
    return torch.stack(views).mean(0).view(len(case.layers), -1, *case.size)


@pytest.mark.parametrize("method", ["gradcam", "xgradcam", "layercam", "eigencam", "gradcam:eigen_smooth"])
def test_aug_smooth_is_the_mean_of_six_calls(case: Case, method: str) -> None:
    base, *eigen_smooth = method.split(":")
    name = ":".join((base, "aug_smooth", *eigen_smooth))
    ours = cams(case.model, case.images, case.layers, case.classes, method=name)
    torch.testing.assert_close(ours.maps, six_views(case, method, each=lambda maps: maps), atol=TOLERANCE, rtol=0)
    plain = cams(case.model, case.images, case.layers, case.classes, method=method)
    assert (ours.maps - plain.maps).abs().amax() > 0.01  # the views do differ
    torch.testing.assert_close(ours.logits, plain.logits, atol=0, rtol=1e-5)


def test_grad_cam_s_aug_smooth_differs_in_the_minimum_alone(case: Case) -> None:
    ours = six_views(case, "gradcam", each=without_minimum)
    for layer, maps in list(zip(case.layers, ours, strict=True))[-2:]:
        assert_same(maps, by_grad_cam(case, "GradCAM", layer, aug_smooth=True))


@pytest.mark.parametrize(
    ("method", "name"), [("gradcam", "GradCAM"), ("xgradcam", "XGradCAM"), ("layercam", "LayerCAM")]
)
def test_torchcam_gives_these_maps(case: Case, method: str, name: str) -> None:
    ours = cams(case.model, case.images, case.layers, case.classes, method=method)
    theirs = [resize(maps, case.size) for maps in by_torchcam(case, name).values()]
    for maps, strength, raw in zip(ours.maps, ours.strength, theirs, strict=True):
        assert_same(maps, normalise(raw))
        torch.testing.assert_close(strength, raw.amax((1, 2)), rtol=1e-4, atol=0)


def test_torchcam_s_grad_cam_plus_plus_is_another_formula(case: Case) -> None:
    evidence = capture(case.model, case.images, case.layers, case.classes)
    ours = cams(case.model, case.images, case.layers, case.classes, method="gradcam++")
    for (layer, theirs), maps in zip(by_torchcam(case, "GradCAMpp").items(), ours.maps, strict=True):
        weights = evidence.gradients[layer].relu().pow(3).sum((2, 3), keepdim=True)
        undivided = (weights * evidence.activations[layer]).sum(1)
        torch.testing.assert_close(normalise(theirs), normalise(undivided), atol=TOLERANCE, rtol=0)
        assert (normalise(resize(theirs, case.size)) - maps).abs().amax() > 0.02


def test_captum_gives_grad_cam(case: Case) -> None:
    attr = pytest.importorskip("captum.attr")
    ours = cams_of_methods(case.model, case.images, case.layers, case.classes, methods=["gradcam"])["gradcam"]
    for layer, maps, strength in zip(case.layers, ours.maps, ours.strength, strict=True):
        engine = attr.LayerGradCam(case.model, case.model.get_submodule(layer))
        raw = engine.attribute(case.images, target=case.classes, relu_attributions=True).detach()
        theirs = attr.LayerAttribution.interpolate(raw, case.size, "bilinear")[:, 0]
        assert_same(maps, normalise(theirs))
        torch.testing.assert_close(strength, theirs.amax((1, 2)), rtol=1e-4, atol=0)


@pytest.mark.parametrize("strength", [0.6, 1.0])
def test_torchcam_s_finercam_is_gradcam_of_a_contrast_with_the_nearest_classes(case: Case, strength: float) -> None:
    methods = pytest.importorskip("torchcam.methods")
    target = Contrast(case.classes, near=3, strength=strength)
    ours = cams(case.model, case.images, case.layers, target)
    with methods.FinerCAM(case.model, list(case.layers), gamma=strength, num_references=3) as engine:
        theirs = engine(case.classes.tolist(), case.model(case.images), normalized=False)
    for maps, raw in zip(ours.maps, theirs, strict=True):
        assert_same(maps, normalise(resize(raw, case.size)))


def test_torchcam_s_original_cam_is_gradcam_before_pooling_and_a_linear_head(case: Case) -> None:
    methods = pytest.importorskip("torchcam.methods")
    layer = case.layers[-1]
    with methods.CAM(case.model, layer, "linear") as engine:
        case.model(case.images)
        (theirs,) = engine(case.classes.tolist(), normalized=False)
    ours = cams(case.model, case.images, [layer], case.classes)
    assert_same(ours.maps[0], normalise(resize(theirs.relu(), case.size)))  # theirs has no ReLU

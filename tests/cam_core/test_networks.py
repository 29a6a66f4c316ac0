"""Networks of torchvision with random weights: their layers, their evidence, their maps, and what stays as it was."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from cam_core import METHODS, auto_layers, cams, cams_of_methods, capture
from cam_core.inputs import Reshape

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

CLASSES = torch.tensor([0, 9])


def patches(tokens: Tensor) -> Tensor:
    """The map of a ViT's tokens: the class token dropped, the others on their square."""
    side = int((tokens.shape[1] - 1) ** 0.5)
    return tokens[:, 1:].mT.reshape(len(tokens), -1, side, side)


def channels_first(output: Tensor) -> Tensor:
    """The map of a layer that puts out (n, h, w, c)."""
    return output.permute(0, 3, 1, 2)


def vgg() -> nn.Module:
    """VGG with a head of one layer; its own has more parameters than all the other networks together."""
    model = models.vgg11_bn(init_weights=False)
    model.classifier = nn.Linear(512 * 7 * 7, 10)
    return model


def vit() -> nn.Module:
    """A ViT of two blocks; torchvision's head is all zero before training."""
    model = models.VisionTransformer(
        image_size=64, patch_size=8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=10
    )
    nn.init.normal_(model.heads.head.weight)
    return model


@dataclass(frozen=True)
class Kind:
    """How to make a network, the layers that `auto_layers` finds, and where those are not explained, which are.

    `reshape` is what `cam_core` must find by itself.
    """

    make: Callable[[], nn.Module]
    found: tuple[str, ...]
    explained: tuple[str, ...] = ()
    reshape: Reshape | None = None


KINDS = {
    "resnet18": Kind(partial(models.resnet18, num_classes=10), ("relu", "layer1", "layer2", "layer3", "layer4")),
    "densenet121": Kind(
        partial(models.densenet121, num_classes=10),
        ("features.relu0", "features.denseblock1", "features.denseblock2", "features.denseblock3", "features"),
    ),
    "mobilenet_v2": Kind(
        partial(models.mobilenet_v2, num_classes=10),
        ("features.1", "features.3", "features.6", "features.13", "features"),
    ),
    "mobilenet_v3_small": Kind(
        partial(models.mobilenet_v3_small, num_classes=10),
        ("features.0", "features.1", "features.3", "features.8", "features"),
    ),
    "efficientnet_b0": Kind(
        partial(models.efficientnet_b0, num_classes=10),
        ("features.1", "features.2", "features.3", "features.5", "features"),
    ),
    "convnext_tiny": Kind(
        partial(models.convnext_tiny, num_classes=10), ("features.1", "features.3", "features.5", "features")
    ),
    "vgg11_bn": Kind(vgg, ("features.2", "features.6", "features.13", "features.20", "features.27")),
    "vit": Kind(
        vit,
        ("encoder.layers.encoder_layer_0",),
        ("encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1.ln_1"),
        patches,
    ),
    "swin_t": Kind(
        partial(models.swin_t, num_classes=10),
        ("features.1", "features.3", "features.5", "norm"),
        ("features.1", "features.3", "features.5", "features.7"),
        channels_first,
    ),
}
WEAK = ("mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0")


@dataclass(frozen=True)
class Net:
    """A network made, images, and what is explained of them."""

    name: str
    model: nn.Module
    images: Tensor
    layers: tuple[str, ...]
    reshape: Reshape | None

    def as_map(self, output: Tensor) -> Tensor:
        """A layer's output, or its gradient, as (n, c, h, w)."""
        return output if self.reshape is None else self.reshape(output)


def net_of(name: str) -> Net:
    torch.manual_seed(0)
    kind = KINDS[name]
    return Net(name, kind.make().eval(), torch.rand(2, 3, 64, 64), kind.explained or kind.found, kind.reshape)


@pytest.fixture(scope="module", params=KINDS)
def net(request: pytest.FixtureRequest) -> Net:
    return net_of(request.param)


@pytest.fixture(scope="module")
def own(net: Net) -> dict[str, tuple[Tensor, Tensor]]:
    """By layer the activations and gradients, found without `capture`."""
    return {layer: cut_at(net, layer) for layer in net.layers}


def cut_at(net: Net, layer: str) -> tuple[Tensor, Tensor]:
    """A layer's output, and the gradient of the classes' logits at it, of a network that starts there.

    The network goes on with a copy of a leaf that holds the output, so that it cannot change it in place.
    """
    leaves: list[Tensor] = []

    def start_here(module: nn.Module, args: object, output: Tensor) -> Tensor:
        leaves.append(output.detach().clone().requires_grad_())
        return leaves[0].clone()

    handle = net.model.get_submodule(layer).register_forward_hook(start_here)
    logits = net.model(net.images)
    handle.remove()
    (leaf,) = leaves
    (gradient,) = torch.autograd.grad(logits[torch.arange(2), CLASSES].sum(), leaf)
    return net.as_map(leaf.detach()), net.as_map(gradient)


def drawn(raw: Tensor, size: tuple[int, int]) -> np.ndarray:
    """Signed maps made ready by OpenCV and numpy."""
    positive = np.maximum(raw.double().numpy(), 0)
    large = np.stack([cv2.resize(one, size[::-1], interpolation=cv2.INTER_LINEAR) for one in positive])
    top = large.max((1, 2), keepdims=True)
    return np.divide(large, top, out=np.zeros_like(large), where=top > 0)


def test_auto_layers_are_the_ends_of_the_stages(net: Net) -> None:
    assert auto_layers(net.model, net.images) == KINDS[net.name].found


def test_the_evidence_is_that_of_a_network_cut_at_the_layer(net: Net, own: dict[str, tuple[Tensor, Tensor]]) -> None:
    evidence = capture(net.model, net.images, net.layers, CLASSES)
    with torch.no_grad():
        torch.testing.assert_close(evidence.logits, net.model(net.images), atol=1e-6, rtol=1e-5)
    assert tuple(evidence.activations) == tuple(evidence.gradients) == net.layers
    for layer, (activations, gradients) in own.items():
        torch.testing.assert_close(evidence.activations[layer], activations, atol=0, rtol=0)
        scale = float(gradients.abs().max())
        assert scale > 0
        torch.testing.assert_close(evidence.gradients[layer], gradients, atol=1e-5 * scale, rtol=0)


def test_maps_of_all_methods(net: Net, own: dict[str, tuple[Tensor, Tensor]]) -> None:
    found = cams_of_methods(net.model, net.images, net.layers, CLASSES, methods=list(METHODS))
    assert list(found) == list(METHODS)
    for method, some in found.items():
        assert some.maps.shape == (len(net.layers), 2, 64, 64), method
        assert some.maps.min() >= 0, method
        assert torch.equal(some.maps.amax((2, 3)), (some.strength > 0).float()), method
    # Those that cannot be negative everywhere, by their formulas.
    for method in ("elementwise", "eigencam", "eigengradcam"):
        assert found[method].strength.min() > 0, method
    for index, (activations, gradients) in enumerate(own.values()):
        grid = (activations.shape[2], activations.shape[3])
        assert found["gradcam"].grids[index] == grid
        gradcam = (gradients.mean((2, 3), keepdim=True) * activations).sum(1)
        layercam = (gradients.clamp(min=0) * activations).sum(1)
        for method, raw in (("gradcam", gradcam), ("layercam", layercam)):
            np.testing.assert_allclose(found[method].maps[index].numpy(), drawn(raw, (64, 64)), atol=1e-3)


def test_a_power_of_two_at_the_head_changes_no_bit_of_a_map(net: Net) -> None:
    """Rounding commutes with it as long as no gradient, however weak, meets an epsilon or underflows."""
    methods = ["gradcam", "hirescam", "layercam", "eigengradcam"]
    (head,) = [module for module in net.model.modules() if isinstance(module, nn.Linear)][-1:]
    before = cams_of_methods(net.model, net.images, net.layers, CLASSES, methods=methods)
    with torch.no_grad():
        head.weight *= 2.0**20
    after = cams_of_methods(net.model, net.images, net.layers, CLASSES, methods=methods)
    with torch.no_grad():
        head.weight /= 2.0**20
    for method in methods:
        assert torch.equal(after[method].maps, before[method].maps), method
        assert torch.equal(after[method].strength, before[method].strength * 2.0**20), method
    if net.name in WEAK:
        # An epsilon of 1e-7, as others add, would have blanked these.
        assert 0 < before["gradcam"].strength.max() < 1e-9


def state(model: nn.Module) -> dict[str, object]:
    """Everything of a network that explaining must leave alone."""
    return {
        "values": {name: value.clone() for name, value in model.state_dict().items()},
        "grads": {name: parameter.grad for name, parameter in model.named_parameters()},
        "requires_grad": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "inplace": {name: getattr(module, "inplace", None) for name, module in model.named_modules()},
        "modules": {name: id(module) for name, module in model.named_modules()},
        "hooks": {
            name: (*module._forward_hooks, *module._forward_pre_hooks, *module._backward_hooks)
            for name, module in model.named_modules()
        },
        "random": torch.get_rng_state(),
    }


def test_a_network_in_training_is_explained_as_one_in_use_and_stays_as_it_was(net: Net) -> None:
    expected = cams(net.model, net.images, net.layers, CLASSES)
    net.model.train()
    first = next(net.model.parameters()).requires_grad_(False)
    before = state(net.model)
    cams(net.model, net.images, auto_layers(net.model, net.images), CLASSES)
    found = cams(net.model, net.images, net.layers, CLASSES)
    after = state(net.model)
    net.model.eval()
    first.requires_grad_(True)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in net.model.parameters())
    assert torch.equal(found.maps, expected.maps)
    assert torch.equal(found.logits, expected.logits)


def test_the_last_block_of_a_vit_has_no_class_activation_map() -> None:
    """After the last attention the head reads the class token alone: explain what goes into that attention."""
    net = net_of("vit")
    last = "encoder.layers.encoder_layer_1"
    dead = cams(net.model, net.images, [last], CLASSES, method="elementwise")
    assert dead.strength.count_nonzero() == dead.maps.count_nonzero() == 0
    live = cams(net.model, net.images, [f"{last}.ln_1"], CLASSES, method="elementwise")
    assert live.strength.min() > 0


def trained_alike(model: nn.Module, images: Tensor) -> nn.Module:
    """The model with the batch statistics of these images, for activations of ordinary size at every depth."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        model.train()(images)
    return model.eval()


def small_densenet() -> nn.Module:
    return models.DenseNet(growth_rate=4, block_config=(2, 2), num_init_features=8, num_classes=10)


PERTURBED = {
    "mobilenet_v3_small": (KINDS["mobilenet_v3_small"].make, "features.1", None),
    "densenet": (small_densenet, "features.denseblock1.denselayer1", None),
    "vit": (vit, "encoder.layers.encoder_layer_0", patches),
}


@pytest.fixture(scope="module", params=PERTURBED)
def perturbed(request: pytest.FixtureRequest) -> Net:
    torch.manual_seed(0)
    make, layer, reshape = PERTURBED[request.param]
    images = torch.rand(2, 3, 64, 64)
    return Net(request.param, trained_alike(make(), images), images, (layer,), reshape)


def logit_without(net: Net, index: int, channel: int) -> Tensor:
    """The logit of an image's class where one channel of the layer's map is 0."""

    def take_away(module: nn.Module, args: object, output: Tensor) -> Tensor:
        rest = output.clone()
        net.as_map(rest)[:, channel] = 0  # a view of it
        return rest

    handle = net.model.get_submodule(net.layers[0]).register_forward_hook(take_away)
    logits = net.model(net.images[index : index + 1])
    handle.remove()
    return logits[0, CLASSES[index]]


def logit_behind(net: Net, index: int, channel: Tensor) -> Tensor:
    """The logit of an image's class where the image is seen through one channel."""
    mask = cv2.resize(channel.numpy(), (64, 64), interpolation=cv2.INTER_LINEAR)
    mask = (mask - mask.min()) / (mask.max() - mask.min())
    return net.model(net.images[index : index + 1] * torch.from_numpy(mask))[0, CLASSES[index]]


@torch.no_grad()
def test_ablation_and_score_cam_are_those_of_one_pass_for_every_image_and_channel(perturbed: Net) -> None:
    net = perturbed
    evidence = capture(net.model, net.images, net.layers, CLASSES)
    (activations,) = evidence.activations.values()
    channels = range(activations.shape[1])
    whole = net.model(net.images)[torch.arange(2), CLASSES]
    drops = torch.stack([torch.stack([whole[i] - logit_without(net, i, k) for k in channels]) for i in range(2)])
    behind = torch.stack([torch.stack([logit_behind(net, i, activations[i, k]) for k in channels]) for i in range(2)])
    own = {"ablationcam": drops, "scorecam": behind.softmax(1)}
    before = state(net.model)
    found = cams_of_methods(net.model, net.images, net.layers, CLASSES, methods=list(own))
    torch.testing.assert_close(state(net.model), before, rtol=0, atol=0)
    for method, weights in own.items():
        assert weights.std() > 1e-3 * weights.abs().max(), method
        raw = (weights[:, :, None, None] * activations).sum(1)
        np.testing.assert_allclose(found[method].maps[0].numpy(), drawn(raw, (64, 64)), atol=1e-3, err_msg=method)
        torch.testing.assert_close(found[method].strength[0] > 0, raw.amax((1, 2)) > 0)

"""The networks have the published size, work on other image sizes and name their CAM layers."""

import pytest
import torch
from torch.nn import functional as F

from experiments.models.fastnet import FastNet, whitening
from experiments.models.resnet18 import ResNet18
from experiments.settings.parts import NETWORKS, load_part

HALF, QUARTER = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]


def test_resnet18_has_the_published_number_of_parameters() -> None:
    assert sum(parameter.numel() for parameter in ResNet18(10, HALF, QUARTER).parameters()) == 11_173_962


def test_the_layout_for_small_maps_changes_no_number() -> None:
    torch.manual_seed(0)
    plain = ResNet18(10, HALF, QUARTER).to(memory_format=torch.channels_last)
    ours = ResNet18(10, HALF, QUARTER).to(memory_format=torch.channels_last)
    ours.load_state_dict(plain.state_dict())
    ours.lay_out("cpu", 32)
    inputs: dict[str, torch.Tensor] = {}
    ours.layer4.register_forward_pre_hook(lambda module, given: inputs.update(layer4=given[0]))
    images = torch.rand(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    for model in (plain, ours):
        F.cross_entropy(model(images), torch.arange(4)).backward()
    assert inputs["layer4"].shape == (4, 256, 8, 8)
    assert inputs["layer4"].is_contiguous()
    torch.testing.assert_close(ours(images), plain(images))
    for (name, expected), found in zip(plain.named_parameters(), ours.parameters(), strict=True):
        assert expected.grad is not None
        assert found.grad is not None
        assert (found.grad - expected.grad).norm() < 1e-3 * expected.grad.norm(), name


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("side", [8, 16, 32, 48, 256])
def test_any_image_size_and_number_of_classes(name: str, side: int) -> None:
    model = load_part(NETWORKS, name)(7, HALF, QUARTER).eval()
    assert model(torch.rand(2, 3, side, side)).shape == (2, 7)


@pytest.mark.parametrize("name", NETWORKS)
def test_cam_layers_go_from_the_first_to_the_last_and_from_fine_to_coarse(name: str) -> None:
    model = load_part(NETWORKS, name)(10, HALF, QUARTER).eval()
    sides: dict[str, int] = {}
    for layer in model.cam_layers:
        model.get_submodule(layer).register_forward_hook(
            lambda module, inputs, output, layer=layer: sides.update({layer: output.shape[-1]})
        )
    model(torch.rand(1, 3, 32, 32))
    assert tuple(sides) == model.cam_layers
    assert list(sides.values()) == sorted(sides.values(), reverse=True)
    assert sides[model.cam_layers[0]] >= 31
    assert sides[model.cam_layers[-1]] >= 4


@pytest.mark.parametrize("name", ["fastnet", "fastnet_wide"])
def test_the_fast_nets_last_map_has_eight_by_eight_cells(name: str) -> None:
    model = load_part(NETWORKS, name)(10, HALF, QUARTER).eval()
    shapes = []
    model.layer3.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape)))
    model(torch.rand(1, 3, 32, 32))
    assert shapes == [(1, model.widths[-1], 8, 8)]


def test_the_network_normalises_its_images_itself() -> None:
    model = load_part(NETWORKS, "fastnet")(10, HALF, QUARTER)
    images = torch.full((1, 3, 4, 4), 0.75)
    assert torch.equal(model.normalise(images), torch.ones(1, 3, 4, 4))


def test_whitening_makes_the_values_of_patches_uncorrelated_and_of_one_size() -> None:
    images = F.avg_pool2d(torch.randn(50, 3, 26, 26), 3, 1) + torch.randn(50, 1, 1, 1)  # neighbours are alike
    filters = whitening(images, eps=0.0)
    outputs = F.conv2d(images, filters).permute(1, 0, 2, 3).flatten(1)
    moments = outputs[:12] @ outputs[:12].T / outputs.shape[1]
    assert torch.allclose(moments, torch.eye(12), atol=2e-3)
    assert torch.equal(outputs[12:], -outputs[:12])


def test_whitening_damps_what_hardly_varies_by_its_formula() -> None:
    images, eps = torch.randn(20, 3, 9, 9) * 0.05, 5e-4
    patches = F.unfold(images, 2).permute(1, 0, 2).flatten(1)
    moments = patches @ patches.T / patches.shape[1]
    filters = whitening(images, eps)[:12].flatten(1)
    assert torch.allclose(filters @ (moments + eps * torch.eye(12)) @ filters.T, torch.eye(12), atol=1e-3)


def test_whitening_of_images_without_variation_is_finite() -> None:
    assert whitening(torch.zeros(3, 3, 8, 8)).isfinite().all()
    assert whitening(torch.rand(3, 1, 8, 8).expand(3, 3, 8, 8)).isfinite().all()  # grey: rank 4 of 12


def test_whiten_sees_normalised_images_and_keeps_the_filters_frozen() -> None:
    model, images = FastNet(10, HALF, QUARTER), torch.rand(20, 3, 16, 16)
    model.whiten(images)
    filters = model.stem.get_parameter("0.weight")
    assert torch.equal(filters, whitening((images - 0.5) / 0.25))
    assert not filters.requires_grad


def test_at_first_the_second_convolution_of_a_group_passes_its_input_on() -> None:
    model, maps = FastNet(10, HALF, QUARTER), torch.rand(2, 128, 5, 5)
    assert torch.equal(model.layer3[3](maps), maps)
    assert torch.equal(model.layer2[0](maps[:, :32])[:, :32], maps[:, :32])  # of 128 filters the first 32


def test_logits_are_divided_by_the_width_and_the_classifier_starts_at_one() -> None:
    model = FastNet(10, HALF, QUARTER).eval()
    assert float(model.linear.weight.detach().std()) == pytest.approx(1.0)
    seen = []
    model.layer3.register_forward_hook(lambda module, inputs, output: seen.append(output))
    logits = model(torch.rand(2, 3, 16, 16))
    assert torch.allclose(logits, 2 * seen[0].mean((2, 3)) @ model.linear.weight.T / 128, atol=1e-6)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("image", ["black", "grey", "red"])
def test_images_without_variation_give_finite_logits_and_gradients(name: str, image: str) -> None:
    images = torch.zeros(4, 3, 16, 16)
    if image == "grey":
        images += torch.rand(4, 1, 1, 1)
    if image == "red":
        images[:, 0] = torch.rand(4, 16, 16)
    model = load_part(NETWORKS, name)(5, HALF, QUARTER)
    if isinstance(model, FastNet):
        model.whiten(images)
    F.cross_entropy(model(images), torch.arange(4)).backward()
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in model.parameters())
    assert model.eval()(images).isfinite().all()

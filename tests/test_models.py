"""The networks have the published size, work on other image sizes and name their CAM layers."""

import pytest
import torch

from experiments.models import MODELS, ResNet18

HALF, QUARTER = [0.5, 0.5, 0.5], [0.25, 0.25, 0.25]


def test_resnet18_has_the_published_number_of_parameters() -> None:
    assert sum(parameter.numel() for parameter in ResNet18(10, HALF, QUARTER).parameters()) == 11_173_962


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("side", [16, 32, 48])
def test_any_image_size_and_number_of_classes(name: str, side: int) -> None:
    model = MODELS[name](7, HALF, QUARTER).eval()
    assert model(torch.rand(2, 3, side, side)).shape == (2, 7)


@pytest.mark.parametrize("name", MODELS)
def test_cam_layers_go_from_the_first_to_the_last_and_from_fine_to_coarse(name: str) -> None:
    model = MODELS[name](10, HALF, QUARTER).eval()
    sides: dict[str, int] = {}
    for layer in model.cam_layers:
        model.get_submodule(layer).register_forward_hook(
            lambda module, inputs, output, layer=layer: sides.update({layer: output.shape[-1]})
        )
    model(torch.rand(1, 3, 32, 32))
    assert tuple(sides) == model.cam_layers
    assert list(sides.values()) == sorted(sides.values(), reverse=True)
    assert sides[model.cam_layers[0]] == 32


def test_the_network_normalises_its_images_itself() -> None:
    model = MODELS["fastnet"](10, HALF, QUARTER)
    images = torch.full((1, 3, 4, 4), 0.75)
    assert torch.equal(model.normalise(images), torch.ones(1, 3, 4, 4))

"""Layers found without being named: one per resolution stage."""

import pytest
import torch
from torch import Tensor, nn

from cam_core import auto_layers
from experiments.settings.parts import NETWORKS, load_part


@pytest.mark.parametrize("name", NETWORKS)
def test_the_suite_s_networks_name_what_is_found_at_each_resolution(name: str) -> None:
    model = load_part(NETWORKS, name)(10, [0.5] * 3, [0.25] * 3)
    found = auto_layers(model, torch.rand(1, 3, 32, 32))
    assert found[-1] == model.cam_layers[-1]
    # Where two stages have one resolution the later one stands for both.
    assert [layer for layer in model.cam_layers if layer in found] == list(found)
    outputs: dict[str, tuple[int, ...]] = {}
    for layer in model.cam_layers:
        model.get_submodule(layer).register_forward_hook(
            lambda m, a, out, layer=layer: outputs.update({layer: out.shape})
        )
    model(torch.rand(1, 3, 32, 32))
    assert len(found) == len({tuple(shape[2:]) for shape in outputs.values()})


class Shared(nn.Module):
    """One ReLU for all, a stage of its own for each size, and a pooled vector."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8))
        self.third = nn.Conv2d(8, 8, 3)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.third(self.relu(self.second(self.relu(self.first(x))))))
        return self.fc(self.pool(x).flatten(1))


def test_the_last_call_of_a_shared_module_counts_poolings_do_not_and_a_trimmed_border_is_no_stage() -> None:
    model = Shared().train()
    # 24 x 24, 12 x 12, and 10 x 10 without padding.
    assert auto_layers(model, torch.rand(2, 3, 24, 24)) == ("first", "relu#-1")
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


def test_images_need_not_be_square() -> None:
    assert auto_layers(Shared(), torch.rand(1, 3, 30, 47)) == ("first", "relu#-1")


def test_a_model_without_maps_is_told_so() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    with pytest.raises(ValueError, match=r"no layer of the model gives a map .* give reshape for tokens"):
        auto_layers(model, torch.rand(1, 3, 2, 2))

"""The networks have the published size, work on other image sizes and name their CAM layers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from experiments.augmentation.whole_batches import Augmentation
from experiments.data.dataset import Dataset, Split
from experiments.models.fastnet import FastNet, whitening
from experiments.models.resnet18 import ResNet18
from experiments.settings.parts import NETWORKS, load_part
from experiments.settings.train import TrainSettings
from experiments.training.loop import build_model, fit
from experiments.training.machine import resolve_machine

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


def moments_of(images: torch.Tensor) -> torch.Tensor:
    patches = F.unfold(images, 2)
    return (patches @ patches.mT).sum(0) / (patches.shape[0] * patches.shape[2])


def coloured(grey: torch.Tensor, colour: float) -> torch.Tensor:
    """Images with equal channels and as much noise of its own in each, normalised."""
    images = grey + colour * torch.randn(grey.shape[0], 3, *grey.shape[2:])
    return (images - images.mean((0, 2, 3), keepdim=True)) / images.std((0, 2, 3), keepdim=True).clamp_min(1e-30)


@given(seed=st.integers(0, 99), colour=st.floats(0.03, 3))
def test_filters_of_images_with_variation_in_every_direction_are_those_of_the_formula(seed: int, colour: float) -> None:
    torch.manual_seed(seed)
    images = coloured(F.avg_pool2d(torch.randn(30, 1, 14, 14), 3, 1), colour)
    values, vectors = torch.linalg.eigh(moments_of(images).double())
    assert values[0] > 1e-4 * values[-1]
    expected = (vectors / (values + 5e-4).sqrt()).T.reshape(12, 3, 2, 2).float()
    assert torch.equal(whitening(images), torch.cat((expected, -expected)))


@given(
    seed=st.integers(0, 99),
    colour=st.one_of(st.just(0.0), st.floats(-7, 0).map(lambda power: 10**power)),
    kept=st.sampled_from([(1.0, 1.0, 1.0), (1.0, 0.0, 0.0), (1.0, 1e-3, 0.0), (1.0, -1.0, 0.5)]),
    n=st.integers(1, 40),
    smooth=st.booleans(),
    precision=st.sampled_from([torch.bfloat16, torch.float16]),
)
def test_every_filter_shows_images_rather_than_rounding(
    seed: int, colour: float, kept: tuple[float, ...], n: int, smooth: bool, precision: torch.dtype
) -> None:
    torch.manual_seed(seed)
    small = torch.rand(n, 1, 3, 3) if smooth else torch.rand(n, 1, 16, 16)
    images = coloured(F.interpolate(small, (16, 16), mode="bilinear"), colour) * torch.tensor(kept).view(1, 3, 1, 1)
    filters = whitening(images)
    exact = F.conv2d(images.double(), filters.double())
    rounded = F.conv2d(images.to(precision), filters.to(precision)).double()
    noise = (rounded - exact).square().mean((0, 2, 3)).sqrt()
    assert (noise < 0.5 * exact.square().mean((0, 2, 3)).sqrt()).all()


def test_grey_images_have_each_of_their_four_directions_three_times() -> None:
    torch.manual_seed(0)
    images = coloured(torch.rand(9, 1, 8, 8), 0.0)
    filters = whitening(images, eps=0.0)
    assert torch.equal(filters[:4], filters[4:8])
    assert torch.equal(filters[:4], filters[8:12])
    outputs = F.conv2d(images, filters[:4]).transpose(0, 1).flatten(1)
    assert torch.allclose(outputs @ outputs.T / outputs.shape[1], torch.eye(4), atol=1e-4)


@pytest.mark.parametrize(("name", "precision"), [("fastnet", "fp32"), ("fastnet", "bf16"), ("fastnet_wide", "bf16")])
def test_grey_images_are_learnt_in_any_number_format(name: str, precision: str) -> None:
    """Rounding once drove the biases of the stem to 5e8."""
    random = np.random.default_rng(0)
    labels = np.arange(40, dtype=np.int64) % 2
    stripes = np.where(np.arange(16) // 2 % 2, 200, 40)
    grey = np.where(labels[:, None, None] == 1, stripes, stripes[:, None]) + random.integers(0, 50, (40, 16, 16))
    split = Split(np.repeat(grey[..., None], 3, 3).astype(np.uint8), labels, None)
    dataset = Dataset("stripes", ("a", "b"), dict.fromkeys(("train", "val", "test"), split), "0" * 16, "drawn")
    options = {"model": name, "batch_size": 20, "epochs": 6, "image_size": 16, "crop_padding": 0, "sides": "none"}
    settings = TrainSettings.of(**options, precision=precision, device="cpu", threads=1)
    model = build_model(settings, 2, *dataset.statistics)
    augmented = Augmentation(settings, 16, dataset.statistics[0])
    *_, last = fit(model, dataset, augmented, settings, resolve_machine(settings))
    assert last.metrics["val/accuracy"] == 1


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

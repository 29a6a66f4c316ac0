"""Optimizers move what they should, as PyTorch's own do, and go on bit for bit."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from experiments.settings.parts import NETWORKS, load_part
from experiments.settings.train import TrainSettings
from experiments.training.optimisers import Optimizers, as_matrix, optimizers

pytestmark = pytest.mark.usefixtures("one_thread")

FORMATS = pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])


def network(name: str = "fastnet", memory_format: torch.memory_format = torch.channels_last) -> nn.Module:
    torch.manual_seed(0)
    return load_part(NETWORKS, name)(3, [0.5] * 3, [0.25] * 3).to(memory_format=memory_format)


def settings(**options: object) -> TrainSettings:
    return TrainSettings.of(**{"optimizer": "muon", "batch_size": 8, "lr": 0.05} | options)


def backward(model: nn.Module, seed: int = 0) -> None:
    random = torch.Generator().manual_seed(seed)
    images = torch.rand(8, 3, 16, 16, generator=random)
    F.cross_entropy(model(images), torch.randint(0, 3, (8,), generator=random)).backward()


def steps(model: nn.Module, optimizer: Optimizers, seeds: range) -> None:
    for seed in seeds:
        backward(model, seed)
        optimizer.step(1 - seed / 10)


def kernels_of(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.ndim == 4 and p.requires_grad]


@FORMATS
@pytest.mark.parametrize("size", [(4, 3, 3, 3), (4, 3, 1, 1), (4, 1, 3, 3)])
def test_a_matrix_is_a_view_with_one_row_for_each_filter(
    memory_format: torch.memory_format, size: tuple[int, int, int, int]
) -> None:
    kernel = torch.randn(size).contiguous(memory_format=memory_format)
    matrix = as_matrix(kernel, kernel)
    assert matrix.shape == (4, kernel[0].numel())
    assert torch.equal(matrix.sort(1).values, kernel.flatten(1).sort(1).values)
    matrix[2] = 7.0
    assert (kernel[2] == 7.0).all()


def test_a_gradient_in_another_memory_format_gets_the_kernels_order() -> None:
    kernel = torch.randn(4, 3, 3, 3).contiguous(memory_format=torch.channels_last)
    same = kernel.contiguous(memory_format=torch.contiguous_format)
    assert torch.equal(as_matrix(same, kernel), as_matrix(kernel, kernel))


@FORMATS
@pytest.mark.parametrize("name", ["fastnet", "resnet18"])
def test_muon_moves_kernels_as_pytorchs_on_the_same_scaled_matrix(
    name: str, memory_format: torch.memory_format
) -> None:
    model = network(name, memory_format)
    expected = []
    backward(model)
    for kernel in kernels_of(model):
        assert kernel.grad is not None
        matrix = kernel.detach().flatten(1)
        matrix = nn.Parameter(matrix * math.sqrt(len(matrix)) / matrix.norm())
        matrix.grad = kernel.grad.flatten(1)
        theirs = torch.optim.Muon([matrix], lr=0.025, weight_decay=0.0, momentum=0.6, nesterov=True, ns_steps=3)
        theirs.step()
        expected.append(matrix.detach().view(kernel.shape))
    optimizers(model, settings()).step(0.5)
    for kernel, other in zip(kernels_of(model), expected, strict=True):
        # Muon computes in bfloat16, whose sums depend on the order of the columns.
        assert (kernel - other).norm() < 0.02 * 0.025 * math.sqrt(len(kernel))
        assert kernel.grad is None


@FORMATS
def test_a_step_changes_every_kernel_in_place(memory_format: torch.memory_format) -> None:
    model = network(memory_format=memory_format)
    kernels = kernels_of(model)
    places, before = [k.data_ptr() for k in kernels], [k.detach().clone() for k in kernels]
    steps(model, optimizers(model, settings()), range(2))
    assert [k.data_ptr() for k in kernels_of(model)] == places
    assert len(kernels) == 6
    assert not any(torch.equal(k, old) for k, old in zip(kernels, before, strict=True))


def test_the_rest_has_the_rates_of_airbench_for_the_summed_loss() -> None:
    model = network()
    for batch_size, lr in ((2000, 0.24), (500, 0.12)):
        sgd, _ = optimizers(model, settings(batch_size=batch_size, lr=lr, weight_decay=1e-3))._parts
        head, biases = sgd.param_groups
        assert head["params"] == [model.linear.weight]
        assert head["peak"] == pytest.approx(0.67 * batch_size)
        assert biases["peak"] == pytest.approx(0.053 * batch_size)
        assert {tuple(p.shape) for p in biases["params"]} == {(24,), (32,), (128,)}
        for group in (head, biases):
            assert group["peak"] * group["weight_decay"] == pytest.approx(1e-3)


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_what_is_frozen_has_no_state_and_stays(optimizer: str) -> None:
    model = network()
    before = {name: p.detach().clone() for name, p in model.named_parameters() if not p.requires_grad}
    ours = optimizers(model, settings(optimizer=optimizer, weight_decay=0.01))
    steps(model, ours, range(2))
    for name, old in before.items():
        assert torch.equal(model.get_parameter(name), old)
    held = sum(len(group["params"]) for part in ours._parts for group in part.param_groups)
    assert held == sum(p.requires_grad for p in model.parameters())


def test_sgd_is_pytorchs_at_the_same_rates_and_momenta() -> None:
    model = network("resnet18")
    other = copy.deepcopy(model)
    options = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
    theirs = torch.optim.SGD(other.parameters(), lr=0.05, **options)
    ours = optimizers(model, settings(optimizer="sgd", **options))
    for seed in range(3):
        backward(model, seed)
        backward(other, seed)
        ours.step(1 - seed / 10, 0.05 - seed / 20)
        theirs.param_groups[0]["lr"] = 0.05 * (1 - seed / 10)
        theirs.param_groups[0]["momentum"] = 0.95 - seed / 20
        theirs.step()
        theirs.zero_grad()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_a_restored_one_goes_on_bit_for_bit(optimizer: str) -> None:
    model = network()
    ours = optimizers(model, settings(optimizer=optimizer, momentum=0.9))
    steps(model, ours, range(2))
    state = copy.deepcopy((model.state_dict(), ours.state_dict()))
    steps(model, ours, range(2, 4))

    again = network()
    restored = optimizers(again, settings(optimizer=optimizer, momentum=0.9))
    again.load_state_dict(state[0])
    restored.load_state_dict(state[1])
    steps(again, restored, range(2, 4))
    for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)

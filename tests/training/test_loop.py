"""Training learns, repeats itself to the bit, and stops when the loss is lost."""

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from experiments.augmentation.whole_batches import Augmentation
from experiments.data.dataset import channel_statistics
from experiments.data.tensors import to_tensor
from experiments.models.fastnet import FastNet, whitening
from experiments.settings.base import SettingsError
from experiments.settings.parts import NETWORKS
from experiments.settings.recipes import RECIPES
from experiments.settings.train import TrainSettings
from experiments.training.loop import (
    EpochResult,
    TrainingDiverged,
    build_model,
    evaluate,
    fit,
    side_share,
    steps_of,
)
from experiments.training.machine import resolve_machine
from experiments.training.optimisers import Optimizers
from experiments.training.steps import add_penalties, shrink
from tests.toys.networks import CLASSES, narrow_resnet18, toy_dataset


def settings_of(**options: object) -> TrainSettings:
    quick = {"epochs": 3, "batch_size": 16, "lr": 0.05, "device": "cpu", "threads": 1, "precision": "fp32"}
    return TrainSettings.of(**quick | {"image_size": 16} | options)


def ready(n: int = 96, **options: object) -> tuple[nn.Module, Callable[..., Iterator[EpochResult]]]:
    """A fresh network of the toy data, and `fit` of it."""
    settings, dataset = settings_of(**options), toy_dataset(n)
    mean, std = channel_statistics(dataset.splits["train"].images)
    model = build_model(settings, len(CLASSES), mean, std)
    return model, partial(fit, model, dataset, Augmentation(settings, 16, mean), settings, resolve_machine(settings))


def trained(**options: object) -> tuple[nn.Module, list[EpochResult]]:
    model, start = ready(**options)
    return model, list(start())


def learned(results: list[EpochResult]) -> list[dict[str, float]]:
    return [{k: v for k, v in result.metrics.items() if not k.endswith("_s")} for result in results]


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_the_network_learns_the_toy(optimizer: str) -> None:
    _, results = trained(optimizer=optimizer)
    assert [result.epoch for result in results] == [1, 2, 3]
    assert results[-1].metrics["val/accuracy"] > 0.9  # a third by chance


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_same_seed_gives_bit_identical_metrics_and_weights(precision: str) -> None:
    options = {"cutout": True, "cutout_size": 8, "dropout": 0.2, "epochs": 2, "precision": precision}
    first_model, first = trained(**options)
    torch.rand(3)  # what else happens in the process does not matter
    np.random.rand(3)
    second_model, second = trained(**options)
    assert learned(first) == learned(second)
    for a, b in zip(first_model.state_dict().values(), second_model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    _, other = trained(**options, seed=1)
    assert learned(other) != learned(first)


MIXED = {"mixup": 0.4, "cutmix": 1.0, "random_erasing": 0.5, "trivial_augment": True, "augment_workers": 1}


@pytest.mark.slow
@pytest.mark.parametrize("more", [{"optimizer": "sgd"}, {"optimizer": "muon"}, {"optimizer": "sgd", **MIXED}])
def test_two_epochs_and_two_more_are_four_bit_for_bit(more: dict[str, object]) -> None:
    options = {**more, "dropout": 0.3, "epochs": 4}
    whole, _ = trained(**options)

    _, start = ready(**options)
    epochs = start()
    next(epochs)
    state = copy.deepcopy(next(epochs).state())
    torch.rand(3)
    resumed, start = ready(**options)
    assert [result.epoch for result in start(resumed=state)] == [3, 4]
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("optimizer", ["sgd", "muon"])
def test_the_stem_is_made_from_the_training_images_and_training_leaves_it(optimizer: str) -> None:
    model, _ = trained(optimizer=optimizer)
    assert isinstance(model, FastNet)
    images = to_tensor(toy_dataset().splits["train"].images)
    expected = whitening(model.normalise(images))
    assert torch.allclose(model.stem.get_parameter("0.weight"), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"schedule": "step", "lr_steps": "1,2", "lr_gamma": 0.1}, [1, 0.1, 0.01]),
        # Of six steps in each of three epochs the last has seen 5, 11 and 17 before it.
        ({"schedule": "linear"}, [13 / 18, 7 / 18, 1 / 18]),
        ({"schedule": "onecycle", "lr_warmup": 5 / 18}, [1, 0.560271, 0.0145330]),
    ],
)
def test_every_step_has_the_rate_of_its_place(options: dict[str, object], expected: list[float]) -> None:
    _, results = trained(lr=0.02, **options)
    assert [result.metrics["train/lr"] / 0.02 for result in results] == pytest.approx(expected, rel=1e-5)


def test_every_step_has_the_momentum_of_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[float, ...]] = []
    step = Optimizers.step
    monkeypatch.setattr(Optimizers, "step", lambda self, *given: (done.append(given), step(self, *given)))
    options = {"schedule": "onecycle", "lr_warmup": 0.5, "momentum": 0.9, "momentum_swing": 0.05, "epochs": 2}
    trained(optimizer="sgd", nesterov=False, **options)
    # Down to the peak of the rate half way, and up again: cosines of 0, 30, ... 150 degrees on either side.
    cosines = [1, math.sqrt(3) / 2, 0.5, 0, -0.5, -math.sqrt(3) / 2]
    assert [shift for _, shift in done] == pytest.approx([0.05 * c for c in (*cosines, -1, *cosines[:0:-1])])


def test_the_last_epoch_is_evaluated_in_float32() -> None:
    model, start = ready(precision="bf16", track_test=True)
    settings, dataset = settings_of(precision="bf16"), toy_dataset()
    first, *_, last = start()
    for name in ("val", "test"):
        exact = evaluate(model, dataset.splits[name], name, "cpu")
        assert {key: last.metrics[key] for key in exact} == exact
        rounded = evaluate(model, dataset.splits[name], name, "cpu", settings.precision)
        assert last.metrics[f"{name}/loss"] != rounded[f"{name}/loss"]
        assert f"{name}/loss" in first.metrics


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_learns_with_all_that_it_decides(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    narrow_resnet18(monkeypatch)
    dataset, options = toy_dataset(48), {"batch_size": 16, "image_size": 16, "cutout_size": 4}
    if RECIPES[name].values["model"] not in NETWORKS:
        options |= {"model": "fastnet", "weights": "none"}
    settings = TrainSettings.of(recipe=name, epochs=4, precision="fp32", device="cpu", threads=1, **options)
    mean, std = channel_statistics(dataset.splits["train"].images)
    model = build_model(settings, len(CLASSES), mean, std)
    machine = resolve_machine(settings)
    augmented = Augmentation(settings, 16, mean, "cpu", machine.memory_format)
    first, *_, last = fit(model, dataset, augmented, settings, machine)
    assert last.metrics["train/loss"] < first.metrics["train/loss"]
    assert ("test/loss" in last.metrics) == settings.track_test


@pytest.mark.slow
def test_the_bias_of_the_stem_learns_in_the_first_three_of_eight_epochs() -> None:
    model, start = ready(epochs=8)
    assert isinstance(model, FastNet)
    bias = model.stem.get_parameter("0.bias")
    history = [bias.detach().clone(), *(bias.detach().clone() for _ in start())]
    changed = [not torch.equal(a, b) for a, b in pairwise(history)]
    assert changed == [True] * 3 + [False] * 5


@pytest.mark.parametrize(
    ("images", "batch_size", "steps"),
    [(45000, 500, 90), (50000, 64, 782), (50000, 128, 391), (200, 500, 1), (100, 500, 1), (65, 16, 4), (68, 16, 5)],
)
def test_a_last_batch_of_less_than_a_quarter_is_left_out(images: int, batch_size: int, steps: int) -> None:
    assert steps_of(images, batch_size) == steps


@pytest.mark.parametrize(("n", "steps"), [(96, 6), (97, 6), (99, 6), (100, 7), (8, 1)])
def test_as_many_steps_are_done_as_are_told(n: int, steps: int) -> None:
    assert steps_of(n, 16) == steps
    done: list[int] = []
    _, start = ready(n, epochs=1)
    list(start(on_step=lambda: done.append(1)))
    assert len(done) == steps


def test_sides_have_equal_parts_of_all_steps() -> None:
    settings = TrainSettings.of(sides="16,24,32")
    shares = [side_share(settings, done, 9) for done in range(9)]
    assert shares == [0.5] * 3 + [0.75] * 3 + [1.0] * 3
    assert [side_share(settings, done, 2) for done in range(2)] == [0.5, 0.75]
    assert {side_share(TrainSettings.of(sides="none"), done, 5) for done in range(5)} == {1.0}


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_shrunk_images_are_means_and_keep_their_memory_format(memory_format: torch.memory_format) -> None:
    images = torch.rand(5, 3, 32, 32).contiguous(memory_format=memory_format)
    assert shrink(images, 1.0) is images
    smaller = shrink(images, 0.5)
    assert torch.allclose(smaller, images.unflatten(3, (16, 2)).unflatten(2, (16, 2)).mean((3, 5)), atol=1e-6)
    assert smaller.is_contiguous(memory_format=memory_format)
    assert shrink(images, 0.75).shape == (5, 3, 24, 24)


@pytest.mark.slow
@pytest.mark.parametrize(("scale", "contiguous"), [(1, "layer4"), (2, "layer4"), (3, "none")])
def test_the_last_kernels_of_a_resnet_are_laid_out_for_small_maps(
    scale: int, contiguous: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    narrow_resnet18(monkeypatch)
    dataset = toy_dataset(16)
    images = dataset.splits["train"].images.repeat(scale, axis=1).repeat(scale, axis=2)
    settings = settings_of(model="resnet18", epochs=1, channels_last="true", image_size=16 * scale, hflip=0)
    machine, mean = resolve_machine(settings), np.full(3, 0.5, np.float32)
    model = build_model(settings, len(CLASSES), mean, mean)
    augmented = Augmentation(settings, 16 * scale, mean, "cpu", machine.memory_format)
    splits = {"train": replace(dataset.splits["train"], images=images, masks=None)}
    list(fit(model, replace(dataset, splits=splits), augmented, settings, machine))
    for name, kernel in model.named_parameters():
        if kernel.shape[2:] == (3, 3):
            assert kernel.is_contiguous() == name.startswith(contiguous), name
            assert kernel.is_contiguous(memory_format=torch.channels_last) != name.startswith(contiguous), name


def test_images_are_never_shrunk_below_what_networks_take() -> None:
    assert shrink(torch.rand(2, 3, 16, 16), 0.25).shape == (2, 3, 8, 8)
    assert shrink(torch.rand(2, 3, 8, 8), 0.25).shape == (2, 3, 8, 8)


def test_the_network_sees_the_sides_in_turn() -> None:
    model, start = ready(epochs=2, sides="16,32")
    sides: list[int] = []
    model.register_forward_pre_hook(
        lambda module, inputs: sides.append(inputs[0].shape[-1]) if module.training else None
    )
    list(start())
    assert sides == [8] * 6 + [16] * 6


def test_test_images_are_looked_at_only_where_the_recipe_says_so() -> None:
    assert "test/accuracy" not in trained(epochs=1)[1][0].metrics
    assert "test/accuracy" in trained(epochs=1, track_test=True)[1][0].metrics


def test_a_lost_loss_stops_with_step_rate_and_the_way_out() -> None:
    with pytest.raises(TrainingDiverged, match=r"at step \d+ \(learning rate 100\); give a smaller lr"):
        trained(optimizer="sgd", lr=100, schedule="constant", momentum=0.99, weight_decay=1.0, epochs=60)


def penalised(weight: list[float], bias: float, **options: object) -> list[float]:
    """The gradients of weights and bias where the loss's own are 1."""
    model = nn.Linear(len(weight), 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([weight]))
        model.bias.fill_(bias)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    add_penalties(model, TrainSettings.of(**options))
    return [float(value) for p in model.parameters() if p.grad is not None for value in p.grad.flatten()]


def test_penalties_by_hand() -> None:
    weights = [2.0, -3.0], 6.0  # whose 2-norm is 7, of all together
    assert penalised(*weights) == [1, 1, 1]
    assert penalised(*weights, l1=0.1) == pytest.approx([1.1, 0.9, 1.1])
    assert penalised(*weights, l2_norm=0.7) == pytest.approx([1.2, 0.7, 1.6])
    assert penalised(*weights, l1=0.1, l2_norm=0.7) == pytest.approx([1.3, 0.6, 1.7])
    assert penalised([0.0, 0.0], 0.0, l1=0.1, l2_norm=0.7) == [1, 1, 1]


def test_penalties_have_the_gradients_of_the_same_in_the_loss() -> None:
    torch.manual_seed(0)
    expected, found = (nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2)) for _ in range(2))
    found.load_state_dict(expected.state_dict())
    images = torch.rand(5, 3, 4, 4)
    flat = torch.cat([parameter.flatten() for parameter in expected.parameters()])
    (expected(images).square().mean() + 0.01 * flat.abs().sum() + 0.1 * flat.norm()).backward()
    found(images).square().mean().backward()
    add_penalties(found, TrainSettings.of(l1=0.01, l2_norm=0.1))
    for theirs, ours in zip(expected.parameters(), found.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_what_is_not_trained_has_no_penalty_and_no_part_in_the_norm() -> None:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, -4.0]]))
        model.bias.fill_(12.0)
    model.bias.requires_grad_(False)
    model(torch.ones(1, 2)).sum().backward()
    add_penalties(model, TrainSettings.of(l1=0.1, l2_norm=0.5))
    assert model.bias.grad is None
    assert model.weight.grad is not None
    torch.testing.assert_close(model.weight.grad, torch.tensor([[1 + 0.1 + 0.3, 1 - 0.1 - 0.4]]))


def test_weight_decay_and_l2_norm_shrink_weights() -> None:
    def size(**options: object) -> float:
        model, _ = trained(epochs=1, label_smoothing=0.0, optimizer="sgd", **options)
        return sum(float(p.detach().norm()) for p in model.parameters() if p.ndim > 1)

    plain = size(weight_decay=0.0)
    assert size(weight_decay=0.1) < plain
    assert size(weight_decay=0.0, l2_norm=0.5) < plain


def test_a_device_that_is_not_there_is_named() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(SettingsError, match=r"device=cuda: not found on this machine; it has: .*cpu"):
        resolve_machine(TrainSettings.of(device="cuda"))


def test_machine_takes_what_is_given() -> None:
    machine = resolve_machine(TrainSettings.of(device="cpu", precision="bf16", channels_last="false", threads=1))
    assert (machine.device, machine.precision, machine.channels_last, machine.threads) == ("cpu", "bf16", False, 1)
    assert machine.memory_format == torch.contiguous_format

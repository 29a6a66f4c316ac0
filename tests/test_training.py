"""Training learns, repeats itself to the bit, and stops when the loss is lost."""

import numpy as np
import pytest
import torch
from torch import nn

from experiments import data
from experiments.augment import Augmentation
from experiments.config import SettingsError, TrainSettings
from experiments.training import EpochResult, TrainingDiverged, build_model, fit, penalty, resolve_machine
from tests.toys import CLASSES, toy_dataset


def trained(**options: object) -> tuple[nn.Module, list[EpochResult]]:
    settings = TrainSettings.of(
        **{
            "epochs": 3,
            "batch_size": 16,
            "lr": 0.05,
            "device": "cpu",
            "threads": 1,
            "precision": "fp32",
            "image_size": 16,
        }
        | options
    )
    dataset = toy_dataset()
    mean, std = data.channel_statistics(dataset.splits["train"].images)
    model = build_model(settings, len(CLASSES), mean, std)
    augmentation = Augmentation(settings, 16, mean)
    return model, list(fit(model, dataset, augmentation, settings, resolve_machine(settings)))


def learned(results: list[EpochResult]) -> list[dict[str, float]]:
    return [{k: v for k, v in result.metrics.items() if not k.endswith("_s")} for result in results]


def test_the_network_learns_the_toy() -> None:
    _, results = trained()
    assert [result.epoch for result in results] == [1, 2, 3]
    assert results[-1].metrics["val/accuracy"] > 0.9  # a third by chance


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


def test_test_images_are_looked_at_only_where_the_recipe_says_so() -> None:
    assert "test/accuracy" not in trained(epochs=1)[1][0].metrics
    assert "test/accuracy" in trained(epochs=1, track_test=True)[1][0].metrics


def test_a_lost_loss_stops_with_step_rate_and_the_way_out() -> None:
    with pytest.raises(TrainingDiverged, match=r"at step \d+ \(learning rate 100\); give a smaller lr"):
        trained(lr=100, schedule="constant", momentum=0.99, weight_decay=1.0, epochs=60)


def test_penalty_by_hand() -> None:
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, -4.0]]))
        model.bias.zero_()
    assert penalty(model, TrainSettings.of()) == 0.0
    with torch.no_grad():
        assert float(penalty(model, TrainSettings.of(l1=0.1))) == pytest.approx(0.7)  # 0.1 * (3 + 4)
        assert float(penalty(model, TrainSettings.of(l2_norm=0.1))) == pytest.approx(0.5)  # 0.1 * sqrt(9 + 16)


def test_weight_decay_and_l2_norm_shrink_weights() -> None:
    def size(**options: object) -> float:
        model, _ = trained(epochs=1, label_smoothing=0.0, **options)
        return sum(float(p.detach().norm()) for p in model.parameters() if p.ndim > 1)

    plain = size(weight_decay=0.0)
    assert size(weight_decay=0.1) < plain
    assert size(weight_decay=0.0, l2_norm=0.5) < plain


def test_a_device_that_is_not_there_is_named() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(SettingsError, match=r"device=cuda: not found on this machine; there is: .*cpu"):
        resolve_machine(TrainSettings.of(device="cuda"))


def test_machine_takes_what_is_given() -> None:
    machine = resolve_machine(TrainSettings.of(device="cpu", precision="bf16", channels_last="false", threads=1))
    assert (machine.device, machine.precision, machine.channels_last, machine.threads) == ("cpu", "bf16", False, 1)
    assert machine.memory_format == torch.contiguous_format

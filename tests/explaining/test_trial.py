"""The batch that `auto` chooses for large images: from the network and their size alone."""

from pathlib import Path

import pytest

from experiments.comparison.compare import on_the_same_images
from experiments.explaining import trial
from experiments.explaining.trial import STEP_BYTES, batch_that_fits
from experiments.runs.prepare import say_batch, suited
from experiments.settings.compare import CompareSettings
from experiments.settings.train import TrainSettings
from experiments.settings.trainings import plan
from experiments.system.progress import Reporter

NETS = """
from torch import nn

def net(classes, width=8):
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)
    )

def wide(classes):
    return net(classes, 32)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (path := tmp_path_factory.mktemp("own") / "nets_of_trial.py").write_text(NETS)
    return path.parent


@pytest.fixture
def nets(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def settings(**options: object) -> TrainSettings:
    return TrainSettings.of(**{"model": "nets_of_trial.py:net", "sides": "none", "image_size": 64} | options)


def test_what_autograd_keeps_is_counted(nets: None, monkeypatch: pytest.MonkeyPatch) -> None:
    image = 64 * 64 * 4 * (3 + 8)  # the normalised image, and the map after the ReLU, which two layers share
    for images, batch in ((33, 32), (32.01, 32), (31, 16), (1, 4), (1e6, 500)):
        monkeypatch.setattr(trial, "STEP_BYTES", int(images * (image + 200)))
        assert batch_that_fits(settings()) == batch


def test_a_published_network_gets_a_usual_batch() -> None:
    assert batch_that_fits(settings(model="torchvision:resnet18", image_size=224)) == 16
    assert STEP_BYTES == 512 << 20


def test_batches_given_by_hand_and_of_recipes_for_such_images_stay(nets: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "STEP_BYTES", 1)
    assert batch_that_fits(settings(batch_size=500)) == 500
    assert batch_that_fits(settings(image_size=32)) == 500
    assert batch_that_fits(settings(recipe="scratch_224", image_size=224)) == 256
    assert batch_that_fits(settings(recipe="finetune", weights="none", image_size=224)) == 32
    assert batch_that_fits(settings(recipe="finetune", weights="none", image_size=256)) == 4


class Lines(Reporter):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def test_the_choice_is_said_and_stays(nets: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "STEP_BYTES", 64 << 20)
    heard = Lines()
    chosen = suited(settings())
    say_batch(chosen, heard)
    told = "batch_size=256, chosen for images of 64 pixels; the 500 of recipe fast are for 32 pixels"
    assert heard.lines == [told]
    say_batch(settings(batch_size=64), heard)
    assert heard.lines == [told]
    assert suited(chosen) == chosen
    assert chosen.given == settings().given


def test_all_variants_and_seeds_of_a_comparison_get_one_batch(nets: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "STEP_BYTES", 64 << 20)
    given = {"image_size": 64, "sides": "none", "seeds": 2, "nesterov": "false", "optimizer": "sgd"}
    variants = (
        "a: model=nets_of_trial.py:net; b: model=nets_of_trial.py:wide; c: model=nets_of_trial.py:net batch_size=300"
    )
    chosen = on_the_same_images(plan(CompareSettings.of(**given, variants=variants)))
    assert [each.settings.batch_size for each in chosen] == [64] * 4 + [300] * 2
    assert [suited(each.settings).batch_size for each in chosen] == [64] * 4 + [300] * 2

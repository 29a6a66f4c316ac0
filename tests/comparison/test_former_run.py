"""A run that version 0.1 made, when all networks were in one module: its model loads, and it can still be compared.

`toys/former_run.zip` is the store of one training of a small FastNet on the toy data set, without its pictures. Of the
code that was logged with the model it has the networks alone.
"""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from experiments.comparison.compare import compare_finished
from experiments.data.dataset import Dataset
from experiments.models.fastnet import FastNet
from experiments.runs.prepare import prepare
from experiments.runs.train import train
from experiments.settings.compare import CompareSettings
from experiments.settings.train import TrainSettings
from experiments.system.progress import Reporter
from experiments.tracking.reading import FinishedRun, finished_training
from experiments.tracking.store import prepare_store, relocate
from experiments.training.predictions import predict, predictions_of
from tests.toys.networks import toy_dataset

STORE = Path(__file__).parents[1] / "toys" / "former_run.zip"
RUN = "827c30"


@pytest.fixture
def former(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FinishedRun:
    """The run, in a project folder that has moved."""
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(STORE) as archive:
        archive.extractall(tmp_path)
    relocate(tmp_path)
    prepare_store(tmp_path)
    return finished_training(RUN)


def test_its_model_loads_and_says_what_it_said(former: FinishedRun) -> None:
    model, test = former.load_model(), toy_dataset().splits["test"]
    assert type(model) is FastNet
    before = predictions_of(former.read_table("predictions.parquet"), toy_dataset().classes)
    now = predict(model, test.images, test.labels, "cpu")
    np.testing.assert_allclose(now.probabilities, before.probabilities, atol=1e-5)
    assert now.accuracy == former.metrics["test/accuracy"] == 0.9


@pytest.mark.slow
def test_it_is_compared_with_a_run_of_today(former: FinishedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def load_toys(settings: TrainSettings, reporter: Reporter) -> Dataset:
        return toy_dataset()

    monkeypatch.setattr("experiments.comparison.selection.load_dataset", load_toys)
    given = former.read_json("config.json")["given"]
    own = {name: text for name, text in given.items() if not name.startswith("cutout")}
    today = train(prepare(TrainSettings.of(**own), dataset=toy_dataset()), Reporter())
    found = compare_finished(CompareSettings.of(runs=f"plain={today.id} cutout={former.id}", quiet="true"))
    assert found.variants == ("plain", "cutout")
    assert found.last_layers == ("layer3", "layer3")
    accuracy = found.runs.set_index("variant")["test/accuracy"]
    assert accuracy["cutout"] == 0.9
    assert accuracy["plain"] == today.metrics["test/accuracy"]

"""Experiments, runs and users may have any name: it comes back as it was."""

from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from experiments.tracking.lifetime import open_run
from experiments.tracking.reading import finished_run
from experiments.tracking.records import DatasetUse, KeyedPicture, Tag, Text
from experiments.tracking.store import prepare_store

NAMES = (r"$x$ \frac{ a_b^c", "100 % <b>&amp;", "'\"`", "😀猫שלום", "a\nb\x07", "x" * 300, "Cat", "cat")


def test_any_name_comes_back(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", name)
        monkeypatch.setenv("LOGNAME", name)
        prepare_store()
        with open_run(kind="train", name=name) as run:
            picture = KeyedPicture("gradcam/a", np.zeros((8, 8, 3), np.uint8), 0)
            run.log([Tag("note", name), Text("a.txt", name), DatasetUse(name, "d" * 64, name, {"train": 1}), picture])
        found = finished_run(run.id)
        assert (found.name, found.tags["note"], found.read_text("a.txt")) == (name, name, name)
        assert found.tags["mlflow.user"] == name
        assert MlflowClient().get_experiment(found.experiment_id).name == name
    assert len({experiment.name for experiment in MlflowClient().search_experiments()}) == len(NAMES) + 1
